"""Reading of models that ``save`` wrote, and what may be wrong with their files."""

import io
import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from textwrap import shorten
from typing import Any, TypeVar, cast

from stable_baselines3.common.save_util import json_to_data, open_path

from mnm_rl._version import __version__
from mnm_rl.algorithms import earlier
from mnm_rl.algorithms.checks import OtherSpacesError, check_same_spaces

ModelT = TypeVar("ModelT")
File = str | Path | io.BufferedIOBase


def load(read: Callable[..., ModelT], path: File, env: Any, device: Any, **kwargs: Any) -> ModelT:
    """Load a model that ``save`` wrote.

    Args:
        read: Stable-Baselines3's ``load`` of the algorithm.
        path: the file.
        env: a ``VecEnv`` for further training, or None.
        device: ``"cpu"``, ``"cuda"`` or ``"auto"``.
        kwargs: the other arguments of ``read``.

    Raises:
        FileNotFoundError: if the file does not exist.
        OtherSpacesError: if the model's spaces differ from those of ``env``; a ValueError.
        ValueError: if the file is not a model that this version of the library can read.
    """
    if isinstance(path, str | Path) and Path(path).is_dir():
        raise ValueError(f"{path} is a directory: what export wrote is read by from_pretrained")
    saved: dict[str, Any] = {}
    try:
        saved = _saved_attributes(path)
        if (library := _other_library(saved)) is not None:
            raise ValueError(
                f"{library} saved it, whose networks have other parts: load it there, or "
                "train a model here, where arguments "
                "and policies of the same names mean the same"
            )
        if env is not None:
            both = json.dumps({name: saved[name] for name in ("observation_space", "action_space")})
            check_same_spaces(env, **json_to_data(both, kwargs.get("custom_objects")))
        if "mnm_rl_version" in saved:
            model = read(path, env, device, **kwargs)
        else:
            model = earlier.load(read, path, env, device, **kwargs)
        policy: Any = model.policy  # type: ignore[attr-defined]
        for name, tensor in policy.state_dict().items():
            if not tensor.isfinite().all():
                raise ValueError(f"{name} of the policy is NaN or infinite")
        return model
    except OtherSpacesError:
        raise
    except Exception as error:  # a damaged pickle may raise anything
        if isinstance(error, OSError) and error.filename is not None:
            raise  # there is no such file, or it must not be read
        reason = shorten(str(error), 300) or type(error).__name__
        version = saved.get("mnm_rl_version", "0.1.0, or another library")
        told = not saved or version == __version__ or _other_library(saved) is not None
        by = "" if told else f" (saved by version {version})"
        raise ValueError(
            f"{path} is not a model that mnm_rl {__version__} can load: {reason}{by}"
        ) from error


def _saved_attributes(path: File) -> dict[str, Any]:
    """The attributes in a file that ``save`` wrote, as JSON: pickles are text, and stay closed."""
    file = open_path(path, "r", suffix="zip")
    try:
        with zipfile.ZipFile(file) as archive:
            if "data" not in archive.namelist():
                raise ValueError("there is no data of a model in it")
            return cast(dict[str, Any], json.loads(archive.read("data")))
    finally:
        if isinstance(path, str | Path):
            file.close()


def _other_library(saved: dict[str, Any]) -> str | None:
    """Which of the libraries whose files look like ours has saved these attributes, or None if that
    was this one."""
    policy_class = saved.get("policy_class")
    library = (
        str(policy_class.get("__module__")).split(".")[0]
        if isinstance(policy_class, dict)
        else None
    )
    return library if library in ("stable_baselines3", "sb3_contrib") else None

"""Models as weights and a description, for exchange.

Reading a model executes no code from its files, whoever wrote them. A directory holds
``model.safetensors`` and ``config.json``. The first has the parameters of the policy. The second
has the policy, its arguments, the arguments of the algorithm, and the spaces. Classes are written
as names, and are read from a list of PyTorch's and Stable-Baselines3's classes. The name of a
policy identifies the policy (:data:`mnm_rl.algorithms.policies.POLICIES`).
"""

import inspect
import json
import math
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any, Literal, Self, cast

import numpy as np
import torch
from gymnasium import spaces
from gymnasium.vector import VectorEnv
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.torch import load_model, save_model
from stable_baselines3.common import torch_layers
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.sb2_compat import rmsprop_tf_like
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from stable_baselines3.common.type_aliases import GymEnv
from stable_baselines3.common.utils import LinearSchedule
from stable_baselines3.common.vec_env import unwrap_vec_normalize

from mnm_rl import cores
from mnm_rl._version import __version__
from mnm_rl.algorithms.checks import check_same_spaces, check_spaces, made, unchecked_distributions
from mnm_rl.algorithms.copies import state_of_copy, state_to_copy
from mnm_rl.algorithms.earlier import policy_kwargs_of
from mnm_rl.algorithms.onnx import export_onnx
from mnm_rl.algorithms.policies import RecurrentActorCriticPolicy
from mnm_rl.cores.implementations import log_once
from mnm_rl.trained import find_model

FORMAT = 1

_CLASSES: dict[str, type[Any]] = {
    f"{prefix}.{name}": value
    for prefix, module, base in (
        ("torch.nn", torch.nn, torch.nn.Module),
        ("torch.optim", torch.optim, torch.optim.Optimizer),
        ("stable_baselines3", torch_layers, BaseFeaturesExtractor),
        ("stable_baselines3", rmsprop_tf_like, torch.optim.Optimizer),
        ("mnm_rl", cores, cores.RecurrentCore),
    )
    for name, value in vars(module).items()
    if inspect.isclass(value) and issubclass(value, base)
}
_NAMES = {value: name for name, value in reversed(_CLASSES.items())}
_TAGS = ({"class"}, {"float"}, {"linear_schedule"})
"""The keys of what stands for a value that JSON does not have: a class, an infinity or NaN, and a
learning rate that falls."""

# The arguments of every algorithm that an export writes apart, or that are not the model's but the
# machine's or the session's.
_NOT_OF_THE_MODEL = {
    *(
        "self",
        "policy",
        "env",
        "policy_kwargs",
        "stats_window_size",
        "tensorboard_log",
        "verbose",
        "device",
        "_init_setup_model",
    )
}


_LARGE = 2**22
"""Numbers that are little memory, whatever the weights are: those of an image of 2048 x 2048, or 16
MB of weights."""


class ExportableAlgorithm(OnPolicyAlgorithm):
    """An algorithm whose models can be exchanged as weights and a description.

    A subclass has every hyperparameter as an argument of its constructor, and stores it as an
    attribute of the same name.
    """

    def __init__(
        self,
        policy: Any,
        env: GymEnv | str | None,
        *,
        device: torch.device | str = "auto",
        **arguments: Any,
    ) -> None:
        super().__init__(policy, made(env, arguments.get("verbose", 0)), device=device, **arguments)
        if device == "auto" and self.device.type != "cpu":
            _announce_gpu(str(self.device), aloud=self.verbose >= 1)

    @classmethod
    def hyperparameters(cls) -> list[str]:
        """Return the names of the constructor arguments that define the model.

        All arguments count, except those that say where and how the model runs.
        """
        names: list[str] = []
        for base in cls.__mro__[: cls.__mro__.index(ExportableAlgorithm)]:
            if "__init__" not in vars(base):
                continue
            parameters = inspect.signature(vars(base)["__init__"]).parameters.values()
            names += [
                parameter.name
                for parameter in parameters
                if parameter.kind is not parameter.VAR_KEYWORD
            ]
            if all(parameter.kind is not parameter.VAR_KEYWORD for parameter in parameters):
                break  # what a constructor passes on as **kwargs are its base class's arguments
        return [name for name in names if name not in _NOT_OF_THE_MODEL]

    def __getstate__(self) -> dict[str, Any]:
        return state_to_copy(vars(self))

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state_of_copy(state))
        self._vec_normalize_env = unwrap_vec_normalize(self.env) if self.env is not None else None

    def export(
        self, path: str | Path, format: Literal["safetensors", "onnx"] = "safetensors"
    ) -> None:
        """Write the policy for use elsewhere, without the optimizer's state.

        ``"safetensors"`` is the format for :meth:`from_pretrained`: the parameters and a
        description of the model. The format contains no code. Arguments that JSON cannot hold (a
        learning rate schedule, your own features extractor or core) are named in the file. Pass
        them again to :meth:`from_pretrained`.

        ``"onnx"`` is the format for ONNX Runtime: one step of B environments, without PyTorch and
        without this library. The inputs are

        - ``observation [B, ...]``, as in the policy's observation space. A Dict space has one input
          ``observation_KEY`` per key, and images have channels first.
        - ``episode_start [B]`` bool.
        - the state, ``state_NAME [B, ...]``. At the start of an episode, any numbers are valid.

        The outputs are

        - ``action [B, ...]``, the most likely action, within the bounds of a Box.
        - ``logits`` of all choices side by side, or the ``action_mean`` of a Gaussian.
        - the new state, in the order of the inputs.

        Args:
            path: a directory for ``config.json`` and ``model.safetensors``, created if missing; or
                the file of the ONNX model.
            format: ``"safetensors"`` or ``"onnx"``.

        Raises:
            ValueError: if the format is unknown, or, except for ONNX, if the policy is not one of
                ``policy_aliases``.
            ImportError: if the format is ONNX and the packages of the extra ``onnx`` are missing.
        """
        if format == "onnx":
            export_onnx(cast(RecurrentActorCriticPolicy, self.policy), path)
            return
        if format != "safetensors":
            raise ValueError(f"format must be 'safetensors' or 'onnx', got {format!r}")
        directory = Path(path)
        aliases = {policy: alias for alias, policy in self.policy_aliases.items()}
        if self.policy_class not in aliases:
            raise ValueError(
                f"only the policies {', '.join(self.policy_aliases)} can be exported; save() "
                f"keeps {self.policy_class.__name__}"
            )
        policy_kwargs, not_kept = _describable(self.policy_kwargs)
        # What a model does not keep, such as the choice of an optimizer, is in its policy_kwargs.
        kept = {name: getattr(self, name) for name in self.hyperparameters() if hasattr(self, name)}
        algorithm, not_kept_either = _describable(kept)
        config = {
            "format": FORMAT,
            "mnm_rl": __version__,
            "algorithm_class": type(self).__name__,
            "policy": aliases[self.policy_class],
            "policy_kwargs": policy_kwargs,
            "algorithm": algorithm,
            "not_kept": not_kept + not_kept_either,
            "observation_space": _describe_space(self.observation_space),
            "action_space": _describe_space(self.action_space),
            "num_timesteps": self.num_timesteps,
        }
        directory.mkdir(parents=True, exist_ok=True)
        (directory / "config.json").write_text(json.dumps(config, indent=2, allow_nan=False) + "\n")
        save_model(self.policy, str(directory / "model.safetensors"))

    @classmethod
    def from_pretrained(
        cls,
        directory: str | Path,
        env: GymEnv | VectorEnv[Any, Any, Any] | str | None = None,
        **arguments: Any,
    ) -> Self:
        """Read a model that :meth:`export` wrote.

        No code from the files runs, so files from strangers are safe. Nothing is built before the
        shapes in the description match those of the weights. The time and memory for reading
        therefore depend only on the size of the files.

        Args:
            directory: the directory given to :meth:`export`, or the name of a model that comes with
                the package, such as ``"mnm/Maze-v0:mnm-p"``
                (:func:`mnm_rl.trained.trained_models`).
            env: environments for further training, with the same spaces.
            arguments: constructor arguments that replace those of the model. ``policy_kwargs`` are
                added to the model's.

        Raises:
            FileNotFoundError: if one of the files is missing, or no model has this name.
            OtherSpacesError: if the model's spaces differ from those of ``env``; a ValueError.
            ValueError: if the files cannot be read, are of another version or algorithm, or lack an
                argument that was not passed again.
        """
        directory = find_model(directory)
        if not (directory / "config.json").is_file():
            raise FileNotFoundError(
                f"{directory} holds no exported model: there is no config.json in it"
            )
        shapes = _shapes(directory / "model.safetensors")
        n_weights = sum(map(math.prod, shapes.values()))
        unreadable = (
            ValueError,
            TypeError,
            KeyError,
            AttributeError,
            AssertionError,
            RecursionError,
            OverflowError,
        )
        try:
            config = json.loads((directory / "config.json").read_text())
            if not isinstance(config, dict) or "format" not in config:
                raise ValueError("it does not say its format")
            if config["format"] != FORMAT:
                raise ValueError(
                    f"it is of format {config['format']!r}, written by mnm_rl "
                    f"{config.get('mnm_rl')}; "
                    f"this is mnm_rl {__version__}, which reads format {FORMAT}"
                )
            # the only one in version 0.1.0, which did not say
            exporter = str(config.get("algorithm_class", "RecurrentA2C"))
            if exporter not in (base.__name__ for base in cls.__mro__):
                raise ValueError(
                    f"it was exported by {exporter}, not {cls.__name__}; read it with "
                    f"{exporter}.from_pretrained"
                )
            policy = str(config["policy"])
            if not isinstance(config["not_kept"], list):
                raise ValueError(f"not_kept must be a list of names, got {config['not_kept']!r}")
            not_kept = {str(name) for name in config["not_kept"]}
            own = {
                name: f"{name} ({config['policy_kwargs'][name]['class']})"
                for name in not_kept & config["policy_kwargs"].keys()
            }
            # Stable-Baselines3's
            policy_kwargs: dict[str, Any] = {"optimizer_class": torch.optim.Adam}
            policy_kwargs |= {
                key: _read(value)
                for key, value in config["policy_kwargs"].items()
                if key not in own
            }
            algorithm = {key: _read(value) for key, value in config["algorithm"].items()}
            if not issubclass(
                policy_kwargs.get("optimizer_class", torch.optim.Adam), torch.optim.Optimizer
            ):
                raise ValueError(f"{policy_kwargs['optimizer_class'].__name__} is no optimizer")
            _check_counts(policy_kwargs, len(shapes), n_weights)
            _check_counts(policy_kwargs.get("core_kwargs") or {}, len(shapes), n_weights)
            most = max(_LARGE, n_weights)
            observation_space, action_space = (
                _read_space(config[key], most) for key in ("observation_space", "action_space")
            )
            num_timesteps = int(config["num_timesteps"])
            if policy not in cls.policy_aliases or (
                unknown := algorithm.keys() - set(cls.hyperparameters())
            ):
                what = (
                    repr(policy) if policy not in cls.policy_aliases else ", ".join(sorted(unknown))
                )
                raise ValueError(f"mnm_rl {__version__} does not know {what}")
        except unreadable as error:
            message = f"it has no {error}" if isinstance(error, KeyError) else error
            raise ValueError(f"{directory / 'config.json'} cannot be read: {message}") from error

        given = arguments.pop("policy_kwargs", None) or {}
        if missing := not_kept - given.keys() - arguments.keys():
            names = ", ".join(own.get(name, name) for name in sorted(missing))
            raise ValueError(
                f"{names} of the exported model could not be described without code; give them "
                "again"
            )
        if env is not None:
            env = cls._wrap_env(made(env))
            check_same_spaces(env, observation_space, action_space)
        try:
            check_spaces(observation_space, action_space)
            written_by = str(config.get("mnm_rl"))
            policy_kwargs = policy_kwargs_of(
                written_by, cls.policy_aliases[policy], policy_kwargs | given
            )
            arguments = algorithm | arguments | {"policy_kwargs": policy_kwargs}
            model = cls(policy, cast(Any, env), **arguments, _init_setup_model=False)
            if env is None:
                model.observation_space, model.action_space, model.n_envs = (
                    observation_space,
                    action_space,
                    1,
                )
            wanted = _wanted_shapes(model, may_fail=bool(not_kept))
            if (misfit := _misfit(shapes, wanted)) is not None:
                raise _DoesNotFit(
                    f"{directory / 'model.safetensors'} does not fit config.json or is damaged: "
                    f"{misfit}"
                )
            model._setup_model()
        except _DoesNotFit:
            raise
        except (*unreadable, RuntimeError, MemoryError) as error:
            raise ValueError(
                f"{directory / 'config.json'} describes a model that cannot be built: {error}"
            ) from error
        model.num_timesteps = num_timesteps
        try:
            load_model(model.policy, directory / "model.safetensors")
        except (SafetensorError, RuntimeError, MemoryError) as error:
            raise ValueError(
                f"{directory / 'model.safetensors'} does not fit config.json or is damaged: {error}"
            ) from error
        if not torch.isfinite(torch.nn.utils.parameters_to_vector(model.policy.parameters())).all():
            raise ValueError(
                f"{directory / 'model.safetensors'} holds weights that are NaN or infinite"
            )
        return model


@cache
def _announce_gpu(device: str, aloud: bool) -> None:
    """Say, once a process, what the choice of a GPU may cost: the user has not made it."""
    message = (
        f"device='auto' has picked {device}: small recurrent models with few environments are "
        "faster on the CPU, "
        "some of them ten times; set device='cpu' to use it"
    )
    log_once(message)
    if aloud:
        print(message)


class _DoesNotFit(ValueError):
    """The weights are of other shapes than the model that the description is of."""


def _shapes(path: Path) -> dict[str, tuple[int, ...]]:
    """The shapes in the header of a safetensors file: the length of a JSON text in 8 bytes, the
    text, and then the numbers.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is something else.
    """
    if not path.exists():
        raise FileNotFoundError(f"{path.parent} holds no weights: there is no {path.name} in it")
    if not path.is_file():
        raise ValueError(f"{path} is not a file")
    try:
        with open(path, "rb") as file:
            length = int.from_bytes(file.read(8), "little")
            if length > path.stat().st_size - 8:
                raise ValueError("its header is longer than the file")
            header = json.loads(file.read(length))
        shapes = {
            name: tuple(map(int, part["shape"]))
            for name, part in header.items()
            if name != "__metadata__"
        }
        if any(n < 0 for shape in shapes.values() for n in shape):
            raise ValueError("it has a shape with a negative number")
        if sum(map(math.prod, shapes.values())) > path.stat().st_size:
            raise ValueError("it is shorter than its header says")
    except (
        ValueError,
        TypeError,
        KeyError,
        AttributeError,
        RecursionError,
        OverflowError,
    ) as error:
        raise ValueError(f"{path} does not fit config.json or is damaged: {error}") from error
    return shapes


def _check_counts(arguments: dict[str, Any], n_tensors: int, n_weights: int) -> None:
    """Check the arguments that say how often something is done while a policy is built.

    Raises:
        ValueError: if the weights are too few for that.
    """
    for name, most in {
        "core_layers": n_tensors,
        "n_lstm_layers": n_tensors,
        "memory_layers": n_tensors,
        "heads": n_weights,
    }.items():
        count = arguments.get(name)
        if isinstance(count, int) and count > most:
            raise ValueError(
                f"{name} {count:,} does not fit the weights: {n_weights:,} numbers in {n_tensors} "
                "tensors"
            )


def _wanted_shapes(model: ExportableAlgorithm, may_fail: bool) -> dict[str, tuple[int, ...]]:
    """The shapes of a policy's parameters and buffers, found without memory for them; without those
    that are another's as well. Classes of the user, which may fail without memory, give none."""
    arguments = {**model.policy_kwargs, "optimizer_class": torch.optim.SGD, "optimizer_kwargs": {}}
    try:
        with without_numbers():
            policy = model.policy_class(
                model.observation_space,
                model.action_space,
                lambda _: 0.0,
                use_sde=model.use_sde,
                **arguments,
            )
    except Exception:
        if may_fail:
            return {}
        raise
    unique = {
        id(tensor): name for name, tensor in reversed(policy.state_dict(keep_vars=True).items())
    }
    return {
        name: tuple(tensor.shape)
        for name, tensor in policy.state_dict().items()
        if name in unique.values()
    }


@contextmanager
def without_numbers() -> Iterator[None]:
    """Tensors made here have shapes, but neither memory nor numbers, and nothing that is random
    outside is drawn."""
    with unchecked_distributions(), torch.device("meta"), torch.random.fork_rng(devices=[]):
        yield


def _misfit(shapes: dict[str, tuple[int, ...]], wanted: dict[str, tuple[int, ...]]) -> str | None:
    """What in the wanted shapes is not in the file, None if all is; what is small may be missing,
    as in older versions."""
    for name, shape in wanted.items():
        if name in shapes and shapes[name] != shape:
            return f"{name} should be {list(shape)}, and is {list(shapes[name])}"
        if name not in shapes and math.prod(shape) > _LARGE:
            return f"there is no {name}, which should be {list(shape)}"
    return None


def _describable(values: dict[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """The values that JSON can hold, classes as names; and the names of those that have to be given
    again, such as own classes."""
    described, others = {}, []
    for name, value in values.items():
        try:
            described[name] = _describe(value)
        except TypeError:
            others.append(name)
            if isinstance(value, type):
                described[name] = {"class": f"{value.__module__}.{value.__qualname__}"}
    return described, others


def _describe(value: Any) -> Any:
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return {"float": str(value)}
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if (
        isinstance(value, dict)
        and all(isinstance(key, str) for key in value)
        and value.keys() not in _TAGS
    ):
        return {key: _describe(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [_describe(part) for part in value]
    if isinstance(value, type) and value in _NAMES:
        return {"class": _NAMES[value]}
    if type(value) is LinearSchedule:
        return {"linear_schedule": _describe([value.start, value.end, value.end_fraction])}
    raise TypeError


def _read(value: Any) -> Any:
    if isinstance(value, dict):
        if value.keys() == {"class"}:
            if value["class"] not in _CLASSES:
                raise ValueError(f"there is no class {value['class']!r}")
            return _CLASSES[value["class"]]
        if value.keys() == {"float"}:
            return float(value["float"])
        if value.keys() == {"linear_schedule"}:
            start, end, end_fraction = (float(_read(number)) for number in value["linear_schedule"])
            return LinearSchedule(start, end, end_fraction)
        return {key: _read(part) for key, part in value.items()}
    return [_read(part) for part in value] if isinstance(value, list) else value


def _describe_space(space: spaces.Space[Any]) -> dict[str, Any]:
    if isinstance(space, spaces.Dict):
        return {
            "kind": "Dict",
            "spaces": {key: _describe_space(part) for key, part in space.spaces.items()},
        }
    if isinstance(space, spaces.Box):
        low, high = _describe_bound(space.low), _describe_bound(space.high)
        return {
            "kind": "Box",
            "shape": list(space.shape),
            "dtype": str(space.dtype),
            "low": low,
            "high": high,
        }
    if isinstance(space, spaces.Discrete):
        return {"kind": "Discrete", "n": int(space.n)} | _describe_dtype(space)
    if isinstance(space, spaces.MultiDiscrete):
        of_each = {"nvec": space.nvec.tolist(), "start": space.start.tolist()}
        return {"kind": "MultiDiscrete"} | of_each | _describe_dtype(space)
    assert isinstance(space, spaces.MultiBinary)
    return {
        "kind": "MultiBinary",
        "n": space.n if isinstance(space.n, int) else [int(n) for n in space.n],
    }


def _describe_dtype(space: spaces.Space[Any]) -> dict[str, str]:
    """The type of the numbers, where it is not the usual one; older versions of Gymnasium have no
    other for Discrete."""
    return {} if space.dtype == np.int64 else {"dtype": str(space.dtype)}


def _describe_bound(bound: NDArray[Any]) -> Any:
    """One number where all are the same; infinities, which JSON does not have, as text."""
    numbers = [x if np.isfinite(x) else str(x) for x in bound.ravel().tolist()]
    return numbers[0] if len(set(numbers)) == 1 else numbers


def _read_space(space: dict[str, Any], most: int) -> spaces.Space[Any]:
    """A space of at most so many numbers."""
    if space["kind"] == "Dict":
        # a dict would be sorted
        return spaces.Dict(
            [(key, _read_space(part, most)) for key, part in space["spaces"].items()]
        )
    if space["kind"] in ("Box", "MultiBinary"):
        n = math.prod(np.atleast_1d(space["shape" if space["kind"] == "Box" else "n"]).tolist())
        if not 0 <= n <= most:
            raise ValueError(f"a space of {n:,} numbers does not fit the weights")
    dtype = np.dtype(space.get("dtype", np.int64))
    if dtype.kind not in "biuf":
        raise ValueError(f"a space of {dtype} is not one of numbers")
    of_type = {"dtype": dtype.type} if "dtype" in space else {}
    if space["kind"] == "Box":
        shape = tuple(space["shape"])
        low, high = (
            np.array(space[bound], dtype=object).astype(dtype) for bound in ("low", "high")
        )
        low, high = (
            np.full(shape, bound) if bound.ndim == 0 else bound.reshape(shape)
            for bound in (low, high)
        )
        return spaces.Box(low, high, shape, dtype.type)
    if space["kind"] == "Discrete":
        return spaces.Discrete(space["n"], **of_type)
    if space["kind"] == "MultiDiscrete":
        return spaces.MultiDiscrete(
            np.array(space["nvec"]), start=np.array(space["start"]), **of_type
        )
    if space["kind"] == "MultiBinary":
        return spaces.MultiBinary(space["n"])
    raise ValueError(f"there is no space {space['kind']!r}")

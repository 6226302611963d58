"""Models as weights and a description, for exchange.

Reading a model executes no code from its files, whoever wrote them. A directory holds
``model.safetensors`` and ``config.json``. The first has the parameters of the policy. The second
has the policy, its arguments, the arguments of the algorithm, and the spaces. Classes are written
as names, and are read from a list of PyTorch's and Stable-Baselines3's classes. The name of a
policy identifies the policy (:data:`mnm_rl.algorithms.recurrent_policy.POLICIES`).
"""

import inspect
import json
import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple, TypeVar, cast

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

from mnm_rl import cores
from mnm_rl._version import __version__
from mnm_rl.algorithms.checks import check_same_spaces, check_spaces, made, unchecked_distributions
from mnm_rl.algorithms.earlier import policy_kwargs_of
from mnm_rl.algorithms.popart import PopArt
from mnm_rl.trained import find_model

ModelT = TypeVar("ModelT", bound=OnPolicyAlgorithm)

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


def hyperparameters(algorithm_class: type[OnPolicyAlgorithm]) -> list[str]:
    """Return the names of the constructor arguments that define a model of this class.

    All arguments count, except those that say where and how the model runs.
    """
    names: list[str] = []
    mro = algorithm_class.__mro__
    for base in mro[: mro.index(OnPolicyAlgorithm)]:
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


def export_weights(model: OnPolicyAlgorithm, path: str | Path) -> None:
    """Write the parameters of a policy and a description of the model.

    Args:
        model: the model.
        path: a directory for ``config.json`` and ``model.safetensors``, created if missing.

    Raises:
        ValueError: if the policy is not one of ``policy_aliases``.
    """
    directory = Path(path)
    aliases = {policy: alias for alias, policy in model.policy_aliases.items()}
    if model.policy_class not in aliases:
        raise ValueError(
            f"only the policies {', '.join(model.policy_aliases)} can be exported; save() "
            f"keeps {model.policy_class.__name__}"
        )
    policy_kwargs, not_kept = _describable(model.policy_kwargs)
    # What a model does not keep, such as the choice of an optimizer, is in its policy_kwargs.
    kept = {
        name: getattr(model, name) for name in hyperparameters(type(model)) if hasattr(model, name)
    }
    algorithm, not_kept_either = _describable(kept)
    config = {
        "format": FORMAT,
        "mnm_rl": __version__,
        "algorithm_class": type(model).__name__,
        "policy": aliases[model.policy_class],
        "policy_kwargs": policy_kwargs,
        "algorithm": algorithm,
        "not_kept": not_kept + not_kept_either,
        "observation_space": _describe_space(model.observation_space),
        "action_space": _describe_space(model.action_space),
        "num_timesteps": model.num_timesteps,
    }
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "config.json").write_text(json.dumps(config, indent=2, allow_nan=False) + "\n")
    save_model(model.policy, str(directory / "model.safetensors"))


class _Description(NamedTuple):
    """What ``config.json`` holds."""

    policy: str
    policy_kwargs: dict[str, Any]
    algorithm: dict[str, Any]
    """Arguments of the algorithm."""
    missing: dict[str, str]
    """The arguments that could not be described, by name, with their classes for messages."""
    observation_space: spaces.Space[Any]
    action_space: spaces.Space[Any]
    num_timesteps: int
    mnm_rl: str
    """The version that wrote it."""


_UNREADABLE = (
    ValueError,
    TypeError,
    KeyError,
    AttributeError,
    AssertionError,
    RecursionError,
    OverflowError,
)
"""What a description of nonsense may raise."""


def read_weights(
    algorithm_class: type[ModelT],
    directory: str | Path,
    env: GymEnv | VectorEnv[Any, Any, Any] | str | None,
    **arguments: Any,
) -> ModelT:
    """Read a model that :func:`export_weights` wrote.

    Arguments and errors are those of ``from_pretrained``.
    """
    directory = find_model(directory)
    config, weights = directory / "config.json", directory / "model.safetensors"
    if not config.is_file():
        raise FileNotFoundError(
            f"{directory} holds no exported model: there is no config.json in it"
        )
    shapes = _shapes(weights)
    try:
        described = _read_description(json.loads(config.read_text()), algorithm_class, shapes)
    except _UNREADABLE as error:
        message = f"it has no {error}" if isinstance(error, KeyError) else error
        raise ValueError(f"{config} cannot be read: {message}") from error
    given = arguments.pop("policy_kwargs", None) or {}
    if missing := described.missing.keys() - given.keys() - arguments.keys():
        names = ", ".join(described.missing[name] for name in sorted(missing))
        raise ValueError(
            f"{names} of the exported model could not be described without code; give them again"
        )
    spaces_of_model = described.observation_space, described.action_space
    if env is not None:
        env = algorithm_class._wrap_env(made(env))
        check_same_spaces(env, *spaces_of_model)
    try:
        check_spaces(*spaces_of_model)
        policy_kwargs = policy_kwargs_of(
            described.mnm_rl,
            algorithm_class.policy_aliases[described.policy],
            described.policy_kwargs | given,
        )
        arguments = described.algorithm | arguments | {"policy_kwargs": policy_kwargs}
        model = algorithm_class(
            described.policy, cast(Any, env), **arguments, _init_setup_model=False
        )
        if env is None:
            model.observation_space, model.action_space = spaces_of_model
            model.n_envs = 1
        wanted = _wanted_shapes(model, may_fail=bool(described.missing))
        if (misfit := _misfit(shapes, wanted)) is not None:
            raise _DoesNotFit(f"{weights} does not fit config.json or is damaged: {misfit}")
        model._setup_model()
    except _DoesNotFit:
        raise
    except (*_UNREADABLE, RuntimeError, MemoryError) as error:
        raise ValueError(f"{config} describes a model that cannot be built: {error}") from error
    model.num_timesteps = described.num_timesteps
    try:
        _load_weights(model.policy, weights)
    except (SafetensorError, RuntimeError, MemoryError) as error:
        raise ValueError(f"{weights} does not fit config.json or is damaged: {error}") from error
    if not torch.isfinite(torch.nn.utils.parameters_to_vector(model.policy.parameters())).all():
        raise ValueError(f"{weights} holds weights that are NaN or infinite")
    return model


def _read_description(
    config: Any, algorithm_class: type[OnPolicyAlgorithm], shapes: dict[str, tuple[int, ...]]
) -> _Description:
    """Read the contents of ``config.json``.

    Raises:
        Exception: one of those in ``_UNREADABLE``, if they describe no model of this class with
            weights of these shapes.
    """
    if not isinstance(config, dict) or "format" not in config:
        raise ValueError("it does not say its format")
    if config["format"] != FORMAT:
        raise ValueError(
            f"it is of format {config['format']!r}, written by mnm_rl {config.get('mnm_rl')}; "
            f"this is mnm_rl {__version__}, which reads format {FORMAT}"
        )
    # the only one in version 0.1.0, which did not say
    exporter = str(config.get("algorithm_class", "RecurrentA2C"))
    if exporter not in (base.__name__ for base in algorithm_class.__mro__):
        raise ValueError(
            f"it was exported by {exporter}, not {algorithm_class.__name__}; read it with "
            f"{exporter}.from_pretrained"
        )
    policy = str(config["policy"])
    if not isinstance(config["not_kept"], list):
        raise ValueError(f"not_kept must be a list of names, got {config['not_kept']!r}")
    missing = {str(name): str(name) for name in config["not_kept"]}
    for name in missing.keys() & config["policy_kwargs"].keys():
        missing[name] = f"{name} ({config['policy_kwargs'][name]['class']})"
    # Stable-Baselines3's
    policy_kwargs: dict[str, Any] = {"optimizer_class": torch.optim.Adam}
    policy_kwargs |= {
        key: _read(value) for key, value in config["policy_kwargs"].items() if key not in missing
    }
    algorithm = {key: _read(value) for key, value in config["algorithm"].items()}
    if not issubclass(policy_kwargs["optimizer_class"], torch.optim.Optimizer):
        raise ValueError(f"{policy_kwargs['optimizer_class'].__name__} is no optimizer")
    n_weights = sum(map(math.prod, shapes.values()))
    _check_counts(policy_kwargs, len(shapes), n_weights)
    _check_counts(policy_kwargs.get("core_kwargs") or {}, len(shapes), n_weights)
    most = max(_LARGE, n_weights)
    observation_space, action_space = (
        _read_space(config[key], most) for key in ("observation_space", "action_space")
    )
    num_timesteps = int(config["num_timesteps"])
    unknown = algorithm.keys() - set(hyperparameters(algorithm_class))
    if policy not in algorithm_class.policy_aliases or unknown:
        known = policy in algorithm_class.policy_aliases
        what = ", ".join(sorted(unknown)) if known else repr(policy)
        raise ValueError(f"mnm_rl {__version__} does not know {what}")
    return _Description(
        policy,
        policy_kwargs,
        algorithm,
        missing,
        observation_space,
        action_space,
        num_timesteps,
        str(config.get("mnm_rl")),
    )


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


def _wanted_shapes(model: OnPolicyAlgorithm, may_fail: bool) -> dict[str, tuple[int, ...]]:
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


def _load_weights(policy: torch.nn.Module, file: Path) -> None:
    missing, unexpected = map(set, load_model(policy, file, strict=False))
    of_popart = {name for name in missing if name.startswith("popart.")}
    if of_popart == {f"popart.{name}" for name in PopArt().state_dict()}:
        # Weights of version 0.1.0 have no statistics: theirs are those of a new model.
        missing -= of_popart
    if missing or unexpected:
        raise RuntimeError(f"missing or unexpected: {', '.join(sorted(missing | unexpected))}")

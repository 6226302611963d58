"""Copies and pickles of a model: with its environments where these can be pickled, and without what
is this process's alone."""

import inspect
import io
from typing import Any

import cloudpickle  # type: ignore[import-untyped]
from stable_baselines3.common.vec_env import VecEnv, VecEnvWrapper

from mnm_rl.cores.implementations import log_once


def state_to_copy(attributes: dict[str, Any]) -> dict[str, Any]:
    """The attributes of a model for a copy: all but the logger, whose files have one writer;
    ``learn`` makes another."""
    own = {
        "_custom_logger": False,
        "env": _Environments(attributes["env"]),
        "_vec_normalize_env": None,
    }
    return {name: value for name, value in attributes.items() if name != "_logger"} | own


def state_of_copy(state: dict[str, Any]) -> dict[str, Any]:
    """The attributes of a copy, from what became of those that :func:`state_to_copy` gave."""
    return state | {"env": state["env"].env}


class _Environments:
    """Environments, or None where they cannot be pickled, such as processes and windows; a copy of
    it says so once.

    They are pickled by cloudpickle, whatever the rest is pickled by: many are made by nameless
    functions.
    """

    def __init__(self, env: VecEnv | None) -> None:
        self.env = env

    def __reduce__(self) -> tuple[Any, ...]:
        file = io.BytesIO()
        try:
            _Pickler(file).dump(self.env)
        except Exception as error:  # an environment may raise anything
            reason = f"they cannot be pickled ({error})"
            log_once(f"a copy of the model has no environments, until set_env: {reason}")
            return _Environments, (None,)
        return _read_environments, (file.getvalue(),)


def _read_environments(pickled: bytes) -> _Environments:
    return _Environments(cloudpickle.loads(pickled))


class _Pickler(cloudpickle.Pickler):  # type: ignore[misc]
    """Takes Stable-Baselines3's wrappers, too: they hold parts of their class that no pickle takes,
    and VecNormalize would leave out what it is around."""

    def reducer_override(self, obj: Any) -> Any:
        if isinstance(obj, VecEnvWrapper):
            parts = {name: part for name, part in vars(obj).items() if name != "class_attributes"}
            return _read_wrapper, (type(obj), parts)
        return super().reducer_override(obj)


def _read_wrapper(kind: type[VecEnvWrapper], state: dict[str, Any]) -> VecEnvWrapper:
    wrapper = kind.__new__(kind)
    vars(wrapper).update(state, class_attributes=dict(inspect.getmembers(kind)))
    return wrapper

"""Gymnasium vector environments as Stable-Baselines3 ``VecEnv``s."""

import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from multiprocessing import connection
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv, VectorEnv
from numpy.typing import NDArray
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import VecEnv
from stable_baselines3.common.vec_env.base_vec_env import VecEnvIndices, VecEnvObs, VecEnvStepReturn

from mnm_rl.gymnasium_vector import (
    arrays,
    at,
    autoreset_mode,
    columns,
    finite,
    layers,
    split,
    takes_masks_unseen,
)
from mnm_rl.masks import KEY, METHOD, choices

_NO_FINAL_OBS = (
    "cuts episodes short and begins new ones in the same step, but gives no infos['final_obs']; "
    "the value of what would have followed is taken to be 0"
)
_NO_FIRST_MASK = (
    f"gives infos[{KEY!r}] in step and not in reset: what it forbids is not heeded; give masks in "
    "reset, too"
)


class GymnasiumVecEnv(VecEnv):
    """Run any ``gymnasium.vector.VectorEnv`` under a Stable-Baselines3 algorithm.

    Stable-Baselines3 resets an environment in the step that ends its episode, and passes the final
    observation in ``info["terminal_observation"]``. This class converts every autoreset mode of
    Gymnasium to that form:

    - *same step*: unmodified.
    - *disabled*: finished environments are reset at once, with ``reset(options={"reset_mask":
      ...})``.
    - *next step*: the same for ``SyncVectorEnv`` and ``AsyncVectorEnv``, if no wrapper observes the
      reset. A wrapper with its own ``step`` or ``reset``, such as ``NormalizeReward``, would
      observe the reset, and other environments may not support masks. In these cases, the
      environment resets in its next step. This step becomes the last one of the episode, with
      reward 0 and an action that has no effect.

    There is nothing to learn from such a resetting step. ``info["reset_step"]`` and ``resets`` mark
    this step, and ``info["reset_follows"]`` and ``ended`` mark the previous step, in which the
    episode ended. Its observation has zeros for NaN and infinities, if it was not truncated. The
    algorithms of this library end the episode there, and exclude the resetting step from their
    losses. Other algorithms discount the value of the final observation of a truncated episode once
    too often.

    ``info["episode"]`` holds the return ``r`` and the length ``l`` of a finished episode, as with
    Stable-Baselines3's ``Monitor``, and its duration ``t`` in seconds. Existing
    statistics from ``RecordEpisodeStatistics`` are kept. ``info["TimeLimit.truncated"]``
    tells whether the episode was truncated.

    The method ``action_masks`` returns the action masks (:mod:`mnm_rl.masks`), as
    Stable-Baselines3's algorithms expect. The masks come from the ``info`` of the environment, from
    ``reset`` on. They may also come from a method ``action_masks`` of the vector environment or of
    a vector wrapper, for all environments at once, ``[num_envs, width]``.

    Args:
        env: the vector environment, with or without wrappers.

    Attributes:
        resets: which environments only reset in the last step, ``[num_envs]`` bool.

    Raises:
        TypeError: if ``env`` is not a ``gymnasium.vector.VectorEnv``.
        ValueError: if the metadata does not name the autoreset mode. Also from ``step``, if there
            is not one reward and flag per environment, or ``infos`` cannot be split by environment.
    """

    def __init__(self, env: VectorEnv[Any, Any, Any]) -> None:
        if not isinstance(env, VectorEnv):
            raise TypeError(
                "env must be a gymnasium.vector.VectorEnv, such as gymnasium.make_vec gives; got "
                f"{type(env).__name__}"
            )
        self.env = env
        mode = autoreset_mode(env)
        self._same_step = mode is AutoresetMode.SAME_STEP
        self._in_own_way = mode is AutoresetMode.NEXT_STEP and not takes_masks_unseen(env)
        self._actions: Any = None
        self._tensors = False  # whether it speaks in tensors
        n = env.num_envs
        self._returns, self._lengths, self._started = (
            np.zeros(n),
            np.zeros(n, int),
            np.full(n, time.perf_counter()),
        )
        # the infos of episodes whose resetting step is still to come
        self._ending: dict[int, dict[str, Any]] = {}
        self.resets = np.zeros(n, bool)
        self._masks: list[Any] | None = None  # None where an environment does not say
        super().__init__(n, env.single_observation_space, env.single_action_space)

    def reset(self) -> VecEnvObs:
        options = self._options[0] or None
        if any(other != self._options[0] for other in self._options):
            raise ValueError(
                "a Gymnasium vector environment takes one set of reset options for all its "
                "environments"
            )
        observations, infos = self.env.reset(seed=self._seeds[0], options=options)
        self._tensors = isinstance(observations, torch.Tensor)
        self.reset_infos = split(infos, self.num_envs)
        self._returns[:], self._lengths[:], self._started[:] = 0, 0, time.perf_counter()
        self._ending.clear()
        self.resets[:] = False
        masks = [info.get(KEY) for info in self.reset_infos]
        if self._masks is not None or any(mask is not None for mask in masks):
            self._masks = masks
        self._reset_seeds()
        self._reset_options()
        return arrays(observations)  # type: ignore[no-any-return]

    def step_async(self, actions: NDArray[Any]) -> None:
        # a copy: wrappers may change actions in place
        self._actions = self._spoken(np.array(actions))

    def step_wait(self) -> VecEnvStepReturn:
        given, rewards, terminations, truncations, given_infos = self.env.step(self._actions)
        observations, infos = arrays(given), split(given_infos, self.num_envs)
        given_masks = None if self._masks is None else [info.get(KEY) for info in infos]
        if given_masks is None and KEY in infos[0] and not self.has_attr(METHOD):
            warnings.warn(f"{self.env} {_NO_FIRST_MASK}", stacklevel=2)
        rewards, terminations, truncations = columns(self.env, rewards, terminations, truncations)
        dones: NDArray[np.bool_] = terminations | truncations
        done: list[int] = dones.nonzero()[0].tolist()

        resetting, self._ending = self._ending, {}
        self.resets = resets = np.zeros(self.num_envs, bool)
        for i, info in resetting.items():
            resets[i], rewards[i], self.reset_infos[i], infos[i] = True, 0, infos[i], info
        self._returns += rewards
        self._lengths += 1
        if resetting:
            self._forget(resets)

        finals = (
            self._finals(infos, done)
            if self._same_step and done
            else [arrays(at(observations, i)) for i in done]
        )
        for i, final in zip(done, finals, strict=True):
            seconds = round(time.perf_counter() - self._started[i], 6)
            infos[i].setdefault(
                "episode", {"r": float(self._returns[i]), "l": int(self._lengths[i]), "t": seconds}
            )
            infos[i]["TimeLimit.truncated"] = bool(truncations[i] and not terminations[i])
            if final is not None:
                infos[i]["terminal_observation"] = final
            elif infos[i]["TimeLimit.truncated"]:
                warnings.warn(f"{self.env} {_NO_FINAL_OBS}", stacklevel=2)
        if self._in_own_way:
            for i in done:
                if given_masks is not None:
                    given_masks[i] = None  # the next action does nothing
                marks = {
                    "reset_follows": True,
                    "TimeLimit.truncated": infos[i]["TimeLimit.truncated"],
                }
                self._ending[i], infos[i] = infos[i] | {"reset_step": True}, marks
            if gone := [i for i in done if terminations[i]]:
                observations = finite(observations, gone)  # the policy sees them, for nothing
            dones = resets
        elif done:
            if not self._same_step:
                given, given_infos = self.env.reset(
                    options=_ResetMask(reset_mask=self._spoken(dones.copy()))
                )
                observations, reset_infos = arrays(given), split(given_infos, self.num_envs)
                for i in done:
                    self.reset_infos[i] = reset_infos[i]
            self._forget(dones)
        if self._masks is not None:
            assert given_masks is not None
            self._masks = [
                self.reset_infos[i].get(KEY) if done else mask
                for i, (done, mask) in enumerate(zip(dones, given_masks, strict=True))
            ]
        with np.errstate(over="ignore"):
            return observations, rewards.astype(np.float32), dones, infos

    def _finals(self, infos: list[dict[str, Any]], done: list[int]) -> list[Any]:
        """Same-step mode: return the final observations of the finished episodes, None if missing.

        The infos of these episodes stay in ``infos``. Those of the new episodes go to
        ``reset_infos``.
        """
        finals = [info.pop("final_obs", None) for info in infos]
        final_infos = [info.pop("final_info", None) for info in infos]
        for i in done:
            self.reset_infos[i], ended = infos[i], final_infos[i]
            if ended is None:
                infos[i] = dict(infos[i])  # it does not say which episode it is of
            else:
                infos[i] = ended | {
                    key: infos[i].pop(key) for key in ["episode"] if key in infos[i]
                }
        return [None if finals[i] is None else arrays(finals[i]) for i in done]

    def _spoken(self, array: NDArray[Any]) -> Any:
        """Convert an array to the type of the observations of the environment."""
        return torch.as_tensor(array) if self._tensors else array

    def _forget(self, mask: NDArray[np.bool_]) -> None:
        self._returns[mask], self._lengths[mask], self._started[mask] = 0, 0, time.perf_counter()

    @property
    def ended(self) -> list[int]:
        """The environments whose episode ended in the last step, and that reset in the next."""
        return list(self._ending)

    def close(self) -> None:
        self.env.close()

    def get_images(self) -> Sequence[NDArray[np.uint8] | None]:
        return self.env.render() or [None] * self.num_envs  # type: ignore[return-value]

    def has_attr(self, attr_name: str) -> bool:
        if attr_name == METHOD and (self._masks is not None or self._masks_of_all() is not None):
            return True
        if isinstance(self.env.unwrapped, AsyncVectorEnv) and attr_name == METHOD:
            return False  # to ask would end the processes of environments that have none
        return super().has_attr(attr_name)

    def get_attr(self, attr_name: str, indices: VecEnvIndices = None) -> list[Any]:
        base = self.env.unwrapped
        if isinstance(base, SyncVectorEnv | AsyncVectorEnv) and attr_name != "render_mode":
            values = list(base.get_attr(attr_name))
        else:
            values = [getattr(base, attr_name)] * self.num_envs
        return [values[i] for i in self._get_indices(indices)]

    def set_attr(self, attr_name: str, value: Any, indices: VecEnvIndices = None) -> None:
        base = self.env.unwrapped
        if not isinstance(base, SyncVectorEnv | AsyncVectorEnv):
            if indices is not None:
                raise ValueError(
                    f"{type(base).__name__} holds all environments in one: set {attr_name!r} for "
                    "all, with indices=None"
                )
            setattr(base, attr_name, value)
            return
        values = list(base.get_attr(attr_name)) if indices is not None else [value] * self.num_envs
        for i in self._get_indices(indices):
            values[i] = value
        base.set_attr(attr_name, values)

    def env_method(
        self,
        method_name: str,
        *method_args: Any,
        indices: VecEnvIndices = None,
        **method_kwargs: Any,
    ) -> list[Any]:
        base, chosen = self.env.unwrapped, list(self._get_indices(indices))
        if method_name == METHOD and self._masks is not None:
            everything = np.ones(choices(self.action_space).sum(), bool)
            return [everything if self._masks[i] is None else self._masks[i] for i in chosen]
        if method_name == METHOD and (of_all := self._masks_of_all()) is not None:
            masks = of_all(*method_args, **method_kwargs)
            if (
                not isinstance(masks, np.ndarray | torch.Tensor | list | tuple)
                or len(masks) != self.num_envs
            ):
                raise ValueError(
                    f"{METHOD} of {self.env} must give a mask for each of its {self.num_envs} "
                    "environments"
                )
            return [masks[i] for i in chosen]
        if isinstance(base, SyncVectorEnv):
            return [
                base.envs[i].get_wrapper_attr(method_name)(*method_args, **method_kwargs)
                for i in chosen
            ]
        if chosen != list(range(self.num_envs)):
            raise ValueError(
                f"{type(base).__name__} can only call {method_name!r} for all environments, with "
                "indices=None"
            )
        if isinstance(base, AsyncVectorEnv):
            return list(base.call(method_name, *method_args, **method_kwargs))
        return [getattr(base, method_name)(*method_args, **method_kwargs)] * self.num_envs

    def _masks_of_all(self) -> Callable[..., Any] | None:
        """Return the method ``action_masks`` for all environments at once, None if there is none.

        The method belongs to the vector environment or to the outermost wrapper that has one.
        """
        owners = (
            layer
            for layer in layers(self.env)
            if METHOD in vars(layer) or hasattr(type(layer), METHOD)
        )
        return getattr(next(owners, None), METHOD, None)

    def env_is_wrapped(
        self, wrapper_class: type[gym.Wrapper[Any, Any, Any, Any]], indices: VecEnvIndices = None
    ) -> list[bool]:
        base = self.env.unwrapped
        envs: Sequence[Any] = (
            base.envs if isinstance(base, SyncVectorEnv) else [None] * self.num_envs
        )
        # info["episode"] is that of Stable-Baselines3's Monitor, whose functions ask for it
        return [
            wrapper_class is Monitor or _is_wrapped(envs[i], wrapper_class)
            for i in self._get_indices(indices)
        ]


class _ResetMask(dict[str, Any]):
    """Reset options with a mask that survives a pop, although the dict itself becomes empty.

    ``SyncVectorEnv`` pops the mask and passes the rest to the environments. Wrappers around it look
    for the mask afterwards.
    """

    def __init__(self, reset_mask: Any) -> None:
        super().__init__(reset_mask=reset_mask)
        self.mask = reset_mask

    def __contains__(self, key: object) -> bool:
        return key == "reset_mask"

    def __getitem__(self, key: str) -> Any:
        return self.mask

    def pop(self, key: str, *default: Any) -> Any:
        self.clear()
        return self.mask


def _is_wrapped(env: Any, wrapper_class: type[gym.Wrapper[Any, Any, Any, Any]]) -> bool:
    while isinstance(env, gym.Wrapper):
        if isinstance(env, wrapper_class):
            return True
        env = env.env
    return False


@contextmanager
def failures_named(env: VecEnv | None, when: str, note: bool = True) -> Iterator[None]:
    """Report the end of an environment's process, or its call of ``sys.exit``, in words.

    Other errors of the environment pass through, with a note on their origin. ``when`` is a phrase
    such as ``at step 100``.

    Raises:
        RuntimeError: if a process ended or an environment exited.
    """
    try:
        yield
    except Exception as error:
        inner = env.env.unwrapped if isinstance(env, GymnasiumVecEnv) else env
        processes = getattr(inner, "processes", [])  # of a SubprocVecEnv or an AsyncVectorEnv
        lost = isinstance(error, EOFError | BrokenPipeError | ConnectionResetError)
        if lost and connection.wait([process.sentinel for process in processes], timeout=1):
            raise RuntimeError(
                f"the process of an environment ended {when}; what it printed before may say why"
            ) from error
        if note:
            error.add_note(f"raised by an environment {when}")
        raise
    except SystemExit as error:
        raise RuntimeError(f"an environment called sys.exit({error.code!r}) {when}") from error

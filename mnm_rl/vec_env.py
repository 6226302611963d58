"""Gymnasium vector environments as Stable-Baselines3 ``VecEnv``s."""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from copy import deepcopy
from multiprocessing import connection
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv, VectorEnv
from numpy.typing import NDArray
from stable_baselines3.common.vec_env import VecEnv
from stable_baselines3.common.vec_env.base_vec_env import VecEnvIndices, VecEnvObs, VecEnvStepReturn


class GymnasiumVecEnv(VecEnv):
    """Run any ``gymnasium.vector.VectorEnv`` under a Stable-Baselines3 algorithm.

    Stable-Baselines3 resets an environment in the step that ends its episode and passes the final observation on in
    ``info["terminal_observation"]``. Every autoreset mode of Gymnasium is brought to that form:

    - *same step*: as it is.
    - *disabled*, and *next step* for ``SyncVectorEnv`` and ``AsyncVectorEnv``: finished environments are reset at once,
      with ``reset(options={"reset_mask": ...})``. No step is wasted.
    - *next step* for other vector environments, which can only be reset by one more step: that step becomes the last of
      the episode, with reward 0 and an action that does nothing. For episodes that terminate this changes no return. Where
      an episode is truncated, the value of its final observation is discounted once more than it should be, and a recurrent
      policy sees that observation twice.

    ``info["episode"]`` holds the return ``r`` and the length ``l`` of an episode that ended, as with Stable-Baselines3's
    ``Monitor``, and the seconds ``t`` that it took; statistics from ``RecordEpisodeStatistics`` are kept where there are any.
    ``info["TimeLimit.truncated"]`` tells whether it was cut short.

    Args:
        env: the vector environment, wrapped or not.

    Raises:
        TypeError: if ``env`` is not a ``gymnasium.vector.VectorEnv``.
        ValueError: if it does not say what its autoreset mode is in a way that Gymnasium knows.
    """

    def __init__(self, env: VectorEnv[Any, Any, Any]) -> None:
        if not isinstance(env, VectorEnv):
            raise TypeError(f"env must be a gymnasium.vector.VectorEnv, such as gymnasium.make_vec gives; got {type(env).__name__}")
        self.env = env
        mode = env.metadata.get("autoreset_mode", AutoresetMode.NEXT_STEP)
        if not isinstance(mode, AutoresetMode):
            raise ValueError(f"metadata['autoreset_mode'] of {env} must be a gymnasium.vector.AutoresetMode, got {mode!r}")
        resets_by_mask = mode is AutoresetMode.DISABLED or isinstance(env.unwrapped, SyncVectorEnv | AsyncVectorEnv)
        self._same_step = mode is AutoresetMode.SAME_STEP
        self._mask_reset = not self._same_step and resets_by_mask
        self._actions: Any = None
        n = env.num_envs
        self._returns, self._lengths, self._started = np.zeros(n), np.zeros(n, int), np.full(n, time.perf_counter())
        # For next-step environments without masked resets: episodes whose last, empty step is still to come.
        self._ending: dict[int, dict[str, Any]] = {}
        super().__init__(n, env.single_observation_space, env.single_action_space)

    def reset(self) -> VecEnvObs:
        options = self._options[0] or None
        if any(other != self._options[0] for other in self._options):
            raise ValueError("a Gymnasium vector environment takes one set of reset options for all its environments")
        observations, infos = self.env.reset(seed=self._seeds[0], options=options)
        self.reset_infos = self._split(infos)
        self._returns[:], self._lengths[:], self._started[:] = 0, 0, time.perf_counter()
        self._ending.clear()
        self._reset_seeds()
        self._reset_options()
        return deepcopy(observations)  # type: ignore[no-any-return]

    def step_async(self, actions: NDArray[Any]) -> None:
        self._actions = actions

    def step_wait(self) -> VecEnvStepReturn:
        observations, rewards, terminations, truncations, vector_infos = self.env.step(self._actions)
        dones: NDArray[np.bool_] = terminations | truncations
        infos = self._split(vector_infos)
        self._returns += rewards
        self._lengths += 1

        if self._ending:
            ended = np.zeros(self.num_envs, bool)
            for i, info in self._ending.items():
                ended[i] = True
                self.reset_infos[i], infos[i] = infos[i], info
            self._forget(ended)
            self._ending = {}
        else:
            ended = np.zeros_like(dones)

        if dones.any():
            done: list[int] = np.flatnonzero(dones).tolist()
            final = self._final_infos(vector_infos, infos, done) if self._same_step else [infos[i] for i in done]
            final_obs = vector_infos["final_obs"][done] if self._same_step else [_at(observations, i) for i in done]
            for i, info, last in zip(done, final, final_obs, strict=True):
                seconds = round(time.perf_counter() - self._started[i], 6)
                info.setdefault("episode", {"r": float(self._returns[i]), "l": int(self._lengths[i]), "t": seconds})
                info["terminal_observation"] = last
                info["TimeLimit.truncated"] = bool(truncations[i] and not terminations[i])
                infos[i] = info
            if self._same_step:
                self._forget(dones)
            elif self._mask_reset:
                observations, reset_infos = self.env.reset(options=_ResetMask(dones))
                for i, info in zip(done, np.array(self._split(reset_infos), dtype=object)[done], strict=True):
                    self.reset_infos[i] = info
                self._forget(dones)
            else:
                for i in done:
                    self._ending[i], infos[i] = infos[i], {}
        if not self._same_step and not self._mask_reset:
            dones = ended
        with np.errstate(over="ignore"):
            return deepcopy(observations), np.array(rewards, dtype=np.float32), dones, infos

    def _final_infos(self, vector_infos: dict[str, Any], infos: list[dict[str, Any]], done: list[int]) -> list[dict[str, Any]]:
        """Same-step mode: the infos of the episodes that ended; those of the new episodes go to ``reset_infos``."""
        final = self._split(vector_infos.get("final_info", {}))
        for i in done:
            infos[i].pop("final_obs", None)
            infos[i].pop("final_info", None)
            if "episode" in infos[i]:
                final[i]["episode"] = infos[i].pop("episode")
            self.reset_infos[i] = infos[i]
        return [final[i] for i in done]

    def _forget(self, mask: NDArray[np.bool_]) -> None:
        self._returns[mask], self._lengths[mask], self._started[mask] = 0, 0, time.perf_counter()

    def _split(self, infos: dict[str, Any]) -> list[dict[str, Any]]:
        """One info per environment, from Gymnasium's arrays and masks."""
        split: list[dict[str, Any]] = [{} for _ in range(self.num_envs)]
        for key, values in infos.items():
            if key.startswith("_"):
                continue
            mask = infos.get(f"_{key}", np.ones(self.num_envs, bool))
            columns = self._split(values) if isinstance(values, dict) else values
            for i in np.flatnonzero(mask).tolist():
                split[i][key] = columns[i]
        return split

    def close(self) -> None:
        self.env.close()

    def get_images(self) -> Sequence[NDArray[np.uint8] | None]:
        return self.env.render() or [None] * self.num_envs  # type: ignore[return-value]

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
                    f"{type(base).__name__} holds all environments in one: set {attr_name!r} for all, with indices=None"
                )
            setattr(base, attr_name, value)
            return
        values = list(base.get_attr(attr_name)) if indices is not None else [value] * self.num_envs
        for i in self._get_indices(indices):
            values[i] = value
        base.set_attr(attr_name, values)

    def env_method(self, method_name: str, *method_args: Any, indices: VecEnvIndices = None, **method_kwargs: Any) -> list[Any]:
        base, chosen = self.env.unwrapped, list(self._get_indices(indices))
        if isinstance(base, SyncVectorEnv):
            return [base.envs[i].get_wrapper_attr(method_name)(*method_args, **method_kwargs) for i in chosen]
        if chosen != list(range(self.num_envs)):
            raise ValueError(f"{type(base).__name__} can only call {method_name!r} for all environments, with indices=None")
        if isinstance(base, AsyncVectorEnv):
            return list(base.call(method_name, *method_args, **method_kwargs))
        return [getattr(base, method_name)(*method_args, **method_kwargs)] * self.num_envs

    def env_is_wrapped(self, wrapper_class: type[gym.Wrapper[Any, Any, Any, Any]], indices: VecEnvIndices = None) -> list[bool]:
        base = self.env.unwrapped
        envs: Sequence[Any] = base.envs if isinstance(base, SyncVectorEnv) else [None] * self.num_envs
        return [_is_wrapped(envs[i], wrapper_class) for i in self._get_indices(indices)]


class _ResetMask(dict[str, Any]):
    """Reset options that hold a mask, however often it is popped, and are otherwise empty.

    ``SyncVectorEnv`` pops the mask and hands the rest to the environments; wrappers around it look for the mask afterwards.
    """

    def __init__(self, mask: NDArray[np.bool_]) -> None:
        super().__init__()
        self.mask = mask

    def __contains__(self, key: object) -> bool:
        return key == "reset_mask"

    def __getitem__(self, key: str) -> Any:
        return self.mask.copy()

    def pop(self, key: str, *default: Any) -> Any:
        return self.mask.copy()


def _is_wrapped(env: Any, wrapper_class: type[gym.Wrapper[Any, Any, Any, Any]]) -> bool:
    while isinstance(env, gym.Wrapper):
        if isinstance(env, wrapper_class):
            return True
        env = env.env
    return False


def _at(observations: Any, i: int) -> Any:
    """The observation of one environment, copied: vector environments may use the batch again."""
    if isinstance(observations, dict):
        return {key: _at(value, i) for key, value in observations.items()}
    return np.array(observations[i])


@contextmanager
def failures_named(env: VecEnv | None, when: str, note: bool = True) -> Iterator[None]:
    """Say in words that an environment's process has ended, or that it called ``sys.exit``; its other errors are passed on, with a
    note where they come from. ``when`` is in words, such as ``at step 100``.

    Raises:
        RuntimeError: for an end or an exit.
    """
    try:
        yield
    except Exception as error:
        inner = env.env.unwrapped if isinstance(env, GymnasiumVecEnv) else env
        processes = getattr(inner, "processes", [])  # of a SubprocVecEnv or an AsyncVectorEnv
        lost = isinstance(error, EOFError | BrokenPipeError | ConnectionResetError)
        if lost and connection.wait([process.sentinel for process in processes], timeout=1):
            raise RuntimeError(f"the process of an environment ended {when}; what it printed before may say why") from error
        if note:
            error.add_note(f"raised by an environment {when}")
        raise
    except SystemExit as error:
        raise RuntimeError(f"an environment called sys.exit({error.code!r}) {when}") from error

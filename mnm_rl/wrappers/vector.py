"""Wrappers for vector environments, with the names of those in :mod:`mnm_rl.wrappers`."""

from typing import TYPE_CHECKING, Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, VectorEnv, VectorWrapper
from gymnasium.vector.utils import batch_space
from numpy.typing import NDArray

from mnm_rl.gymnasium_vector import arrays, autoreset_mode, columns, indifferent, split
from mnm_rl.wrappers import encode_actions, meta_observation, meta_space

if TYPE_CHECKING:
    _Wrapper = VectorWrapper[dict[str, Any], Any, Any, Any, Any]
else:
    _Wrapper = VectorWrapper  # takes no types in Gymnasium 1.1


@indifferent
class MetaObservation(_Wrapper, gym.utils.RecordConstructorArgs):
    """Add the previous action and reward, the episode start and the time to the observations.

    This is :class:`mnm_rl.wrappers.MetaObservation` for vector environments. The new entries, the
    arguments and the errors are the same, and every array is batched, ``[N, ...]``. All autoreset
    modes are supported, including the final observations of same-step resets.

    Raises:
        ValueError: also if ``metadata["autoreset_mode"]`` is missing. Without the mode, the start
            of an episode is unknown.

    Example:
        >>> import gymnasium as gym
        >>> from mnm_rl.wrappers.vector import MetaObservation
        >>> envs = MetaObservation(
        ...     gym.make_vec("CartPole-v1", num_envs=3, vectorization_mode="sync")
        ... )
        >>> observations, infos = envs.reset(seed=0)
        >>> observations["previous_action"].shape, observations["episode_start"].ravel()
        ((3, 2), array([1., 1., 1.], dtype=float32))
    """

    def __init__(self, env: VectorEnv[Any, Any, Any], horizon: int | None = None) -> None:
        gym.utils.RecordConstructorArgs.__init__(self, horizon=horizon)
        VectorWrapper.__init__(self, env)
        self._mode = autoreset_mode(env)
        self.horizon = horizon
        self.single_observation_space = meta_space(
            env.single_observation_space, env.single_action_space, horizon
        )
        self.observation_space = batch_space(self.single_observation_space, self.num_envs)
        self._over = np.zeros(self.num_envs, bool)
        self._t = np.zeros(self.num_envs, int)
        self._actions = np.zeros(
            (self.num_envs, spaces.flatdim(env.single_action_space)), np.float32
        )
        self._rewards = np.zeros(self.num_envs)

    def reset(
        self, *, seed: int | list[int | None] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        everywhere = np.ones(self.num_envs, bool)
        mask = (
            arrays(options["reset_mask"])
            if options is not None and "reset_mask" in options
            else everywhere
        )
        observations, infos = self.env.reset(seed=seed, options=options)  # type: ignore[arg-type]  # lists are taken, too
        self._start(mask)
        return self._with(observations, slice(None)), infos

    def step(self, actions: Any) -> tuple[dict[str, Any], Any, Any, Any, dict[str, Any]]:
        observations, rewards, terminations, truncations, infos = self.env.step(actions)
        self._t += 1
        self._actions = encode_actions(self.env.single_action_space, np.asarray(actions))
        self._rewards, terminated, truncated = columns(self.env, rewards, terminations, truncations)
        done = terminated | truncated
        if self._mode is AutoresetMode.SAME_STEP:
            infos = self._with_finals(infos, done)
            self._start(done)
        elif self._mode is AutoresetMode.NEXT_STEP:
            self._start(self._over)
            self._over = done
        return self._with(observations, slice(None)), rewards, terminations, truncations, infos

    def _with_finals(self, infos: Any, done: NDArray[np.bool_]) -> Any:
        """Extend the final observations in the infos."""
        finals = np.full(self.num_envs, None, dtype=object)
        given = split(infos, self.num_envs) if done.any() else []
        for i in np.flatnonzero(done).tolist():
            if given[i].get("final_obs") is not None:
                finals[i] = self._with(arrays(given[i]["final_obs"]), i)
        if isinstance(infos, list):
            return [
                info | {"final_obs": final} if final is not None else info
                for info, final in zip(infos, finals, strict=True)
            ]
        return {**infos, "final_obs": finals} if "final_obs" in infos else infos

    def _start(self, mask: NDArray[np.bool_]) -> None:
        self._t[mask], self._actions[mask], self._rewards[mask], self._over[mask] = 0, 0, 0, False

    def _with(self, observations: Any, index: Any) -> dict[str, Any]:
        return meta_observation(
            observations,
            self._actions[index].copy(),
            self._rewards[index, np.newaxis],
            self._t[index, np.newaxis],
            self.horizon,
        )

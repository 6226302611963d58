"""Small environments with known answers, for the tests."""

from copy import deepcopy
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space


class Counting(gym.Env[Any, Any]):
    """Observes (episode number, step); rewards the step number; terminates or truncates after
    ``length`` steps."""

    metadata = {"render_modes": ["rgb_array"], "render_fps": 10}  # noqa: RUF012

    def __init__(
        self, length: int = 3, truncates: bool = False, render_mode: str | None = None
    ) -> None:
        self.observation_space = spaces.Box(-1, 1000, (2,), np.float32)
        self.action_space = spaces.Discrete(2)
        self.length, self.truncates, self.render_mode = length, truncates, render_mode
        self.episode = 0

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.episode, self.t = self.episode + 1, 0
        return self._obs(), {"begins": self.episode}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.t += 1
        over = self.t >= self.length
        info = {"t": self.t, "last_words": "goodbye"} if over else {"t": self.t}
        return (
            self._obs(),
            float(self.t),
            over and not self.truncates,
            over and self.truncates,
            info,
        )

    def render(self) -> Any:
        return np.zeros((4, 4, 3), np.uint8)

    def _obs(self) -> Any:
        return np.array([self.episode, self.t], np.float32)


class CountingVector(VectorEnv[Any, Any, Any]):
    """The same, batched by hand with next-step autoreset and no masked resets, as many vector
    environments are."""

    metadata = {"autoreset_mode": AutoresetMode.NEXT_STEP}  # noqa: RUF012

    def __init__(self, lengths: list[int], truncates: bool = False) -> None:
        self.envs = [Counting(length, truncates) for length in lengths]
        self.num_envs = len(lengths)
        self.single_observation_space, self.single_action_space = (
            self.envs[0].observation_space,
            self.envs[0].action_space,
        )
        self.observation_space = batch_space(self.single_observation_space, self.num_envs)
        self.action_space = batch_space(self.single_action_space, self.num_envs)

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        self._over = np.zeros(self.num_envs, bool)
        return np.stack([env.reset()[0] for env in self.envs]), {}

    def step(self, actions: Any) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        obs, rewards, terminations, truncations = [], [], [], []
        for i, env in enumerate(self.envs):
            result = (
                (env.reset()[0], 0.0, False, False) if self._over[i] else env.step(actions[i])[:4]
            )
            for values, value in zip(
                (obs, rewards, terminations, truncations), result, strict=True
            ):
                values.append(value)
        self._over = np.array(terminations) | np.array(truncations)
        return np.stack(obs), np.array(rewards), np.array(terminations), np.array(truncations), {}


class Recall(gym.Env[Any, Any]):
    """Shows a cue for one step, then nothing; after ``delay`` steps the agent is paid for naming
    it. Memory is all it takes."""

    def __init__(self, delay: int = 3) -> None:
        self.observation_space = spaces.Box(0, 1, (3,), np.float32)
        self.action_space = spaces.Discrete(2)
        self.delay = delay

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.t, self.cue = 0, int(self.np_random.integers(2))
        return self._obs(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.t += 1
        over = self.t > self.delay
        return self._obs(), float(over and action == self.cue), over, False, {}

    def _obs(self) -> Any:
        obs = np.zeros(3, np.float32)
        if self.t == 0:
            obs[self.cue] = 1
        obs[2] = self.t == self.delay
        return obs


class Poisoned(Counting):
    """Gives a NaN where ``what`` says, at step 4 of the first episode."""

    def __init__(self, what: str) -> None:
        super().__init__(length=10)
        self.what = what

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        obs, reward, terminated, truncated, info = super().step(action)
        if self.t == 4:
            if self.what == "observation":
                obs[0] = np.nan
            elif self.what == "reward":
                reward = float("inf")
            elif self.what == "loss":
                reward = 1e30  # finite, but its square is not
        return obs, reward, terminated, truncated, info


class Random(gym.Env[Any, Any]):
    """Random observations and rewards in given spaces; episodes of 5 to 7 steps, every other one
    truncated."""

    def __init__(
        self,
        observation_space: spaces.Space[Any],
        action_space: spaces.Space[Any],
        own_seed: int = 0,
    ) -> None:
        self.observation_space, self.action_space = deepcopy(observation_space), action_space
        self.own_seed, self.length, self.episode = own_seed, 7 - own_seed % 3, 0

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        if seed is not None:
            seed += 1000 * self.own_seed
            self.observation_space.seed(seed)
        super().reset(seed=seed)
        self.t, self.episode = 0, self.episode + 1
        return self.observation_space.sample(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        assert self.action_space.contains(action), action
        self.t += 1
        over, odd = self.t == self.length, self.episode % 2 == 1
        return (
            self.observation_space.sample(),
            float(self.np_random.normal()),
            over and odd,
            over and not odd,
            {},
        )

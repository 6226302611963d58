"""The bandit.

The best arm differs between episodes, and an agent finds it only by pulling arms.
"""

import numpy as np
from numpy.typing import NDArray

from envs.memory_env import AnsweringEnv, AnsweringVectorEnv, Float, Int
from envs.memory_tasks import check_settings


class BanditVectorEnv(AnsweringVectorEnv):
    """A batch of bandits with `arms` arms, with new winning probabilities in every episode.

    ## Action Space

    `Discrete(arms)`: the arm to pull.

    ## Observation Space

    `Box` of float32, `arms + 1` numbers: the previously pulled arm, one-hot, and whether it won.
    Zeros at the first step.

    ## Rewards

    The reward is `(win - 1/2) / (steps (arms / (arms + 1) - 1/2))`, positive for a win and negative
    otherwise. The probabilities are uniform in [0, 1). On average, an arm wins with probability
    1/2, and the best arm with probability `arms / (arms + 1)`. The mean return is therefore 0 for
    uniform random actions, and 1 for the best arm at every step. An agent that first has to find
    the best arm cannot reach 1.

    ## Episode End

    The episode terminates after `steps` steps. `info` is that of :class:`envs.MemoryVectorEnv`.
    Every step asks a question, and the right answer is the best arm. `accuracy` is the share of
    pulls of the best arm.

    Args:
        num_envs: number of environments.
        arms: number of arms, at least 2.
        steps: number of pulls in an episode.
        render_mode: None or `"ansi"`.

    Raises:
        ValueError: if an argument is wrong.
    """

    def __init__(
        self, num_envs: int = 1, arms: int = 5, steps: int = 100, render_mode: str | None = None
    ) -> None:
        check_settings("Bandit", arms=(arms, 2), steps=(steps, 1))
        bounds = np.zeros(arms + 1, np.float32), np.ones(arms + 1, np.float32)
        super().__init__(num_envs, bounds, arms, steps, render_mode)
        self.arms = arms
        self._stake = 0.5 / (steps * (arms / (arms + 1) - 0.5))
        self._odds = np.zeros((num_envs, arms))
        self._best = np.zeros(num_envs, np.int64)
        self._last = np.zeros((num_envs, arms + 1), np.float32)

    def _begin(self, envs: Int) -> None:
        self._odds[envs] = self.np_random.random((len(envs), self.arms))
        self._best[envs] = self._odds[envs].argmax(axis=1)
        self._last[envs] = 0

    def _look(self) -> Float:
        return self._last.copy()

    def _ask(self) -> Int:
        return self._best.copy()

    def _pay(self, actions: Int, targets: Int) -> NDArray[np.float64]:
        wins = self.np_random.random(self.num_envs) < self._odds[self._all, actions]
        self._last[:] = 0
        self._last[self._all, actions] = 1
        self._last[:, -1] = wins
        return np.where(wins, self._stake, -self._stake)

    def _describe(self, observation: Float) -> str:
        if not observation.any():
            return "first pull"
        return f"arm {observation[:-1].argmax()} {'won' if observation[-1] else 'lost'}"


class BanditEnv(AnsweringEnv):
    """One bandit at a time, like :class:`envs.BanditVectorEnv` except for the resets.

    Args:
        arms: number of arms, at least 2.
        steps: number of pulls in an episode.
        render_mode: None or `"ansi"`.

    Raises:
        ValueError: if an argument is wrong.
    """

    def __init__(self, arms: int = 5, steps: int = 100, render_mode: str | None = None) -> None:
        super().__init__(BanditVectorEnv(arms=arms, steps=steps, render_mode=render_mode))

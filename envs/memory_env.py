"""Environments that play memory tasks, batched or single."""

from abc import ABC, abstractmethod
from typing import Any, ClassVar

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space
from numpy.typing import NDArray

from envs.memory_tasks import TASKS, MemoryTask
from envs.metrics import RETURN, Metric

Float = NDArray[np.float32]
Int = NDArray[np.int64]
Bool = NDArray[np.bool_]

_METADATA: dict[str, Any] = {
    "render_modes": ["ansi"],
    "render_fps": 4,
    "metrics": (RETURN, Metric("accuracy", "share of right answers")),
}


class AnsweringVectorEnv(VectorEnv[Float, Int, NDArray[Any]], ABC):
    """Base class of batched environments whose actions are answers.

    It implements steps, counts, resets and `info`, see the subclasses.

    Raises:
        ValueError: if `num_envs` is not positive, or `render_mode` is unknown.
    """

    metadata: ClassVar[dict[str, Any]] = _METADATA | {"autoreset_mode": AutoresetMode.SAME_STEP}  # type: ignore[misc]

    def __init__(
        self,
        num_envs: int,
        bounds: tuple[Float, Float],
        n_answers: int,
        horizon: int,
        render_mode: str | None,
    ) -> None:
        if num_envs < 1:
            raise ValueError(f"num_envs must be at least 1, got {num_envs}")
        if render_mode not in (None, *self.metadata["render_modes"]):
            raise ValueError(
                f"render_mode must be one of {self.metadata['render_modes']} or None, got "
                f"{render_mode!r}"
            )
        self.num_envs, self.horizon, self.render_mode = num_envs, horizon, render_mode
        self.single_observation_space = spaces.Box(*bounds)
        self.single_action_space = spaces.Discrete(n_answers)
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)
        self._all = np.arange(num_envs)
        self._t = np.zeros(num_envs, np.int64)
        self._length = np.full(num_envs, horizon)
        # questions, and right answers to them, since the episode began
        self._asked = np.zeros(num_envs, np.int64)
        self._right = np.zeros(num_envs, np.int64)
        self._seen: list[list[str]] = [[] for _ in range(num_envs)]  # the lines of a picture

    @abstractmethod
    def _begin(self, envs: Int) -> None:
        """Draw new episodes for the environments ``envs``, whose time is already 0."""

    @abstractmethod
    def _look(self) -> Float:
        """Return the current observations, ``[num_envs, F]``; zeros after the last step."""

    @abstractmethod
    def _ask(self) -> Int:
        """Return the right answers to the current questions, ``[num_envs]``; else -1."""

    @abstractmethod
    def _pay(self, actions: Int, targets: Int) -> NDArray[np.float64]:
        """Return the rewards of actions, given the right answers, ``[num_envs]``."""

    @abstractmethod
    def _describe(self, observation: Float) -> str:
        """Describe an observation ``[F]`` in words."""

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Float, dict[str, Any]]:
        super().reset(seed=seed)
        self._restart(
            np.flatnonzero((options or {}).get("reset_mask", np.ones(self.num_envs, bool)))
        )
        return self._look(), {}

    def step(self, actions: Int) -> tuple[Float, NDArray[np.float64], Bool, Bool, dict[str, Any]]:
        observations, rewards, terminated, info = self.advance(actions)
        infos = _masked(info, ~terminated)
        if terminated.any():
            done = np.flatnonzero(terminated)
            final_obs = np.full(self.num_envs, None, dtype=object)
            for i in done.tolist():
                final_obs[i] = observations[i]
            final_info = _masked(info | self.episode_info(), terminated)
            infos |= _masked({"final_obs": final_obs, "final_info": final_info}, terminated)
            self._restart(done)
            observations = self._look()
        return observations, rewards, terminated, np.zeros(self.num_envs, bool), infos

    def advance(self, actions: Int) -> tuple[Float, NDArray[np.float64], Bool, dict[str, Any]]:
        """Take one step without resets.

        Returns:
            observations ``[num_envs, F]``
            rewards ``[num_envs]``
            terminations ``[num_envs]``
            `info` of arrays ``[num_envs]``, without masks
        """
        n_answers = int(self.single_action_space.n)  # type: ignore[attr-defined]
        if actions.min() < 0 or actions.max() >= n_answers:
            raise ValueError(
                f"actions are answers from 0 to {n_answers - 1}, got {np.unique(actions).tolist()}"
            )
        targets = self._ask()
        asked = targets >= 0
        right = actions == targets
        rewards = self._pay(actions, targets)
        self._asked += asked
        self._right += right
        self._t += 1
        observations = self._look()
        if self.render_mode is not None:
            for i in range(self.num_envs):
                if asked[i]:
                    self._seen[i][-1] += (
                        f"  -> {actions[i]}, {'right' if right[i] else f'right is {targets[i]}'}"
                    )
                self._seen[i].append(self._describe(observations[i]))
        return observations, rewards, self._t == self._length, {"asked": asked, "target": targets}

    def episode_info(self) -> dict[str, Any]:
        """Return the statistics of the episodes so far, each ``[num_envs]``.

        These are the number of questions, and the share of right answers.
        """
        return {
            "questions": self._asked.copy(),
            "accuracy": self._right / np.maximum(self._asked, 1),
        }

    def render(self) -> tuple[str, ...] | None:
        if self.render_mode is None:
            return None
        return tuple(
            "\n".join(f"{t:3}  {line}".rstrip() for t, line in enumerate(lines, start=1))
            for lines in self._seen
        )

    def _restart(self, envs: Int) -> None:
        self._t[envs] = self._asked[envs] = self._right[envs] = 0
        self._begin(envs)
        if self.render_mode is not None:
            observations = self._look()
            for i in envs.tolist():
                self._seen[i] = [self._describe(observations[i])]


def _masked(info: dict[str, Any], mask: Bool) -> dict[str, Any]:
    """Add to every array the mask of its environments, as Gymnasium does."""
    return info | {f"_{key}": mask.copy() for key in info}


class MemoryVectorEnv(AnsweringVectorEnv):
    """A batch of episodes of a memory task.

    ## Action Space

    `Discrete(n_answers)`: the answer to the previous observation. If there was no question, the
    action has no effect.

    ## Observation Space

    `Box` of float32: one-hot symbols, numbers, and flags such as "answer now"; see the task.

    ## Rewards

    With `n` questions in the episode, `1 / n` for a right answer and `-1 / (n (n_answers - 1))` for
    a wrong one. The return is 1 if all answers are right, and 0 on average for uniform random
    answers.

    ## Episode End

    The episode terminates with its last question, and the observation after the last question is
    zero. At each step, `info` holds `asked`, whether there was a question, and `target`, the right
    answer, or -1 without a question. At the last step of an episode, `info` also holds the number
    of `questions` and the share of right answers, `accuracy`. If an environment resets in the same
    step, `final_info` holds the `info` of the finished episode, and `final_obs` its last
    observation.

    All environments share one random generator, seeded with `reset(seed=...)` by a single number.
    `reset(options={"reset_mask": mask})` resets only the environments where the mask is true.

    Args:
        task: a name in :data:`envs.TASKS`, or your own task.
        num_envs: number of environments.
        render_mode: None, or `"ansi"` for observation and answer as one line per step.
        **settings: settings of the task, if the task is given by name.

    Raises:
        ValueError: if `num_envs` is not positive, the task or the render mode is unknown, or a
            setting is wrong.
    """

    def __init__(
        self,
        task: str | MemoryTask,
        num_envs: int = 1,
        render_mode: str | None = None,
        **settings: Any,
    ) -> None:
        if isinstance(task, str):
            if task not in TASKS:
                raise ValueError(f"task must be one of {', '.join(TASKS)}, got {task!r}")
            task = TASKS[task](**settings)
        elif settings:
            raise ValueError(
                f"a task that is given whole has its settings already, got {', '.join(settings)} "
                "as well"
            )
        self.task = task
        super().__init__(num_envs, task.bounds, task.n_answers, task.length, render_mode)
        shape = task.length + 1, num_envs
        # with what is seen after the last step
        self._observations = np.zeros((*shape, task.observation_size), np.float32)
        self._targets = np.full(shape, -1)
        self._gain = np.zeros(num_envs)  # of a right answer

    def _begin(self, envs: Int) -> None:
        observations, targets = self.task.episodes(self.np_random, len(envs))
        if len(envs) == self.num_envs:
            self._observations[:-1], self._targets[:-1] = observations, targets
        else:
            self._observations[:-1, envs], self._targets[:-1, envs] = observations, targets
        asked = targets >= 0
        self._length[envs] = self.task.length - asked[::-1].argmax(axis=0)
        self._gain[envs] = 1 / asked.sum(axis=0)

    def _now(self) -> Int:
        return self._t * self.num_envs + self._all

    def _look(self) -> Float:
        return self._observations.reshape(-1, self.task.observation_size).take(self._now(), axis=0)

    def _ask(self) -> Int:
        return self._targets.take(self._now())

    def _pay(self, actions: Int, targets: Int) -> NDArray[np.float64]:
        earned = np.where(actions == targets, self._gain, self._gain / (1 - self.task.n_answers))
        return np.where(targets >= 0, earned, 0.0)

    def _describe(self, observation: Float) -> str:
        return self.task.describe(observation)


class AnsweringEnv(gym.Env[Float, np.int64]):
    """A single environment from a vector environment of size one, see the subclasses."""

    metadata: ClassVar[dict[str, Any]] = _METADATA  # type: ignore[misc]

    def __init__(self, batch: AnsweringVectorEnv) -> None:
        self._batch = batch
        self.render_mode = batch.render_mode
        self.horizon = batch.horizon
        self.observation_space = batch.single_observation_space
        self.action_space = batch.single_action_space

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Float, dict[str, Any]]:
        super().reset(seed=seed)
        self._batch.np_random = self.np_random
        observations, _ = self._batch.reset()
        return observations[0], {}

    def step(self, action: np.int64) -> tuple[Float, float, bool, bool, dict[str, Any]]:
        observations, rewards, terminated, info = self._batch.advance(np.array([action]))
        if terminated[0]:
            info |= self._batch.episode_info()
        return (
            observations[0],
            float(rewards[0]),
            bool(terminated[0]),
            False,
            {key: value[0].item() for key, value in info.items()},
        )

    def render(self) -> Any:
        frames = self._batch.render()
        return frames and frames[0]


class MemoryEnv(AnsweringEnv):
    """A single memory task, like :class:`envs.MemoryVectorEnv` except for the resets.

    Args:
        task: a name in :data:`envs.TASKS`, or your own task.
        render_mode: None, or `"ansi"` for observation and answer as one line per step.
        **settings: settings of the task, if the task is given by name.

    Raises:
        ValueError: if the task or the render mode is unknown, or a setting is wrong.
    """

    def __init__(
        self, task: str | MemoryTask, render_mode: str | None = None, **settings: Any
    ) -> None:
        batch = MemoryVectorEnv(task, render_mode=render_mode, **settings)
        super().__init__(batch)
        self.task = batch.task

"""The maze as a batch.

The transitions are those of :class:`envs.MazeEnv`, computed for all environments at once.
"""

from typing import Any, ClassVar

import numpy as np
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space
from numpy.typing import NDArray

from envs import layouts
from envs.maze import MOVES, MazeEnv, MazeTask, Start
from envs.rendering import ansi, rgb_array


class MazeVectorEnv(VectorEnv[NDArray[np.float32], NDArray[np.int64], NDArray[Any]]):
    """A batch of mazes in NumPy.

    The task, arguments, observations and `info` are those of :class:`envs.MazeEnv`.

    Autoreset mode: same step. At the end of an episode, `step` returns the first observation of the
    next episode. `final_obs` and `final_info` hold the last observation and the `info` of the
    finished episode.

    All environments share one random generator, seeded with `reset(seed=...)` by a single number.
    `reset(options={"reset_mask": mask})` resets only the environments where the mask is true.

    Raises:
        ValueError: if `num_envs` is not positive, or an argument of the maze is wrong.
    """

    metadata: ClassVar[dict[str, Any]] = MazeEnv.metadata | {  # type: ignore[misc]
        "autoreset_mode": AutoresetMode.SAME_STEP
    }

    sees_goals: ClassVar[bool] = False
    """Whether the agent sees goals from nearby."""

    def __init__(
        self,
        num_envs: int = 1,
        size: int = 9,
        horizon: int = 200,
        view: int = 3,
        goal_reward: float = 10.0,
        wall_penalty: float = 0.0,
        start: Start = "center",
        layout: str = "pillars",
        mask_walls: bool = False,
        render_mode: str | None = None,
    ) -> None:
        task = MazeTask(size, horizon, view, goal_reward, wall_penalty, start, layout, mask_walls)
        self._set_up(num_envs, task, render_mode)

    def _set_up(self, num_envs: int, task: MazeTask, render_mode: str | None) -> None:
        if num_envs < 1:
            raise ValueError(f"num_envs must be at least 1, got {num_envs}")
        if render_mode not in (None, *self.metadata["render_modes"]):
            raise ValueError(
                f"render_mode must be one of {self.metadata['render_modes']} or None, got "
                f"{render_mode!r}"
            )
        self.task, view = task, task.view
        self.num_envs = num_envs
        self.render_mode = render_mode
        self.horizon = task.horizon
        self.single_observation_space = self.task.observation_space
        self.single_action_space = spaces.Discrete(4)
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)

        # Cells are numbered in a map padded by the view's margin (at least one wall around), row by
        # row, so that a move is one addition and the neighbourhood of a cell is a fixed set of
        # offsets.
        walls = self.task.draw_walls(np.random.default_rng(0))
        self._shape = walls.shape
        self._margin = max(1, view // 2)
        self._width = walls.shape[1] + 2 * self._margin
        n_cells = (walls.shape[0] + 2 * self._margin) * self._width
        self._moves = np.array([dr * self._width + dc for dr, dc in MOVES])
        reach = np.arange(view) - view // 2
        self._neighbourhood = (reach[:, None] * self._width + reach).ravel()
        self._rows = np.arange(num_envs)
        self._offsets = self._rows * n_cells

        self._walls = np.ones((num_envs, n_cells), bool)
        # the free cells of each maze, in its first _n_free places
        self._free = np.zeros((num_envs, n_cells), np.int64)
        self._n_free = np.zeros(num_envs, np.int64)
        self._centre = np.zeros(num_envs, np.int64)
        self._goal_place = np.zeros(num_envs, np.int64)  # where in _free the goal is
        self._goal = np.zeros(num_envs, np.int64)
        self._position = np.zeros(num_envs, np.int64)
        self._t = np.zeros(num_envs, np.int64)
        self._goals = np.zeros(num_envs, np.int64)
        self._first_goal = np.zeros(num_envs, np.int64)
        self._last_goal = np.zeros(num_envs, np.int64)
        self._reward = np.zeros(num_envs)
        self._action = np.full(num_envs, -1)
        if not self.task.fresh_every_episode:
            for i in range(num_envs):
                self._set_walls(i, walls)

    @property
    def walls(self) -> NDArray[np.bool_]:
        """Wall maps, ``[num_envs, height, width]``."""
        m = self._margin
        padded = self._walls.reshape(self.num_envs, -1, self._width)
        return padded[:, m : m + self._shape[0], m : m + self._shape[1]]

    @property
    def position(self) -> NDArray[np.int64]:
        """Row and column of the agents, ``[num_envs, 2]``."""
        return self._row_col(self._position)

    @property
    def goal(self) -> NDArray[np.int64]:
        """Row and column of the goals, ``[num_envs, 2]``."""
        return self._row_col(self._goal)

    @property
    def goal_cells(self) -> NDArray[np.int64]:
        """Row and column of all goals, if there are several, ``[num_envs, K, 2]``."""
        return np.zeros((self.num_envs, 0, 2), np.int64)

    @property
    def goals(self) -> NDArray[np.int64]:
        """Number of times each agent has reached its goal in this episode, ``[num_envs]``."""
        return self._goals

    @property
    def goal_found(self) -> NDArray[np.bool_]:
        """Whether each agent can already know where its goal is, ``[num_envs]``."""
        return self._goals > 0

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[NDArray[np.float32], dict[str, Any]]:
        super().reset(seed=seed)
        mask = (options or {}).get("reset_mask", np.ones(self.num_envs, bool))
        self._reset(np.flatnonzero(mask))
        self._reward, self._action = (
            np.where(mask, 0.0, self._reward),
            np.where(mask, -1, self._action),
        )
        return self._observation(), self._mask_infos()

    def step(
        self, actions: NDArray[np.int64]
    ) -> tuple[
        NDArray[np.float32],
        NDArray[np.float64],
        NDArray[np.bool_],
        NDArray[np.bool_],
        dict[str, Any],
    ]:
        if actions.min() < 0 or actions.max() >= len(self._moves):
            raise ValueError(
                "actions of a maze are 0 (up), 1 (down), 2 (left) and 3 (right), got "
                f"{np.unique(actions).tolist()}"
            )
        moved = self._position + self._moves[actions]
        blocked = self._walls.ravel()[self._offsets + moved]
        self._position = np.where(blocked, self._position, moved)
        self._reward = np.where(blocked, -self.task.wall_penalty, 0.0)
        self._action = actions
        self._t += 1

        hit = np.flatnonzero(self._position == self._goal)
        if hit.size:
            self._reward[hit] = self.task.goal_reward
            self._goals[hit] += 1
            self._first_goal[hit] = np.where(
                self._goals[hit] == 1, self._t[hit], self._first_goal[hit]
            )
            self._last_goal[hit] = self._t[hit]
            self._go_on(hit)

        rewards, terminated = self._reward, self._t == self.task.horizon
        observations, infos = self._observation(), {}
        if terminated.any():
            infos = self._final_infos(observations, terminated)
            done = np.flatnonzero(terminated)
            self._reset(done)
            self._reward, self._action = (
                np.where(terminated, 0.0, rewards),
                np.where(terminated, -1, actions),
            )
            observations = self._observation()
        return (
            observations,
            rewards,
            terminated,
            np.zeros(self.num_envs, bool),
            infos | self._mask_infos(),
        )

    def render(self) -> tuple[Any, ...] | None:
        if self.render_mode is None:
            return None
        goals = ([tuple(cell) for cell in cells] for cells in self.goal_cells)
        mazes = zip(
            self.walls,
            map(tuple, self.position),
            map(tuple, self.goal),
            goals,
            self._t / self.task.horizon,
            strict=True,
        )
        if self.render_mode == "ansi":
            return tuple(
                ansi(walls, position, goal, goals) for walls, position, goal, goals, _ in mazes
            )
        return tuple(
            rgb_array(walls, position, goal, (), time, goals)
            for walls, position, goal, goals, time in mazes
        )

    def _row_col(self, cells: NDArray[np.int64]) -> NDArray[np.int64]:
        return np.stack(np.divmod(cells, self._width), axis=-1) - self._margin

    def _set_walls(self, i: int, walls: layouts.Walls) -> None:
        padded = np.pad(walls, self._margin, constant_values=True).ravel()
        free = np.flatnonzero(~padded)
        self._walls[i] = padded
        self._free[i, : free.size] = free
        self._n_free[i] = free.size
        row, col = layouts.centre_cell(walls)
        self._centre[i] = (row + self._margin) * self._width + col + self._margin

    def _reset(self, envs: NDArray[np.int64]) -> None:
        if self.task.fresh_every_episode:
            for i in envs:
                self._set_walls(i, self.task.draw_walls(self.np_random))
        self._t[envs] = self._goals[envs] = 0
        self._first_goal[envs] = self.task.horizon
        self._begin(envs)

    def _begin(self, envs: NDArray[np.int64]) -> None:
        """Place goals and agents."""
        centre = self._centre[envs]
        self._goal[envs] = self._random_cell(envs, self._place(envs, centre))
        self._goal_place[envs] = self._place(envs, self._goal[envs])
        self._position[envs] = (
            centre
            if self.task.start == "center"
            else self._random_cell(envs, self._goal_place[envs])
        )

    def _go_on(self, hit: NDArray[np.int64]) -> None:
        """Continue the episodes of the environments ``hit``, whose agents have reached the goal."""
        self._position[hit] = self._random_cell(hit, self._goal_place[hit])

    def _place(self, envs: NDArray[np.int64], cells: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the index of each cell among the free cells of its maze."""
        places: NDArray[np.int64] = (self._free[envs] == cells[:, None]).argmax(axis=1)
        return places

    def _random_cell(
        self, envs: NDArray[np.int64], other_than: NDArray[np.int64]
    ) -> NDArray[np.int64]:
        """Draw a random free cell of each maze, except the one with index ``other_than``."""
        place = self.np_random.integers(self._n_free[envs] - 1)
        return self._free[envs, place + (place >= other_than)]

    def _observation(self) -> NDArray[np.float32]:
        seen = self._neighbourhood.size
        observation = np.zeros((self.num_envs, seen + 7), np.float32)
        observation[:, :seen] = self._walls.ravel()[
            (self._offsets + self._position)[:, None] + self._neighbourhood
        ]
        observation[:, seen] = 1.0
        observation[:, seen + 1] = self._t / self.task.horizon
        observation[:, seen + 2] = self._reward
        acted = self._action >= 0
        observation[self._rows[acted], seen + 3 + self._action[acted]] = 1.0
        return observation

    def _mask_infos(self) -> dict[str, Any]:
        if not self.task.mask_walls:
            return {}
        free = ~self._walls.ravel()[(self._offsets + self._position)[:, None] + self._moves]
        return {"action_mask": free, "_action_mask": np.ones(self.num_envs, bool)}

    def _final_infos(
        self, observations: NDArray[np.float32], done: NDArray[np.bool_]
    ) -> dict[str, Any]:
        final_obs = np.full(self.num_envs, None, dtype=object)
        for i in np.flatnonzero(done):
            final_obs[i] = observations[i]
        episode = self._episode(done)
        episode |= {
            key: mask for key, mask in self._mask_infos().items() if not key.startswith("_")
        }
        final_info = episode | {f"_{key}": done.copy() for key in episode}
        return {
            "final_obs": final_obs,
            "_final_obs": done.copy(),
            "final_info": final_info,
            "_final_info": done.copy(),
        }

    def _episode(self, done: NDArray[np.bool_]) -> dict[str, NDArray[Any]]:
        """Return the report on the finished episodes."""
        between = np.full(self.num_envs, None, dtype=object)
        for i in np.flatnonzero(done & (self._goals > 1)):
            between[i] = (self._last_goal[i] - self._first_goal[i]) / (self._goals[i] - 1)
        return {
            "goals": np.where(done, self._goals, 0),
            "steps_to_first_goal": np.where(done, self._first_goal, 0),
            "mean_steps_between_goals": between,
        }

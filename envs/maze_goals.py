"""The maze with several goals.

The agent has to remember where each goal is, and go to the requested one.
"""

from typing import Any, ClassVar

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from envs.maze import MazeEnv, MazeTask
from envs.maze_vector import MazeVectorEnv
from envs.metrics import Metric
from envs.rendering import Cell


class MazeGoalsEnv(MazeEnv):
    """Remember the cells of goals with several colors, and go to the requested goal, repeatedly.

    This is the Memory Maze of Pasukonis et al. (2022) on a grid. The goals keep their cells for an
    episode and can be seen from nearby. The environment asks for one of them. As soon as the agent
    stands on it, the environment asks for another, so every goal seen on the way is worth
    remembering. Unlike in :class:`envs.MazeEnv`, and as in Memory Maze, the agent keeps its place
    after it reaches a goal. The agent can therefore always know its own position. The task tests
    the memory for the goals, not the ability to relocalize.

    The action space, the episode end and the arguments are those of :class:`envs.MazeEnv`. There is
    one more argument, `colors=6`, the number of goals, at least 2. Each goal has its own color.

    ## Observation Space

    `Box` of float32. First come the numbers of :class:`envs.MazeEnv`. Then come `colors * view**2`
    numbers, for each color the neighbourhood of the agent row by row, with a 1 on the goal of this
    color. The last `colors` numbers are the requested color, one-hot. Walls do not hide the cells
    behind them.

    ## Rewards

    `goal_reward` for reaching the requested goal, `-wall_penalty` for walking into a wall, 0
    otherwise. Other goals are like free cells.

    ## Starting State

    The goals are on random free cells other than the centre cell, new in every episode. The agent
    starts on the centre cell (`start="center"`) or on any free cell without a goal
    (`start="random"`). The first color is drawn from all colors, and every next one from all but
    the last.

    ## Info

    In addition to the entries of :class:`envs.MazeEnv`, the last step's `info` holds
    `mean_steps_to_seen_goals`. This is the mean number of steps from a request to its goal, over
    the reached goals that had been in view before their request; `None` if there are none. An agent
    with perfect memory needs only a shortest path to such a goal.

    Wrong arguments raise `ValueError`, and so does a layout without room for the agent and all
    goals.

    ## Version History

    - v0: the first version. `mnm/MazeGoals-v0` has 9 x 9 cells, 200 steps, and 6 goals.
    """

    metadata: ClassVar[dict[str, Any]] = MazeEnv.metadata | {  # type: ignore[misc]
        "metrics": (
            *MazeEnv.metadata["metrics"],
            Metric("mean_steps_to_seen_goals", "time to goals seen before", "steps", False, "seen"),
        )
    }

    task: "MazeGoalsTask"

    def __init__(self, colors: int = 6, render_mode: str | None = None, **maze: Any) -> None:
        self._set_up(MazeGoalsTask(colors, **maze), render_mode)

    def _begin(self, centre: Cell) -> None:
        places: list[Cell] = []
        for _ in range(self.task.colors):
            places.append(self._random_cell(centre, *places))
        self.goal_cells = tuple(places)
        self.position = centre if self.task.start == "center" else self._random_cell(*places)
        self.seen = np.zeros(self.task.colors, bool)
        self.steps_to_seen: list[int] = []
        self._ask(int(self.np_random.integers(self.task.colors)))

    def _go_on(self) -> None:
        if self.known:
            self.steps_to_seen.append(self.t - self.asked_at)
        other = int(self.np_random.integers(self.task.colors - 1))
        self._ask(other + (other >= self.color))

    def _ask(self, color: int) -> None:
        self.color, self.goal = color, self.goal_cells[color]
        self.asked_at, self.known = self.t, bool(self.seen[color])

    def _observation(self, reward: float, action: np.int64 | None) -> NDArray[np.float32]:
        view = self.task.view
        # rows and columns in the neighbourhood
        at = np.array(self.goal_cells) - self.position + view // 2
        inside = ((at >= 0) & (at < view)).all(axis=1)
        planes = np.zeros((self.task.colors, view, view), np.float32)
        planes[inside, *at[inside].T] = 1
        self.seen |= inside
        asked = np.eye(self.task.colors, dtype=np.float32)[self.color]
        return np.concatenate([super()._observation(reward, action), planes.ravel(), asked])

    def _episode_info(self) -> dict[str, Any]:
        steps = float(np.mean(self.steps_to_seen)) if self.steps_to_seen else None
        return super()._episode_info() | {"mean_steps_to_seen_goals": steps}


class MazeGoalsVectorEnv(MazeVectorEnv):
    """A batch of mazes with several goals in NumPy.

    The task, arguments, observations and `info` are those of :class:`MazeGoalsEnv`. Autoreset,
    seeding and masked resets are those of :class:`envs.MazeVectorEnv`.

    Raises:
        ValueError: if `num_envs` is not positive, or an argument of the maze is wrong.
    """

    metadata: ClassVar[dict[str, Any]] = MazeVectorEnv.metadata | {  # type: ignore[misc]
        "metrics": MazeGoalsEnv.metadata["metrics"]
    }

    task: "MazeGoalsTask"
    sees_goals: ClassVar[bool] = True

    def __init__(
        self, num_envs: int = 1, colors: int = 6, render_mode: str | None = None, **maze: Any
    ) -> None:
        self._set_up(num_envs, MazeGoalsTask(colors, **maze), render_mode)
        self._cells = np.zeros((num_envs, colors), np.int64)
        self._seen = np.zeros((num_envs, colors), bool)
        self._color = np.zeros(num_envs, np.int64)
        self._asked_at = np.zeros(num_envs, np.int64)
        # whether the goal had been seen when it was asked for
        self._known = np.zeros(num_envs, bool)
        # how many such goals were reached, and in how many steps
        self._seen_goals = np.zeros(num_envs, np.int64)
        self._steps_to_seen = np.zeros(num_envs, np.int64)

    @property
    def goal_cells(self) -> NDArray[np.int64]:
        """Row and column of all goals, by color, ``[num_envs, colors, 2]``."""
        return self._row_col(self._cells)

    @property
    def color(self) -> NDArray[np.int64]:
        """The requested color of each environment, ``[num_envs]``."""
        return self._color

    @property
    def goal_found(self) -> NDArray[np.bool_]:
        """Whether the requested goal was in view in this episode, ``[num_envs]``."""
        return self._seen[self._rows, self._color]

    def _begin(self, envs: NDArray[np.int64]) -> None:
        colors, centre = self.task.colors, self._centre[envs]
        self._cells[envs] = self._free_but(envs, centre[:, None], colors)
        alone = (
            self._free_but(envs, self._cells[envs], 1)[:, 0]
            if self.task.start == "random"
            else centre
        )
        self._position[envs] = alone
        self._seen[envs], self._seen_goals[envs], self._steps_to_seen[envs] = False, 0, 0
        self._ask(envs, self.np_random.integers(colors, size=len(envs)))

    def _go_on(self, hit: NDArray[np.int64]) -> None:
        known = self._known[hit]
        self._seen_goals[hit] += known
        self._steps_to_seen[hit] += known * (self._t[hit] - self._asked_at[hit])
        other = self.np_random.integers(self.task.colors - 1, size=len(hit))
        self._ask(hit, other + (other >= self._color[hit]))

    def _ask(self, envs: NDArray[np.int64], color: NDArray[np.int64]) -> None:
        self._color[envs], self._goal[envs] = color, self._cells[envs, color]
        self._asked_at[envs], self._known[envs] = self._t[envs], self._seen[envs, color]

    def _free_but(
        self, envs: NDArray[np.int64], taken: NDArray[np.int64], n: int
    ) -> NDArray[np.int64]:
        """Draw ``n`` different free cells of each maze, none of them in ``taken``."""
        free = self._free[envs, : self._n_free[envs].max()]
        order = self.np_random.random(free.shape)
        order[
            (np.arange(free.shape[1]) >= self._n_free[envs, None])
            | (free[..., None] == taken[:, None]).any(axis=2)
        ] = 1
        cells: NDArray[np.int64] = np.take_along_axis(free, order.argsort(axis=1)[:, :n], axis=1)
        return cells

    def _observation(self) -> NDArray[np.float32]:
        neighbours = self._position[:, None] + self._neighbourhood
        planes = self._cells[:, :, None] == neighbours[:, None, :]
        self._seen |= planes.any(axis=2)
        asked = np.arange(self.task.colors) == self._color[:, None]
        more = np.concatenate([planes.reshape(self.num_envs, -1), asked], axis=1)
        return np.concatenate([super()._observation(), more.astype(np.float32)], axis=1)

    def _episode(self, done: NDArray[np.bool_]) -> dict[str, NDArray[Any]]:
        steps = np.full(self.num_envs, None, dtype=object)
        for i in np.flatnonzero(done & (self._seen_goals > 0)):
            steps[i] = self._steps_to_seen[i] / self._seen_goals[i]
        return super()._episode(done) | {"mean_steps_to_seen_goals": steps}


class MazeGoalsTask(MazeTask):
    """The arguments of a maze with several goals, validated for single and batched environments.

    Raises:
        ValueError: if an argument is out of range, or the layout cannot be used or is too small.
    """

    def __init__(self, colors: int, **maze: Any) -> None:
        super().__init__(**maze)
        if not isinstance(colors, int | np.integer):
            raise ValueError(f"the colors of a maze must be a whole number, got {colors!r}")
        if colors < 2:
            raise ValueError(f"a maze with several goals needs at least 2 colors, got {colors}")
        # the same in all perfect mazes of a size
        free = int((~self.draw_walls(np.random.default_rng(0))).sum())
        if free <= colors:
            raise ValueError(
                f"a maze with {colors} goals needs {colors + 1} free cells, one for the agent; "
                f"the layout has {free}"
            )
        self.colors = colors
        self.arguments["colors"] = int(colors)
        more = np.ones(colors * (self.view**2 + 1), np.float32)
        low, high = self.observation_space.low, self.observation_space.high
        self.observation_space = spaces.Box(np.append(low, 0 * more), np.append(high, more))

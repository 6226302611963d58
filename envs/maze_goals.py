"""The maze with several goals: remember which is where, and go to the one that is asked for."""

from typing import Any, ClassVar

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from envs.maze import MazeEnv, MazeTask
from envs.maze_vector import MazeVectorEnv
from envs.rendering import Cell


class MazeGoalsEnv(MazeEnv):
    """Remember where goals of several colors are, and go to the one that is asked for, again and
    again.

    The Memory Maze of Pasukonis et al. (2022) on a grid. The goals stay where they are for an
    episode and can be seen from nearby. One of them is asked for, and as soon as the agent stands
    on it, another one is, so whatever it sees on the way is worth remembering. Unlike in
    :class:`envs.MazeEnv`, and as in Memory Maze, the agent stays where it is when it has reached a
    goal: it always can know where it is, and what counts is the memory of where the goals are, not
    finding itself again.

    Action space, episode end and arguments are those of :class:`envs.MazeEnv`, with one argument
    more: `colors=6`, how many goals there are, at least 2, each of a color of its own.

    ## Observation Space

    `Box` of float32: the numbers that :class:`envs.MazeEnv` shows, then `colors * view**2` numbers,
    for each color the neighbourhood of the agent row by row with a 1 where the goal of this color
    is, then `colors` numbers, the color asked for, one-hot. Walls do not hide what is behind them.

    ## Rewards

    `goal_reward` for reaching the goal that is asked for, `-wall_penalty` for walking into a wall,
    0 otherwise; other goals are free cells like any other.

    ## Starting State

    The goals are on random free cells other than the centre cell, new every episode. The agent
    starts on the centre cell (`start="center"`) or on any free cell without a goal
    (`start="random"`). The first color is drawn from all, every next one from all but the last.

    ## Info

    Beside what :class:`envs.MazeEnv` reports, the last step's `info` holds
    `mean_steps_to_seen_goals`: from being asked for to being reached, of those goals that were
    reached and had been in view before they were asked for; `None` if there were none. An agent
    that remembers all needs no more than a shortest path for them.

    Wrong arguments raise `ValueError`, and so does a layout without room for the agent and all
    goals.

    ## Version History

    - v0: the first version. `mnm/MazeGoals-v0` has 9 x 9 cells, 200 steps, and 6 goals.
    """

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
    """A batch of mazes with several goals in NumPy; task, arguments, observations and `info` as in
    :class:`MazeGoalsEnv`, autoreset, seeding and masked resets as in :class:`envs.MazeVectorEnv`.

    Raises:
        ValueError: if `num_envs` is not positive, or an argument of the maze is wrong.
    """

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
        """Row and column of all goals by color, ``[num_envs, colors, 2]``."""
        return self._row_col(self._cells)

    @property
    def color(self) -> NDArray[np.int64]:
        """The color that each agent is asked for, ``[num_envs]``."""
        return self._color

    @property
    def goal_found(self) -> NDArray[np.bool_]:
        """Whether each agent has had the goal in view in this episode, ``[num_envs]``."""
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
        """``n`` free cells of each maze, all different and none of those that are taken."""
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
    """The arguments of a maze with several goals, checked for the single and the batched one.

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

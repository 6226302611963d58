"""The grid maze of the papers on plasticity and neural memory, one environment at a time."""

from typing import Any, ClassVar, Literal

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from envs import layouts
from envs.layouts import Walls
from envs.metrics import Metric
from envs.rendering import Cell, ansi, rgb_array

Start = Literal["center", "random"]

MOVES = ((-1, 0), (1, 0), (0, -1), (0, 1))
"""Row and column steps of the actions up, down, left, right."""


class MazeEnv(gym.Env[NDArray[np.float32], np.int64]):
    """Find an invisible goal, remember its place, and return to it as often as time allows.

    This is the maze of Miconi et al. (2018), also used by Munkhdalai et al. (2019). The goal stays
    on the same cell for a whole episode, and moves in every new one. An agent that reaches the goal
    gets a reward and is teleported. An agent without memory can only wander. An agent that
    remembers the goal goes straight back.

    ## Action Space

    `Discrete(4)`: 0 up, 1 down, 2 left, 3 right. The agent does not move if it walks into a wall.
    With `mask_walls`, actions that walk into a wall are invalid. `action_masks()` and
    `info["action_mask"]` tell which actions are valid.

    ## Observation Space

    `Box` of float32, `view**2 + 3 + 4` numbers: the `view` x `view` neighbourhood of the agent row
    by row (wall 1, free 0; outside the map is wall), then 1, the time as t / horizon, the previous
    reward, and the previous action one-hot (zeros on the first step). The goal is not visible.

    ## Rewards

    `goal_reward` for reaching the goal, `-wall_penalty` for walking into a wall, 0 otherwise.

    ## Starting State

    With `start="center"`, the agent starts on the centre cell, which is the free cell nearest to
    the middle if the middle is wall. With `start="random"`, the agent starts on any free cell
    except the goal. The goal is on a random free cell other than the centre cell. Reaching the goal
    teleports the agent to a random free cell other than the goal.

    ## Episode End

    The episode terminates after `horizon` steps. The horizon is part of the task, and the
    observation shows the time. The last step's `info` holds `goals` (how often the agent reached
    the goal), `steps_to_first_goal` (`horizon` if never) and `mean_steps_between_goals` (`None`
    with fewer than two).

    ## Arguments

    - `size=9`: rows and columns of the named layouts, odd and at least 5. Ignored for a drawn
      layout.
    - `horizon=200`: steps in an episode.
    - `view=3`: side of the visible neighbourhood, odd.
    - `goal_reward=10.0`, `wall_penalty=0.0`.
    - `mask_walls=False`: mask the actions that lead into a wall.
    - `start="center"` or `"random"`.
    - `layout="pillars"` (that of the papers), `"open"`, `"perfect"` (a new spanning-tree maze in
      every episode), or a drawing. A drawing has rows of `#` and `.`, separated by line breaks.
    - `render_mode=None`, `"rgb_array"` or `"ansi"`.

    Wrong arguments raise `ValueError`.

    ## Version History

    - v0: the first version. `mnm/Maze-v0` is the papers' 9 x 9 maze with 200 steps,
      `mnm/MazeSmall-v0` 7 x 7 with 100.
    """

    metadata: ClassVar[dict[str, Any]] = {  # type: ignore[misc]
        "render_modes": ["rgb_array", "ansi"],
        "render_fps": 10,
        "metrics": (
            Metric("goals", "goals per episode"),
            Metric("steps_to_first_goal", "time to the first goal", "steps", False, "first"),
            Metric("mean_steps_between_goals", "time to each next goal", "steps", False, "again"),
        ),
    }

    position: Cell
    goal: Cell
    goal_cells: tuple[Cell, ...] = ()
    """Cells of the goals, if there are several."""

    def __init__(
        self,
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
        self._set_up(
            MazeTask(size, horizon, view, goal_reward, wall_penalty, start, layout, mask_walls),
            render_mode,
        )

    def _set_up(self, task: "MazeTask", render_mode: str | None) -> None:
        self.task = task
        if task.mask_walls:  # the algorithms look whether there is such a method
            self.action_masks = self._free_neighbours
        if render_mode is not None and render_mode not in self.metadata["render_modes"]:
            raise ValueError(
                f"render_mode must be one of {self.metadata['render_modes']} or None, got "
                f"{render_mode!r}"
            )
        self.render_mode = render_mode
        self.horizon = task.horizon
        self.observation_space = self.task.observation_space
        self.action_space = spaces.Discrete(4)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[NDArray[np.float32], dict[str, Any]]:
        super().reset(seed=seed)
        self.walls = self.task.draw_walls(self.np_random)
        self.free = [tuple(cell) for cell in layouts.free_cells(self.walls).tolist()]
        self.t = 0
        self.hits: list[int] = []
        self.bumps: list[int] = []
        self._begin(layouts.centre_cell(self.walls))
        self.path = [self.position]
        return self._observation(0.0, None), self._mask_info()

    def step(
        self, action: np.int64
    ) -> tuple[NDArray[np.float32], float, bool, bool, dict[str, Any]]:
        if not 0 <= action < len(MOVES):
            raise ValueError(
                f"actions of a maze are 0 (up), 1 (down), 2 (left) and 3 (right), got {action}"
            )
        reward = 0.0
        row, col = self.position[0] + MOVES[action][0], self.position[1] + MOVES[action][1]
        height, width = self.walls.shape
        if 0 <= row < height and 0 <= col < width and not self.walls[row, col]:
            self.position = (row, col)
        else:
            reward = -self.task.wall_penalty
            self.bumps.append(self.t + 1)
        self.t += 1
        self.path.append(self.position)
        if self.position == self.goal:
            reward = self.task.goal_reward
            self.hits.append(self.t)
            self._go_on()
            self.path = [self.position]
        terminated = self.t == self.task.horizon
        info = self._mask_info() | (self._episode_info() if terminated else {})
        return self._observation(reward, action), reward, terminated, False, info

    def render(self) -> Any:
        if self.render_mode == "ansi":
            return ansi(self.walls, self.position, self.goal, self.goal_cells)
        if self.render_mode == "rgb_array":
            return rgb_array(
                self.walls,
                self.position,
                self.goal,
                self.path,
                self.t / self.task.horizon,
                self.goal_cells,
            )
        return None

    @property
    def events(self) -> dict[str, list[int]]:
        """Steps of this episode, counted from 1, in which something happened, the good first."""
        return {"goal hit": self.hits, "wall hit": self.bumps}

    def _begin(self, centre: Cell) -> None:
        """Place goal and agent."""
        self.goal = self._random_cell(centre)
        self.position = centre if self.task.start == "center" else self._random_cell(self.goal)

    def _go_on(self) -> None:
        """Continue the episode after the agent has reached the goal."""
        self.position = self._random_cell(self.goal)

    def _random_cell(self, *other_than: Cell) -> Cell:
        choices = [cell for cell in self.free if cell not in other_than]
        return choices[self.np_random.integers(len(choices))]

    def _observation(self, reward: float, action: np.int64 | None) -> NDArray[np.float32]:
        margin = self.task.view // 2
        padded = np.pad(self.walls, margin, constant_values=True)
        row, col = self.position
        seen = padded[row : row + self.task.view, col : col + self.task.view]
        one_hot = np.eye(4)[action] if action is not None else np.zeros(4)
        return np.concatenate(
            [seen.ravel(), [1.0, self.t / self.task.horizon, reward], one_hot]
        ).astype(np.float32)

    def _free_neighbours(self) -> NDArray[np.bool_]:
        padded = np.pad(self.walls, 1, constant_values=True)
        return np.array(
            [not padded[self.position[0] + 1 + dr, self.position[1] + 1 + dc] for dr, dc in MOVES]
        )

    def _mask_info(self) -> dict[str, Any]:
        return {"action_mask": self._free_neighbours()} if self.task.mask_walls else {}

    def _episode_info(self) -> dict[str, Any]:
        return {
            "goals": len(self.hits),
            "steps_to_first_goal": self.hits[0] if self.hits else self.task.horizon,
            "mean_steps_between_goals": (self.hits[-1] - self.hits[0]) / (len(self.hits) - 1)
            if len(self.hits) > 1
            else None,
        }


class MazeTask:
    """The arguments of a maze, validated for single and batched environments.

    :class:`MazeEnv` describes them.

    Raises:
        ValueError: if an argument is out of range or the layout cannot be used.
    """

    def __init__(
        self,
        size: int = 9,
        horizon: int = 200,
        view: int = 3,
        goal_reward: float = 10.0,
        wall_penalty: float = 0.0,
        start: Start = "center",
        layout: str = "pillars",
        mask_walls: bool = False,
    ) -> None:
        for name, number in (("size", size), ("horizon", horizon), ("view", view)):
            if not isinstance(number, int | np.integer):
                raise ValueError(f"the {name} of a maze must be a whole number, got {number!r}")
        if not isinstance(layout, str):
            raise ValueError(f"the layout of a maze must be a name or a drawing, got {layout!r}")
        if size < 5 or size % 2 == 0:
            raise ValueError(f"the size of a maze must be odd and at least 5, got {size}")
        if horizon < 1:
            raise ValueError(f"the horizon of a maze must be at least 1, got {horizon}")
        if view < 1 or view % 2 == 0:
            raise ValueError(f"the view of a maze must be odd and at least 1, got {view}")
        if not isinstance(mask_walls, bool):
            raise ValueError(f"mask_walls of a maze must be true or false, got {mask_walls!r}")
        if start not in ("center", "random"):
            raise ValueError(f"the start in a maze must be 'center' or 'random', got {start!r}")
        for name, value in (("goal_reward", goal_reward), ("wall_penalty", wall_penalty)):
            if not isinstance(value, int | float) or not abs(value) <= 1e30:
                raise ValueError(f"the {name} of a maze must be a finite number, got {value}")
        self.arguments: dict[str, Any] = dict(
            size=size,
            horizon=horizon,
            view=view,
            goal_reward=goal_reward,
            wall_penalty=wall_penalty,
            start=start,
            layout=layout,
        )
        self.mask_walls = mask_walls
        self.horizon, self.view, self.start = horizon, view, start
        self.goal_reward, self.wall_penalty = goal_reward, wall_penalty
        self.size = size
        self.fresh_every_episode = layout == "perfect"
        self._walls: Walls | None = None
        if layout == "pillars":
            self._walls = layouts.pillars(size)
        elif layout == "open":
            self._walls = layouts.open_field(size)
        elif layout != "perfect":
            self._walls = layouts.parse(layout)
        seen = view**2
        rewards = (0.0, goal_reward, -wall_penalty)
        low, high = np.zeros(seen + 7, np.float32), np.ones(seen + 7, np.float32)
        low[seen + 2], high[seen + 2] = min(rewards), max(rewards)
        self.observation_space = spaces.Box(low, high)

    def draw_walls(self, rng: np.random.Generator) -> Walls:
        """Draw the wall map of a new episode."""
        return layouts.perfect(self.size, rng) if self._walls is None else self._walls

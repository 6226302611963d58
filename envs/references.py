"""Reference policies that give the scale of the maze.

They are chance, the best policy that first has to find the goal, and omniscience.
"""

from collections.abc import Callable
from typing import Any, Literal, get_args

import numpy as np
from gymnasium.vector import VectorEnv
from numpy.typing import NDArray

from envs.layouts import distances, free_cells
from envs.maze import MOVES
from envs.maze_vector import MazeVectorEnv

Reference = Literal["random", "explorer", "oracle"]
"""``random``: uniform actions. ``explorer``: knows the map and where it is, walks to the nearest
cell not yet visited until it hits the goal, and takes shortest paths to it from then on; a ceiling
for any agent that has to find the goal. Where goals can be seen, it walks to the nearest cell not
yet seen, until it has seen the goal that is asked for. ``oracle``: knows the goals from the
start."""

REFERENCES: tuple[Reference, ...] = get_args(Reference)


def reference_episodes(
    reference: Reference,
    episodes: int = 1000,
    seed: int = 0,
    env_class: Callable[..., MazeVectorEnv] = MazeVectorEnv,
    **maze: Any,
) -> dict[str, NDArray[Any]]:
    """Play episodes of a maze with a reference policy.

    Args:
        reference: the policy.
        episodes: number of episodes.
        seed: seed of mazes, goals and actions.
        env_class: class of the maze, batched.
        **maze: the arguments of the maze, see :class:`envs.MazeEnv`.

    Returns:
        ``return`` and the entries that the maze reports for every episode, each ``[episodes]``.
            Examples are ``goals``, ``steps_to_first_goal`` and ``mean_steps_between_goals`` (None
            for fewer than two goals).
    """
    env = env_class(episodes, **maze)
    env.reset(seed=seed)
    rng = np.random.default_rng([seed, 1])  # not the stream that the environment draws from
    act = _walker(env, knows_goal=reference == "oracle") if reference != "random" else None
    returns = np.zeros(episodes)
    for _ in range(env.horizon):
        actions = rng.integers(4, size=episodes) if act is None else act()
        _, rewards, _, _, infos = env.step(actions)
        returns += rewards
    final = infos["final_info"]
    return {"return": returns} | {
        key: values for key, values in final.items() if not key.startswith("_")
    }


def episodes_of_references(env: VectorEnv[Any, Any, Any]) -> dict[str, dict[str, NDArray[Any]]]:
    """Play episodes like those of an environment with every reference policy that it has.

    Args:
        env: any vectorized environment.

    Returns:
        by reference what :func:`reference_episodes` returns; empty if the environment has none, as
            all but mazes.
    """
    env = env.unwrapped
    if not isinstance(env, MazeVectorEnv):
        return {}
    maze = env.task.arguments
    # a new map an episode takes its time
    episodes = 200 if maze["layout"] == "perfect" else 1000
    return {
        reference: reference_episodes(reference, episodes, env_class=type(env), **maze)
        for reference in REFERENCES
    }


def _walker(env: MazeVectorEnv, knows_goal: bool) -> Any:
    """Return a function that computes the next actions of agents that know the map.

    The function is for one episode of every environment.
    """
    walls = env.walls if env.task.fresh_every_episode else env.walls[:1]
    D = np.stack([distances(w) for w in walls])  # [B or 1, N, N] steps between free cells
    place = np.full(walls.shape, -1)  # number of a free cell, by maze, row and column
    for m, w in enumerate(walls):
        place[m][~w] = np.arange(len(free_cells(w)))
    b = np.arange(env.num_envs)
    maze = b % len(walls)
    known = np.zeros((env.num_envs, D.shape[1] + 1), bool)  # cells, and what -1 stands for
    moves = np.array(MOVES)
    reach = np.arange(env.task.view) - env.task.view // 2 if env.sees_goals else np.zeros(1, int)
    around = np.stack(np.meshgrid(reach, reach), axis=-1).reshape(-1, 1, 2)
    height, width = walls.shape[1:]

    def number(cells: NDArray[np.int64]) -> NDArray[np.int64]:
        """Numbers of cells ``[..., B, 2]``; -1 for walls and cells off the map."""
        row, col = cells[..., 0], cells[..., 1]
        inside = (row >= 0) & (row < height) & (col >= 0) & (col < width)
        numbers: NDArray[np.int64] = np.where(
            inside, place[maze, np.clip(row, 0, height - 1), np.clip(col, 0, width - 1)], -1
        )
        return numbers

    def act() -> NDArray[np.int64]:
        here, goal = number(env.position), number(env.goal)
        known[b, number(env.position + around)] = True
        unknown = np.where(known[:, :-1], np.inf, D[maze, here])
        target = np.where(knows_goal | env.goal_found, goal, unknown.argmin(axis=1))
        there = number(env.position + moves[:, None, :])  # [4, B]
        actions: NDArray[np.int64] = np.where(there >= 0, D[maze, there, target], np.inf).argmin(
            axis=0
        )
        return actions

    return act

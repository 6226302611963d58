"""Pictures of a maze, drawn only with NumPy."""

from collections.abc import Sequence
from colorsys import hsv_to_rgb
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from envs.layouts import Walls

Cell = tuple[int, int]

CELL = 32
"""Side of a cell in pixels."""
WALL, FLOOR, TRAIL, GOAL, AGENT, CLOCK = (
    np.array(rgb, np.uint8)
    for rgb in (
        (44, 62, 80),
        (245, 245, 240),
        (174, 205, 232),
        (39, 174, 96),
        (211, 84, 0),
        (142, 68, 173),
    )
)


def ansi(walls: Walls, agent: Cell, goal: Cell, goals: Sequence[Cell] = ()) -> str:
    """Draw the maze as text: ``#`` wall, ``.`` free, ``A`` agent, ``G`` goal.

    If there are several goals, ``g`` marks the others.
    """
    chars = np.where(walls, "#", ".")
    for other in goals:
        chars[other] = "g"
    chars[goal] = "G"
    chars[agent] = "A"
    return "\n".join("".join(row) for row in chars)


def rgb_array(
    walls: Walls,
    agent: Cell,
    goal: Cell,
    path: Sequence[Cell],
    time: float,
    goals: Sequence[Cell] = (),
) -> NDArray[np.uint8]:
    """Draw the maze as a picture ``[height, width, 3]``.

    The agent is a disc and the goal a diamond. A line joins the cells visited since the last goal.
    The bar below fills with the time of the episode. If there are several goals, each has its
    color, the others are smaller, and the bar has the color of the requested goal.
    """
    color, clock_color = GOAL, CLOCK
    picture = np.where(np.kron(walls, np.ones((CELL, CELL), bool))[..., None], WALL, FLOOR)
    # in cells, whole numbers at the cells' middles
    y, x = np.mgrid[: picture.shape[0], : picture.shape[1]] / CELL - 0.5

    for (r0, c0), (r1, c1) in pairwise(path):
        near = (
            (y > min(r0, r1) - 0.12)
            & (y < max(r0, r1) + 0.12)
            & (x > min(c0, c1) - 0.12)
            & (x < max(c0, c1) + 0.12)
        )
        picture[near] = TRAIL
    for i, cell in enumerate(goals):
        shade = np.array([255 * part for part in hsv_to_rgb(i / len(goals), 0.9, 0.8)], np.uint8)
        picture[np.abs(y - cell[0]) + np.abs(x - cell[1]) < 0.25] = shade
        if cell == goal:
            color = clock_color = shade
    picture[np.abs(y - goal[0]) + np.abs(x - goal[1]) < 0.4] = color
    picture[np.hypot(y - agent[0], x - agent[1]) < 0.3] = AGENT

    clock = np.broadcast_to(FLOOR, (CELL // 2, picture.shape[1], 3)).copy()
    clock[4:-4, : round(time * picture.shape[1])] = clock_color
    return np.concatenate([picture, clock])

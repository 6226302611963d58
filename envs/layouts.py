"""Wall maps of the maze: the named layouts, and your own drawings."""

import numpy as np
from numpy.typing import NDArray

Walls = NDArray[np.bool_]
"""``[height, width]``, true where there is a wall. Outside the map everything is wall."""

LAYOUTS = ("pillars", "open", "perfect")


def pillars(size: int) -> Walls:
    """Return a map with an outer wall and a pillar on every interior cell with even row and column.

    The centre is open.
    """
    walls = open_field(size)
    walls[2:-1:2, 2:-1:2] = True
    walls[size // 2, size // 2] = False
    return walls


def open_field(size: int) -> Walls:
    """Return a map with an outer wall only."""
    walls = np.zeros((size, size), dtype=bool)
    walls[[0, -1], :] = walls[:, [0, -1]] = True
    return walls


def perfect(size: int, rng: np.random.Generator) -> Walls:
    """Return a spanning-tree maze, with exactly one path between any two cells.

    The generator is a depth-first search, with rooms on odd rows and columns.
    """
    walls = np.ones((size, size), dtype=bool)
    walls[1, 1] = False
    path = [(1, 1)]
    while path:
        row, col = path[-1]
        steps = [
            (dr, dc)
            for dr, dc in ((-2, 0), (2, 0), (0, -2), (0, 2))
            if 0 < row + dr < size - 1 and 0 < col + dc < size - 1 and walls[row + dr, col + dc]
        ]
        if not steps:
            path.pop()
            continue
        dr, dc = steps[rng.integers(len(steps))]
        walls[row + dr // 2, col + dc // 2] = walls[row + dr, col + dc] = False
        path.append((row + dr, col + dc))
    return walls


def parse(drawing: str) -> Walls:
    """Parse a layout from rows of ``#`` (wall) and ``.`` (free), separated by line breaks.

    Raises:
        ValueError: if the rows differ in length, if they contain another character or fewer than
            two free cells, or if a free cell cannot be reached from the others.
    """
    rows = [row.strip() for row in drawing.strip().splitlines() or [""]]
    if unknown := sorted(set("".join(rows)) - set("#.")):
        named = ", ".join(LAYOUTS)
        raise ValueError(
            f"unknown layout {drawing!r}: it must be one of {named}, or rows of '#' and '.'; "
            f"found {''.join(unknown)!r}"
        )
    if ragged := [i for i, row in enumerate(rows) if len(row) != len(rows[0])]:
        i = ragged[0]
        raise ValueError(
            f"the rows of a layout must be equally long: row 1 has {len(rows[0])} cells, row "
            f"{i + 1} has {len(rows[i])}"
        )
    walls = np.array([[cell == "#" for cell in row] for row in rows], dtype=bool).reshape(
        len(rows), -1
    )
    free = np.argwhere(~walls)
    if len(free) < 2:
        raise ValueError(
            "a layout needs at least two free cells ('.'), one for the agent and one for the "
            f"goal; it has {len(free)}"
        )
    reached = np.isfinite(distances(walls)[0])
    if not reached.all():
        row, col = free[~reached][0]
        raise ValueError(
            f"a goal at row {row + 1}, column {col + 1} of the layout could not be reached: join "
            "all free cells"
        )
    return walls


def free_cells(walls: Walls) -> NDArray[np.int64]:
    """Return rows and columns of the free cells, ``[N, 2]``, in reading order."""
    return np.argwhere(~walls)


def centre_cell(walls: Walls) -> tuple[int, int]:
    """Return the free cell nearest to the middle of the map, or the middle itself if free."""
    free = free_cells(walls)
    row, col = free[np.abs(free - (np.array(walls.shape) - 1) / 2).sum(axis=1).argmin()]
    return int(row), int(col)


def distances(walls: Walls) -> NDArray[np.float64]:
    """Return the steps between any two free cells, ``[N, N]``, in the order of :func:`free_cells`.

    The distance is infinite if there is no path.
    """
    padded = np.pad(walls, 1, constant_values=True)
    index = np.full(padded.shape, -1)
    index[~padded] = np.arange((~padded).sum())
    rows, cols = (~padded).nonzero()
    # [4, N]
    neighbours = np.stack(
        [index[rows + dr, cols + dc] for dr, dc in ((-1, 0), (1, 0), (0, -1), (0, 1))]
    )
    steps = np.where(np.eye(len(rows), dtype=bool), 0.0, np.inf)
    while True:
        through = np.where((neighbours >= 0)[:, :, None], steps[neighbours], np.inf).min(axis=0) + 1
        if (through >= steps).all():
            return steps
        steps = np.minimum(steps, through)

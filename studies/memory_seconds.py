"""Seconds of an update of every agent on the memory tasks, one thread, one agent after the other:

python -m studies.memory_seconds [--json FILE].

The trainings of studies.memory run side by side, and their seconds with what else the machine does.
Here each makes a few updates on its own. The median counts.
"""

import json
import sys
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import tyro
from rich.console import Console
from rich.table import Table

from studies import memory

UPDATES, EVERY = 15, 3
"""Updates of a training, and those that are timed together."""


@dataclass
class Options:
    json: Path | None = None
    """Where to write the figures."""


def seconds_per_update(grid: memory.Grid, runs: Path) -> dict[str, dict[str, float]]:
    """Of each setting of a grid and each agent."""
    short = replace(grid, updates=UPDATES, interval=EVERY, tests=[], seeds=1, stops=False)
    options = memory.Options(grid=grid.task, runs=runs)
    figures: dict[str, dict[str, float]] = {}
    for command in memory.commands(short, options):
        if (failed := memory.run(command)) is not None:
            sys.exit(f"error: {failed} failed")
        (result,) = memory.collect([Path(command[-1])])
        each = np.diff([0, *result["seconds"]]) / EVERY
        figures.setdefault(memory.task_of(result), {})[result["agent"]] = round(
            float(np.median(each)), 5
        )
    return figures


def main(options: Options) -> None:
    figures: dict[str, dict[str, float]] = {}
    with tempfile.TemporaryDirectory() as runs:
        for grid in memory.GRIDS.values():
            figures |= seconds_per_update(grid, Path(runs))
    table = Table("task", "agent", "ms per update")
    for task, each in figures.items():
        for agent, seconds in each.items():
            table.add_row(task, agent, f"{1e3 * seconds:.1f}")
    Console().print(table)
    if options.json is not None:
        options.json.write_text(json.dumps(figures, indent=1) + "\n")


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))

"""How far runs had come after some steps: goals per episode while training, from run directories.

python -m studies.progress NAME=DIR [NAME=DIR ...] --json docs/initialization.json

NAME is what a group of runs is called in the file; DIR holds run directories, at any depth. Other
groups in the file stay as they are.
"""

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro

from experiments.configuration import Run
from experiments.run import read_progress

POINTS = (500_000, 1_000_000, 1_500_000, 2_000_000)
WINDOW = 150_000
"""Steps before a point that the mean is taken over."""


@dataclass
class Options:
    groups: tyro.conf.Positional[Annotated[tuple[str, ...], tyro.conf.arg(metavar="NAME=DIR")]]
    """Groups of runs."""
    json: Path
    """Where to write the figures."""


def row(directory: Path) -> dict[str, Any]:
    """What is known of one run; None for points that it did not reach."""
    run = Run.load(directory)
    history = [
        (r["time/total_timesteps"], r["rollout/goals"])
        for r in read_progress(directory)
        if "rollout/goals" in r
    ]
    goals = []
    for point in POINTS:
        near = [g for steps, g in history if point - WINDOW < steps <= point + 10_000]
        reached = bool(history) and history[-1][0] >= 0.98 * point
        goals.append(round(sum(near) / len(near), 2) if reached and near else None)
    return {
        "agent": run.agent,
        "seed": run.seed,
        "learning_rate": run.hyperparameters.algorithm.learning_rate,
        "init": run.hyperparameters.core.init,
        "goals": goals,
    }


def main(options: Options) -> None:
    figures = json.loads(options.json.read_text()) if options.json.exists() else {}
    figures["points"] = POINTS
    for group in options.groups:
        name, _, directory = group.partition("=")
        rows = [row(config.parent) for config in sorted(Path(directory).rglob("config.json"))]
        if not rows:
            sys.exit(f"there are no run directories in {directory}")
        figures[name] = rows
    options.json.write_text(json.dumps(figures, indent=1) + "\n")


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))

"""The mean error on bAbI over the epochs of trainings (docs/memory.md).

python -m studies.babi RESULT ... --plot docs/babi.png

RESULT is the result.json of a run of experiments.babi.
"""

import json
from pathlib import Path
from typing import Annotated

import numpy as np
import tyro
from matplotlib import pyplot as plt
from matplotlib.ticker import PercentFormatter

from experiments.analysis.figures import Line, draw_lines, save_figure
from experiments.command_line import UsageError, run_main

PUBLISHED = {"the MNM paper": 0.0055}
"""Mean error of its MNM-p (Munkhdalai et al. 2019)."""


def main(
    results: tyro.conf.Positional[Annotated[tuple[Path, ...], tyro.conf.arg(metavar="RESULT ...")]],
    plot: Path,
) -> None:
    """Draw.

    Args:
        results: Of runs. Those of one agent make one line, with the range between them, over the
            epochs that all of them have.
        plot: Where to draw them.

    Raises:
        UsageError: if no result is named, or a file is none.
    """
    if not results:
        raise UsageError("name the result.json of at least one run")
    runs = [read(file) for file in results]
    lines: dict[str, Line] = {}
    for agent in dict.fromkeys(agent for agent, _ in runs):
        own = (errors for other, errors in runs if other == agent)
        errors = np.array(list(zip(*own, strict=False)))
        epochs = np.arange(1.0, len(errors) + 1)
        lines[agent] = (epochs, errors.mean(axis=1), errors.min(axis=1), errors.max(axis=1))
    figure, axes = plt.subplots(figsize=(8, 4), layout="constrained")
    draw_lines(axes, lines, PUBLISHED, bottom=0)
    axes.set(xlabel="epochs", ylabel="mean error")
    axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    save_figure(figure, plot)


def read(file: Path) -> tuple[str, list[float]]:
    """The agent of a run, and its mean error after each epoch."""
    try:
        run = json.loads(file.read_text())
        return run["agent"], [epoch["mean_error"] for epoch in run["epochs_done"]]
    except (ValueError, KeyError, TypeError):
        raise UsageError(f"{file} is not the result of a run of experiments.babi") from None


if __name__ == "__main__":
    run_main(lambda args: tyro.cli(main, args=args, description=__doc__))

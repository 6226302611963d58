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

PUBLISHED = {"the MNM paper": 0.0055}
"""Mean error of its MNM-p (Munkhdalai et al. 2019)."""


def main(
    results: tyro.conf.Positional[Annotated[tuple[Path, ...], tyro.conf.arg(metavar="RESULT ...")]],
    plot: Path,
) -> None:
    """Draw.

    Args:
        results: Results of runs, named by their agents.
        plot: Where to draw them.
    """
    lines: dict[str, Line] = {}
    for file in results:
        run = json.loads(file.read_text())
        epochs, errors = (
            np.array([epoch[key] for epoch in run["epochs_done"]], dtype=np.float64)
            for key in ("epoch", "mean_error")
        )
        lines[run["agent"]] = (epochs, errors, errors, errors)
    figure, axes = plt.subplots(figsize=(8, 4), layout="constrained")
    draw_lines(axes, lines, PUBLISHED, bottom=0)
    axes.set(xlabel="epochs", ylabel="mean error")
    axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    save_figure(figure, plot)


if __name__ == "__main__":
    tyro.cli(main, description=__doc__)

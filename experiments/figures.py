"""Learning curves of runs, and what all figures share."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib import pyplot as plt
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter
from numpy.typing import NDArray

from agents import AGENTS
from experiments.command_line import UsageError, first_line
from experiments.run import Run, read_progress
from experiments.scores import references

mpl.use("Agg")


def learning_curves(runs: Sequence[tuple[Path, Run]], path: Path) -> None:
    """Draw goals (or returns, where an environment has no goals) over steps: an agent's mean, and thinly each of its seeds."""
    figure, axes = plt.subplots(figsize=(8, 4.5), layout="constrained")
    key, label = "rollout/goals", "goals per episode"
    progress = [read_progress(directory) for directory, _ in runs]
    if not all(any(key in row for row in rows) for rows in progress):
        key, label = "rollout/ep_rew_mean", "return"
    curves: dict[str, list[NDArray[Any]]] = {run.agent: [] for _, run in runs}
    for (_, run), rows in zip(runs, progress, strict=True):
        if points := [(row["time/total_timesteps"], row[key]) for row in rows if key in row]:
            curves[run.agent].append(np.array(points).T)
    for agent, seeds in curves.items():
        if seeds:
            steps = np.linspace(max(x[0] for x, _ in seeds), min(x[-1] for x, _ in seeds), 500)
            axes.plot(steps, np.mean([np.interp(steps, x, y) for x, y in seeds], axis=0), color=agent_color(agent), label=agent)
        if len(seeds) > 1:
            for x, y in seeds:
                axes.plot(x, y, color=agent_color(agent), linewidth=0.7, alpha=0.3)
    environments = list(dict.fromkeys(run.environment for _, run in runs))
    if key == "rollout/goals" and len(environments) == 1:
        for name, score in references(runs[0][1]).items():
            goals = score.goals or 0.0
            axes.axhline(goals, color="gray", linestyle="--", linewidth=1)
            axes.annotate(name, (1, goals), xycoords=("axes fraction", "data"), ha="right", va="bottom", color="gray", fontsize=9)
    axes.set(xlabel="environment steps", ylabel=label, title=", ".join(environments))
    axes.set_xlim(left=0)
    axes.xaxis.set_major_formatter(EngFormatter(sep=""))
    if axes.get_legend_handles_labels()[0]:
        axes.legend(loc="center left", bbox_to_anchor=(1, 0.5), frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    save_figure(figure, path)


def agent_color(agent: str) -> str:
    """The color of an agent, the same in every figure."""
    return f"C{list(AGENTS).index(agent)}"


def save_figure(figure: Figure, path: Path) -> None:
    """Write a figure, and close it.

    Raises:
        UsageError: if the file's ending names no format.
    """
    try:
        figure.savefig(path, dpi=120)
    except ValueError as error:  # an ending that matplotlib does not know
        raise UsageError(f"cannot draw {path}: {first_line(error)}") from error
    finally:
        plt.close(figure)

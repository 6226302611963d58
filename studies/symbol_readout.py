"""Which of the symbols shown so far an agent still has in its output, by how many steps ago they
were shown, on RepeatPrevious.

python -m studies.symbol_readout RUN [RUN ...] --json FILE --plot FILE

A linear map is fitted to the outputs of the core, one map for each number of steps, and tested on
other episodes.
"""

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tyro
from matplotlib.ticker import PercentFormatter
from numpy.typing import NDArray

from envs.memory_tasks import RepeatPrevious
from experiments.analysis.figures import make_figure, save_figure, style_of
from experiments.analysis.readout import core_outputs, ridge
from experiments.configuration import Run
from experiments.run import make_env

EPISODES = 512
"""Half of them to fit the maps, half to test them."""
STEPS = 40
"""The outputs of so many steps at the end of each episode are used, and symbols are asked for as
far back."""


@dataclass
class Options:
    runs: tyro.conf.Positional[tuple[Path, ...]]
    """Run directories of RepeatPrevious; of several of an agent, the mean is shown."""
    json: Path
    """Where to write the shares of symbols that were read right."""
    plot: Path
    """Where to draw them."""


def played(run: Run, directory: Path) -> tuple[NDArray[Any], NDArray[Any]]:
    """The core's outputs ``[T, B, D]`` and the symbols ``[T, B, symbols]``, one-hot, of one episode
    in each environment."""
    env = make_env(run, EPISODES)
    env.seed(0)
    outputs, seen = core_outputs(directory, run, env, env.reset(), seed=0)
    return outputs, seen[:, :, RepeatPrevious(**run.env_kwargs).part("symbol")]


def read(outputs: NDArray[Any], symbols: NDArray[Any]) -> list[float]:
    """The share of symbols that are read right, 0, 1, ..., ``STEPS`` - 1 steps after they were
    shown.

    Args:
        outputs: ``[T, B, D]``; the maps are fitted to the first half of the B episodes.
        symbols: one-hot, ``[T, B, symbols]``.
    """
    T, half = len(outputs), outputs.shape[1] // 2
    x = outputs[T - STEPS :]
    shares = []
    for ago in range(STEPS):
        y = symbols[T - STEPS - ago : T - ago]
        fitted, tested = (
            [_samples(part[:, own]) for part in (x, y)] for own in (slice(half), slice(half, None))
        )
        predicted = ridge(fitted[0], fitted[1], tested[0])
        shares.append(float((predicted.argmax(-1) == tested[1].argmax(-1)).mean()))
    return shares


def _samples(part: NDArray[Any]) -> NDArray[Any]:
    return part.reshape(-1, part.shape[-1]).astype(float)


def draw(shares: dict[str, list[float]], lag: int, path: Path) -> None:
    figure, axes = make_figure()
    for agent, share in shares.items():
        axes.plot(range(STEPS), share, label=agent, linewidth=1.8, **style_of(agent, list(shares)))
    axes.axvline(lag, color="gray", linestyle=":", linewidth=1)
    axes.text(lag, 1.0, " asked for", color="gray", fontsize=9, va="top")
    axes.set(xlabel="steps since a symbol was shown", ylabel="symbols read right", ylim=(0.2, 1.02))
    axes.yaxis.set_major_formatter(PercentFormatter(1))
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, labelcolor="linecolor")
    save_figure(figure, path)


def main(options: Options) -> None:
    runs = [Run.load(directory) for directory in options.runs]
    for run in runs:
        steps = run.env_kwargs.get("steps", RepeatPrevious.steps)
        if run.env != "mnm/RepeatPrevious-v0" or steps < 2 * STEPS:
            sys.exit(
                f"error: needs runs of mnm/RepeatPrevious-v0 with steps={2 * STEPS} or more, and "
                f"not of {run.environment}"
            )
    found: dict[str, list[list[float]]] = {}
    for directory, run in zip(options.runs, runs, strict=True):
        found.setdefault(run.agent, []).append(read(*played(run, directory)))
    shares = {agent: np.mean(seeds, axis=0).round(3).tolist() for agent, seeds in found.items()}
    options.json.write_text(json.dumps(shares, indent=1) + "\n")
    draw(shares, runs[0].env_kwargs.get("lag", RepeatPrevious.lag), options.plot)


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))

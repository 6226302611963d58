"""Which of the symbols shown so far an agent still has in its output, by how many steps ago they
were shown, on RepeatPrevious.

python -m studies.symbol_readout RUN [RUN ...] --json FILE --plot FILE

A linear map is fitted to the outputs of the core, one map for each number of steps, and tested on
other episodes.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tyro
from matplotlib.ticker import PercentFormatter
from numpy.typing import NDArray
from stable_baselines3.common.utils import set_random_seed
from torch import Tensor, nn

from experiments.analysis.figures import make_figure, save_figure, style_of
from experiments.analysis.readout import ridge
from experiments.configuration import Run
from experiments.run import load_model, make_env, newest_model

EPISODES = 512
"""Half of them to fit the maps, half to test them."""
STEPS = 40
"""The outputs of so many steps at the end of each episode are used, and symbols are asked for as
far back."""


@dataclass
class Options:
    runs: tyro.conf.Positional[tuple[Path, ...]]
    """Run directories of RepeatPrevious."""
    json: Path
    """Where to write the shares of symbols that were read right."""
    plot: Path
    """Where to draw them."""


def played(run: Run, directory: Path) -> tuple[NDArray[Any], NDArray[Any]]:
    """The core's outputs ``[T, B, D]`` and the symbols ``[T, B, symbols]``, one-hot, of one episode
    in each environment."""
    env = make_env(run, EPISODES)
    model = load_model(run, newest_model(directory), env, "cpu")
    set_random_seed(0)
    env.seed(0)
    outputs: list[NDArray[Any]] = []
    seen: list[NDArray[Any]] = []

    def keep(module: nn.Module, args: Any, result: tuple[Tensor, ...]) -> None:
        outputs.append(result[0][0].numpy())

    obs: Any = env.reset()
    state, starts = None, np.ones(EPISODES, bool)
    with model.policy.core.register_forward_hook(keep):
        while len(seen) == 0 or not starts.any():
            seen.append(obs[:, :-1])  # without whether it is asked
            actions, state = model.predict(obs, state, starts)
            obs, _, starts, _ = env.step(actions)
    return np.stack(outputs), np.stack(seen)


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
    shares = {}
    for directory in options.runs:
        run = Run.load(directory)
        shares[run.agent] = [round(share, 3) for share in read(*played(run, directory))]
    options.json.write_text(json.dumps(shares, indent=1) + "\n")
    draw(shares, Run.load(options.runs[0]).env_kwargs["lag"], options.plot)


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))

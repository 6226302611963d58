"""What the initial weights of a core do to what it learns: A2C on the small maze, one change at a
time.

python -m studies.initialization [--cores lstm rnn] [--seeds 2] [--json FILE]
"""

import json
import os
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import tyro
from rich.console import Console
from rich.table import Table
from torch import nn

from agents import AGENTS
from experiments.configuration import Run
from experiments.run import build, make_env
from mnm_rl.callbacks import EpisodeMeans
from mnm_rl.initialization import orthogonal_blocks_, scaled_inputs_

Change = Callable[[Any], None]
"""Changes the weights of a core that was initialized with ``init="pytorch"``."""


def inputs(gain: float, name: str) -> Change:
    """Weights of the inputs from ``N(0, (gain / sqrt F)^2)``."""

    def change(core: Any) -> None:
        weight = core.get_parameter(name).data
        scaled_inputs_(weight, gain)

    return change


def orthogonal(name: str, gain: float = 1.0) -> Change:
    """Recurrent weights of orthogonal blocks."""
    return lambda core: orthogonal_blocks_(core.get_parameter(name), gain)


def forget_bias(core: Any) -> None:
    """Bias of the forget gate 1 (Gers et al. 2000; Jozefowicz et al. 2015)."""
    D = core.hidden_size
    nn.init.zeros_(core.cell.bias_hh)
    nn.init.ones_(core.cell.bias_hh.data[D : 2 * D])


CHANGES: dict[str, dict[str, list[Change]]] = {
    "lstm": {
        "pytorch": [],
        "inputs 1": [inputs(1, "cell.weight_ih")],
        "inputs 2": [inputs(2, "cell.weight_ih")],
        "inputs 4": [inputs(4, "cell.weight_ih")],
        "inputs 2, orthogonal": [inputs(2, "cell.weight_ih"), orthogonal("cell.weight_hh")],
        "inputs 2, forget bias 1": [inputs(2, "cell.weight_ih"), forget_bias],
        "inputs 2, orthogonal, forget bias 1": [
            inputs(2, "cell.weight_ih"),
            orthogonal("cell.weight_hh"),
            forget_bias,
        ],
    },
    "rnn": {
        "pytorch": [],
        "inputs 1": [inputs(1, "cell.weight_ih")],
        "inputs 2": [inputs(2, "cell.weight_ih")],
        "orthogonal": [orthogonal("cell.weight_hh")],
        "inputs 1, orthogonal": [inputs(1, "cell.weight_ih"), orthogonal("cell.weight_hh")],
        "inputs 2, orthogonal": [inputs(2, "cell.weight_ih"), orthogonal("cell.weight_hh")],
    },
    "plastic": {
        "pytorch": [],
        "inputs 1": [inputs(1, "input.weight")],
        "inputs 2": [inputs(2, "input.weight")],
        "orthogonal": [orthogonal("w")],
        "inputs 1, orthogonal": [inputs(1, "input.weight"), orthogonal("w")],
        "inputs 2, orthogonal": [inputs(2, "input.weight"), orthogonal("w")],
    },
}
CHANGES["plastic-modulated"] = CHANGES["plastic"]


@dataclass
class Options:
    cores: tuple[str, ...] = tuple(CHANGES)
    """Which agents."""
    seeds: int = 2
    """Seeds a variant, from 0."""
    total_timesteps: int = 1_000_000
    """Environment steps of each training."""
    json: Path | None = None
    """Where to write the figures."""
    processes: int = os.cpu_count() or 1
    """Trainings at once."""


class Goals(EpisodeMeans):
    """The running mean of goals an episode, after every rollout."""

    def __init__(self) -> None:
        super().__init__("goals", window=128)
        self.curve: list[float] = []

    def _on_rollout_end(self) -> None:
        if self.mean is not None:
            self.curve.append(self.mean)


def train(agent: str, variant: str, seed: int, total_timesteps: int) -> dict[str, Any]:
    torch.set_num_threads(1)
    run = Run(
        hyperparameters=AGENTS[agent]
        .defaults("a2c")
        .changed(init="pytorch", popart=False, reward_scale=0.1),
        env="mnm/MazeSmall-v0",
        env_kwargs={},
        total_timesteps=total_timesteps,
        n_envs=64,
        seed=seed,
    )
    model = build(run, make_env(run, run.n_envs, run.hyperparameters.algorithm.reward_scale), "cpu")
    for change in CHANGES[agent][variant]:
        change(model.policy.core)
    goals = Goals()
    model.learn(total_timesteps, callback=goals)
    last = goals.curve[-max(1, len(goals.curve) // 10) :]
    return {
        "agent": agent,
        "variant": variant,
        "seed": seed,
        "goals_along_the_way": sum(goals.curve) / len(goals.curve),
        "goals_at_the_end": sum(last) / len(last),
    }


def main(options: Options) -> None:
    jobs = [
        (agent, variant, seed, options.total_timesteps)
        for agent in options.cores
        for variant in CHANGES[agent]
        for seed in range(options.seeds)
    ]
    with ProcessPoolExecutor(options.processes) as pool:
        runs = list(pool.map(train, *zip(*jobs, strict=True)))
    table = Table(
        title=f"goals along the way / at the end of {options.total_timesteps:,} steps, each seed"
    )
    for column in ("agent", "initial weights", "goals"):
        table.add_column(column)
    for agent in options.cores:
        for variant in CHANGES[agent]:
            own = [run for run in runs if (run["agent"], run["variant"]) == (agent, variant)]
            goals = ", ".join(
                f"{run['goals_along_the_way']:.1f}/{run['goals_at_the_end']:.1f}" for run in own
            )
            table.add_row(agent, variant, goals)
    Console().print(table)
    if options.json is not None:
        options.json.write_text(json.dumps(runs, indent=1) + "\n")


if __name__ == "__main__":
    main(tyro.cli(Options))

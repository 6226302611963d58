"""How training scales with processes: python -m benchmarks.scaling [--processes 1 2] [--json FILE]

Each process has one thread and 64 environments of ``mnm/Maze-v0``, so the work of a process stays
the same. Efficiency is the steps per second over those of one process, divided by the number of
processes. Of several rollouts with their updates the best counts. Beside it: how often an update
exchanges gradients, how large they are, and how long one exchange takes that waits for nobody.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import tyro
from rich.console import Console
from rich.table import Table
from stable_baselines3.common.logger import Logger

from agents import AGENTS
from experiments.configuration import Run
from experiments.run import build, make_env, own_envs
from mnm_rl.algorithms import distributed

N_ENVS = 64


@dataclass
class Options:
    agents: tuple[str, ...] = ("mnm-p", "lstm")
    """Agents to train."""
    processes: tuple[int, ...] = (1, 2)
    """Numbers of processes, the first of which is compared with; no more than there are cores."""
    rollouts: int = 10
    """Rollouts to measure, each with its update."""
    json: Path | None = None
    """Where to write the figures."""


def best_of(what: Callable[[], object], times: int) -> float:
    seconds = []
    for _ in range(times):
        start = time.perf_counter()
        what()
        seconds.append(time.perf_counter() - start)
    return min(seconds)


def measure(agent: str, rollouts: int) -> dict[str, Any]:
    """Figures of one training, in which this process takes part."""
    n_envs = N_ENVS * distributed.world_size()
    run = Run(
        hyperparameters=AGENTS[agent].defaults(),
        env="mnm/Maze-v0",
        env_kwargs={},
        total_timesteps=1,
        n_envs=n_envs,
        seed=0,
    )
    model = build(run, make_env(run, own_envs(run)), "cpu")
    model.set_logger(Logger(None, []))
    _, callback = model._setup_learn(0)
    exchanges = 0

    def count(*_: Any) -> None:
        nonlocal exchanges
        exchanges += 1

    model.policy.optimizer.register_step_post_hook(count)

    def rollout_and_update() -> None:
        nonlocal exchanges
        exchanges = 0
        assert model.env is not None
        model.collect_rollouts(
            model.env, callback, model.rollout_buffer, n_rollout_steps=model.n_steps
        )
        model.train()

    rollout_and_update()  # kernels are compiled or loaded
    seconds = best_of(rollout_and_update, rollouts)
    gradients = [p.grad for p in model.policy.parameters() if p.grad is not None]
    return {
        "agent": agent,
        "processes": distributed.world_size(),
        "steps_per_second": model.n_steps * n_envs / seconds,
        "seconds": seconds,
        "exchanges": exchanges,
        "bytes": sum(g.numel() * g.element_size() for g in gradients),
        "exchange_seconds": best_of(lambda: distributed.average(gradients), 100),
    }


def child(agent: str, rollouts: str, out: str) -> None:
    torch.set_num_threads(1)
    distributed.join("cpu")
    measured = measure(agent, int(rollouts))
    if distributed.is_first():
        Path(out).write_text(json.dumps(measured))


def with_torchrun(agent: str, processes: int, rollouts: int) -> dict[str, Any]:
    """Measure in so many new processes; one alone is started without torchrun."""
    torchrun = (
        ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
        if processes > 1
        else []
    )
    with tempfile.NamedTemporaryFile() as out:
        arguments = ["-m", "benchmarks.scaling", "--child", agent, str(rollouts), out.name]
        subprocess.run(
            [sys.executable, *torchrun, *arguments],
            check=True,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
        )
        measured: dict[str, Any] = json.loads(Path(out.name).read_text())
    return measured


def main(options: Options) -> None:
    table = Table(
        "agent", "processes", "steps/s", "efficiency", "exchanges an update", "kB", "ms each"
    )
    figures = []
    for agent in options.agents:
        of_one = 0.0
        for processes in options.processes:
            row = with_torchrun(agent, processes, options.rollouts)
            per_process = row["steps_per_second"] / processes
            of_one = of_one or per_process
            row["efficiency"] = per_process / of_one
            figures.append(row)
            table.add_row(
                *(
                    agent,
                    str(processes),
                    f"{row['steps_per_second']:,.0f}",
                    f"{row['efficiency']:.0%}",
                    str(row["exchanges"]),
                ),
                *(f"{row['bytes'] / 1000:,.0f}", f"{1000 * row['exchange_seconds']:.2f}"),
            )
    Console().print(table)
    if options.json is not None:
        options.json.write_text(json.dumps(figures, indent=1) + "\n")


if __name__ == "__main__":
    if sys.argv[1:2] == ["--child"]:
        child(*sys.argv[2:])
    else:
        main(tyro.cli(Options, description=__doc__))

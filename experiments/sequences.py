"""Train any core on a memory task without reinforcement learning: python -m experiments.sequences
TASK AGENT [options]."""

import os
import signal

# the imports take seconds: until run_main takes over, Ctrl-C ends without a traceback
if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    # PyTorch's threads wait asleep: ten times as fast on a busy core
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import sys
from collections.abc import Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
import tyro
from torch import nn

from agents import AGENTS, Agent
from envs.memory_tasks import TASKS, MemoryTask
from experiments.command_line import (
    MAX_SEED,
    UsageError,
    check_range,
    first_line,
    key_values,
    parse,
    run_main,
)
from experiments.supervised import (
    Batch,
    SequenceModel,
    Trainer,
    Training,
    build_core,
    find_agent,
    names,
    versions,
    write_json,
)
from mnm_rl.progress import ProgressLine

USAGE = f"""usage: python -m experiments.sequences TASK AGENT [options]

TASK is one of {", ".join(TASKS)}.
AGENT is one of {", ".join(AGENTS)}.
Options: python -m experiments.sequences TASK AGENT --help"""


@dataclass(frozen=True, kw_only=True)
class Options:
    training: tyro.conf.OmitArgPrefixes[Training] = field(default_factory=Training)
    """Of the training."""
    core: tyro.conf.OmitArgPrefixes[Agent]
    """Of the agent's core."""
    task_kwargs: tuple[str, ...] = ()
    """Settings of the task, such as pairs=8."""
    test: tuple[str, ...] = ()
    """Other settings to test on, each on its own, such as items=20 items=40,min_items=40."""
    updates: int = 2_000
    """Updates to train for."""
    until: float | None = None
    """Stop at the first evaluation with this share of right answers."""
    batch_size: int = 64
    """Episodes of an update, all of them new."""
    interval: int = 20
    """Updates between two evaluations."""
    episodes: int = 512
    """Episodes of an evaluation, all of them new."""
    seed: int = 0
    """Seed of the weights and the episodes."""
    out: Path | None = None
    """Where to write the result (default: runs/<task>/<agent>/seed<S>.json)."""
    threads: int | None = None
    """CPU threads (default: all cores)."""


def main(args: Sequence[str]) -> None:
    name, agent, options = parse_options(args)
    if options.threads is not None:
        torch.set_num_threads(options.threads)

    # What to train on what, and where the result goes.
    changes = key_values(options.task_kwargs, "--task-kwargs", "pairs=8")
    task = make_task(name, changes)
    tests = {"": task} | {
        test: like(
            task, test, make_task(name, changes | key_values(test.split(","), "--test", "items=20"))
        )
        for test in options.test
    }
    title = "-".join([name, *(f"{key}={value}" for key, value in changes.items())])
    out = options.out or Path("runs") / title / agent / f"seed{options.seed}.json"
    if out.exists():
        raise UsageError(f"{out} is there already; give --out another name")
    out.parent.mkdir(parents=True, exist_ok=True)

    torch.manual_seed(options.seed)
    model = SequenceModel(
        nn.Identity(), build_core(options.core, task.observation_size), task.n_answers
    )
    training, testing = (
        np.random.default_rng(sequence)
        for sequence in np.random.SeedSequence(options.seed).spawn(2)
    )
    trainer = Trainer(model, options.training)
    parameters = sum(p.numel() for p in model.parameters())
    print(f"{agent} on {title}, {parameters:,} parameters", file=sys.stderr)

    # Train, on new episodes at every update, and evaluate on others, new as well.
    evaluations: list[dict[str, Any]] = []
    losses: list[float] = []
    trainer.compile(episodes(task, np.random.default_rng(0), options.batch_size))
    with closing(ProgressLine(options.updates, "updates")) as progress:
        for update in range(1, options.updates + 1):
            losses.append(trainer.update(episodes(task, training, options.batch_size)))
            if update % options.interval == 0 or update == options.updates:
                accuracies = {
                    test: accuracy(model, other, testing, options.episodes)
                    for test, other in tests.items()
                }
                reached = accuracies.pop("")
                evaluations.append(
                    {
                        "updates": update,
                        "seconds": round(trainer.seconds, 3),
                        "loss": round(float(np.mean(losses)), 6),
                        "accuracy": reached,
                    }
                    | ({"tests": accuracies} if tests.keys() - {""} else {})
                )
                losses.clear()
                progress.show(update, f"{reached:.1%} right")
                if options.until is not None and reached >= options.until:
                    break

    result = {
        "task": name,
        "task_kwargs": changes,
        "agent": agent,
        "hyperparameters": asdict(options.training) | options.core.arguments(),
        "batch_size": options.batch_size,
        "seed": options.seed,
        "threads": torch.get_num_threads(),
        "parameters": parameters,
        "versions": versions(),
        "until": options.until,
        "evaluations": evaluations,
    }
    write_json(out, result)
    last = evaluations[-1]
    others = "".join(f", {test}: {share:.1%}" for test, share in last.get("tests", {}).items())
    print(
        f"{last['updates']:,} updates, {last['seconds']:.1f} s: {last['accuracy']:.1%} "
        f"right{others}; in {out}"
    )


def make_task(name: str, changes: dict[str, Any]) -> MemoryTask:
    """A task with other settings than its own.

    Raises:
        UsageError: if it does not take them.
    """
    try:
        return TASKS[name](**changes)
    except (TypeError, ValueError) as error:
        raise UsageError(f"the task {name} cannot be made: {first_line(error)}") from error


def like(task: MemoryTask, test: str, other: MemoryTask) -> MemoryTask:
    """``other``, if a model of ``task`` can be tested on it.

    Raises:
        UsageError: if not.
    """
    for what in ("observation_size", "n_answers"):
        if getattr(other, what) != getattr(task, what):
            raise UsageError(
                f"--test {test} has another {what} ({getattr(other, what)}) than the task trained "
                f"on ({getattr(task, what)})"
            )
    return other


def episodes(task: MemoryTask, rng: np.random.Generator, n: int) -> Batch:
    """n new episodes, one a sequence."""
    observations, targets = (torch.from_numpy(array) for array in task.episodes(rng, n))
    asks = (targets >= 0).int()
    counts = asks.flip(0).cummax(dim=0).values.flip(0).bool()  # until the last step that asks
    return Batch(observations, targets, torch.zeros_like(counts), counts)


def accuracy(model: SequenceModel, task: MemoryTask, rng: np.random.Generator, n: int) -> float:
    """The share of right answers in n new episodes, at most 256 of them at once."""
    sizes = [min(256, n - first) for first in range(0, n, 256)]
    return (
        torch.cat([model.right(episodes(task, rng, size))[0] for size in sizes])
        .float()
        .mean()
        .item()
    )


def parse_options(args: Sequence[str]) -> tuple[str, str, Options]:
    task, agent = names(args, USAGE, "a task", "an agent")
    if task not in TASKS:
        raise UsageError(f"unknown task {task!r}: it must be one of {', '.join(TASKS)}")
    defaults = Options(core=find_agent(agent)())
    prog = f"python -m experiments.sequences {task} {agent}"
    options = parse(Options, args[2:], prog, type(defaults.core).__doc__ or "", defaults)
    check_range(1, 2**53, updates=options.updates, interval=options.interval)
    check_range(1, 2**20, batch_size=options.batch_size, episodes=options.episodes)
    check_range(1, 256, threads=options.threads)
    check_range(0, MAX_SEED, seed=options.seed)
    if options.until is not None and not 0 < options.until <= 1:
        raise UsageError(f"--until must be a share from 0 to 1, got {options.until}")
    return task, agent, options


if __name__ == "__main__":
    run_main(main)

"""Evaluate and compare runs: python eval.py RUN [RUN ...] [options]."""

import os
import signal

# from the first import until run_main takes over, Ctrl-C and SIGTERM end without a traceback
if __name__ == "__main__":
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: os._exit(130))

import json
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

import tyro

from experiments.command_line import (
    FINAL_EPISODES,
    FINAL_SEED,
    MAX_SEED,
    UsageError,
    calling,
    check_range,
    default,
    importing,
    parse,
    run_main,
)

if TYPE_CHECKING:
    from experiments.scores import Evaluation


@dataclass(frozen=True, kw_only=True)
class Options:
    runs: tyro.conf.Positional[
        Annotated[tuple[Path, ...], tyro.conf.arg(metavar="RUN [RUN ...]", help_behavior_hint="")]
    ]
    """Run directories, finished or not, or trained models such as mnm/Maze-v0:mnm-p."""
    episodes: int = FINAL_EPISODES
    """Episodes to play with each."""
    seed: int = FINAL_SEED
    """Seed of the episodes; those of training start from the run's seed."""
    deterministic: bool = False
    """Take the most likely action instead of a sample."""
    json: Annotated[Path | None, default("")] = None
    """Write all figures here."""
    plot: Annotated[Path | None, default("")] = None
    """Draw the learning curves here (PNG, SVG or PDF)."""
    gif: Annotated[Path | None, default("")] = None
    """Record an episode of each run here, side by side, with the fast weights that it has."""
    probe: Annotated[Path | None, default("")] = None
    """Draw here what fast weights do in an episode of a run; the data go to an .npz file beside."""
    goal_readout: Annotated[Path | None, default("")] = None
    """Draw here how well a linear read-out finds the goal in the agents' outputs (mazes only)."""


def main(args: Sequence[str]) -> None:
    program = calling("eval")[-1]
    options = parse(Options, args, prog=program, description="Evaluate and compare runs.")
    if not options.runs:
        raise UsageError(f"name at least one run directory: {program} RUN [RUN ...]")
    check_range(1, 2**53, episodes=options.episodes)
    check_range(0, MAX_SEED, seed=options.seed)
    check_output("json", options.json)
    check_output("plot", options.plot, ".png", ".svg", ".pdf")
    check_output("gif", options.gif, ".gif")
    check_output("probe", options.probe, ".png", ".svg", ".pdf")
    check_output("goal-readout", options.goal_readout, ".png", ".svg", ".pdf")
    if options.probe is not None and len(options.runs) > 1:
        raise UsageError(f"--probe looks into the memory of one run, got {len(options.runs)}")
    check_output("probe", options.probe and options.probe.with_suffix(".npz"))
    with importing():
        from experiments.analysis.animation import record_gif
        from experiments.analysis.figures import learning_curves
        from experiments.analysis.probes import check_memory_to_probe, probe_memory
        from experiments.analysis.readout import check_maze, goal_readout
        from experiments.analysis.report import print_table
        from experiments.configuration import Run
        from experiments.episode import check_playable
        from experiments.run import find_run
        from experiments.run_directory import RunDirectory
        from experiments.scores import agent_rows, evaluate

    runs = [(directory, Run.load(directory)) for directory in map(find_run, options.runs)]
    if options.probe is not None:
        check_memory_to_probe(*runs[0])
    for directory, _ in runs if options.plot is not None else ():
        if RunDirectory(directory).weights.exists():
            raise UsageError(f"--plot: {directory} is a model, which has no learning curve")
    for _, run in runs if options.gif is not None else ():
        check_playable(run, pictures=True)
    for _, run in runs if options.goal_readout is not None else ():
        check_maze(run)
    evaluations = [
        evaluate(d, run, options.episodes, options.seed, options.deterministic) for d, run in runs
    ]
    print_table(evaluations)
    print_warnings(evaluations)
    if options.json is not None:
        rows = {"runs": [e.row() for e in evaluations], "agents": agent_rows(evaluations)}
        options.json.write_text(json.dumps(rows, indent=2, allow_nan=False) + "\n")
        print(f"figures:         {options.json}")
    if options.plot is not None:
        learning_curves(runs, options.plot)
        print(f"learning curves: {options.plot}")
    if options.gif is not None:
        record_gif(runs, options.gif, options.seed, options.deterministic)
        print(f"an episode:      {options.gif}")
    if options.probe is not None:
        probe_memory(*runs[0], options.probe, options.seed, options.deterministic)
        print(
            f"the memory:      {options.probe}\nits data:        "
            f"{options.probe.with_suffix('.npz')}"
        )
    if options.goal_readout is not None:
        goal_readout(runs, options.goal_readout, options.seed)
        print(f"goal read-out:   {options.goal_readout}")


def check_output(option: str, path: Path | None, *endings: str) -> None:
    """Check, before any work is done, that a file can be written."""
    if path is None:
        return
    if endings and path.suffix not in endings:
        raise UsageError(
            f"--{option} must name a file that ends in {' or '.join(endings)}, got {str(path)!r}"
        )
    if path.is_dir() or not path.parent.is_dir():
        raise UsageError(
            f"--{option} {path}: "
            f"{'is a directory' if path.is_dir() else f'there is no directory {path.parent}'}"
        )
    existed = path.exists()
    try:
        with open(path, "ab"):
            pass
        if not existed:
            path.unlink()
    except OSError as error:
        raise UsageError(f"--{option} {path} cannot be written: {error.strerror}") from error


def print_warnings(evaluations: "Sequence[Evaluation]") -> None:
    """Name what should not be pooled: runs that are not finished, and runs of one seed, which are
    no further evidence."""
    for e in evaluations:
        if e.steps < e.run.total_timesteps:
            print(
                f"warning: {e.directory} is not finished: {e.steps:,} of "
                f"{e.run.total_timesteps:,} steps",
                file=sys.stderr,
            )
    seeds = Counter((e.run.agent, e.run.environment, e.run.seed) for e in evaluations)
    for (agent, env, seed), count in seeds.items():
        if count > 1:
            names = ", ".join(
                str(e.directory)
                for e in evaluations
                if (e.run.agent, e.run.environment, e.run.seed) == (agent, env, seed)
            )
            print(
                f"warning: {count} runs of {agent} have the same seed {seed}, and are counted one "
                f"by one: {names}",
                file=sys.stderr,
            )


def command() -> NoReturn:
    """Run as a command: with exit codes, and errors in one line."""
    run_main(main)


if __name__ == "__main__":
    command()

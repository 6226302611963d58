"""Evaluate and compare runs: python eval.py RUN [RUN ...] [options]."""

import signal

if __name__ == "__main__":  # the imports take seconds: until run_main takes over, Ctrl-C ends without a traceback
    signal.signal(signal.SIGINT, signal.SIG_DFL)

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro
from matplotlib.ticker import EngFormatter
from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from agents.command_line import Count, UsageError, check_range, parse, run_main
from agents.report import Evaluation, Score, agent_rows, evaluate, learning_curves, probe, read_progress, record_gif
from agents.run import MAX_SEED, Run

console = Console()


@dataclass(frozen=True, kw_only=True)
class Options:
    runs: tyro.conf.Positional[Annotated[tuple[Path, ...], tyro.conf.arg(metavar="RUN [RUN ...]")]]
    """Run directories, finished or not."""
    episodes: Count = 512
    """Episodes to play with each."""
    seed: Count = 10_000
    """Seed of the episodes; those of training start from the run's seed."""
    deterministic: bool = False
    """Take the most likely action instead of a sample."""
    json: Path | None = None
    """Write all figures here."""
    plot: Path | None = None
    """Draw the learning curves here (PNG, SVG or PDF)."""
    gif: Path | None = None
    """Record an episode of the first run here."""
    probe: Path | None = None
    """Draw here how well a linear read-out finds the goal in the agents' outputs (mazes only)."""


def main(args: Sequence[str]) -> None:
    options = parse(Options, args, prog="eval.py", description="Evaluate and compare runs.")
    if not options.runs:
        raise UsageError("name at least one run directory: eval.py RUN [RUN ...]")
    check_range(1, 2**53, episodes=options.episodes)
    check_range(0, MAX_SEED, seed=options.seed)
    check_output("json", options.json)
    check_output("plot", options.plot, ".png", ".svg", ".pdf")
    check_output("gif", options.gif, ".gif")
    check_output("probe", options.probe, ".png", ".svg", ".pdf")
    runs = [(directory, Run.load(directory)) for directory in options.runs]
    evaluations = [evaluate(d, run, options.episodes, options.seed, options.deterministic) for d, run in runs]
    print_table(evaluations)
    if options.json is not None:
        rows = {"runs": [e.row() for e in evaluations], "agents": agent_rows(evaluations)}
        options.json.write_text(json.dumps(rows, indent=2, allow_nan=False) + "\n")
    if options.plot is not None:
        learning_curves(runs, options.plot)
    if options.gif is not None:
        record_gif(*runs[0], options.gif, options.seed, options.deterministic)
    if options.probe is not None:
        probe(runs, options.probe, options.seed)


def check_output(option: str, path: Path | None, *endings: str) -> None:
    """Check, before any work is done, that a file can be written."""
    if path is None:
        return
    if endings and path.suffix not in endings:
        raise UsageError(f"--{option} must name a file that ends in {' or '.join(endings)}, got {str(path)!r}")
    if path.is_dir() or not path.parent.is_dir():
        raise UsageError(f"--{option} {path}: {'is a directory' if path.is_dir() else f'there is no directory {path.parent}'}")


def report(directory: Path) -> None:
    """What a training ends with: how it went, its figures beside chance and perfect play, and its learning curve."""
    run = Run.load(directory)
    print_training(directory)
    print_table([evaluate(directory, run, episodes=512, seed=10_000, deterministic=False)])
    learning_curves([(directory, run)], directory / "learning_curve.png")
    print(f"learning curve: {directory / 'learning_curve.png'}\nan episode:     python eval.py {directory} --gif episode.gif")


def print_training(directory: Path, rows: int = 5) -> None:
    """A table of the training: return and goals at evenly spaced steps."""
    progress = [row for row in read_progress(directory) if "rollout/ep_rew_mean" in row]
    if not progress:
        return  # no episode has ended
    console.print("while training", style="bold")
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), show_edge=False)
    columns = {"time/total_timesteps": "steps", "rollout/ep_rew_mean": "return", "rollout/goals": "goals"}
    shown = {key: title for key, title in columns.items() if all(key in row for row in progress)}
    for title in shown.values():
        table.add_column(title, justify="right")
    for row in progress[:: -max(1, len(progress) // rows)][rows - 1 :: -1]:
        table.add_row(*(f"{row[key]:,.0f}" if title == "steps" else f"{row[key]:.1f}" for key, title in shown.items()))
    console.print(table)


def print_table(evaluations: Sequence[Evaluation]) -> None:
    """One table an environment: the runs from worst to best, and where there are any the reference policies."""
    for env in dict.fromkeys(e.run.environment for e in evaluations):
        chosen = sorted((e for e in evaluations if e.run.environment == env), key=lambda e: e.score.mean)
        references = chosen[0].references
        console.print(f"{escape(env)}, {chosen[0].episodes} episodes", style="bold", soft_wrap=True)
        table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), show_edge=False)
        table.add_column("agent")
        columns = ["seed", "steps", "return", *(["goals", "first", "again", "score [95%]"] if references else ["[95%]"])]
        for column in columns:
            table.add_column(escape(column), justify="right")
        for e in chosen:
            table.add_row(e.run.agent, str(e.run.seed), EngFormatter(places=1, sep="")(e.steps), *_cells(e.score, e))
        table.add_section()
        for name, score in references.items():
            table.add_row(name, "", "", *_cells(score, chosen[0]), style="dim")
        console.print(table)
        if references:
            console.print("first, again: steps to the first and each next goal; score: random 0, oracle 1", style="dim")


def _cells(score: Score, e: Evaluation) -> list[str]:
    if not e.references:
        return [f"{score.mean:.1f}", _interval(score.ci95)]
    counts = ["" if count is None else f"{count:.1f}" for count in (score.mean, score.goals, score.first_goal, score.between)]
    interval = None if score.ci95 is None else tuple(e.normalized(bound) for bound in score.ci95)
    return [*counts, f"{e.normalized(score.mean):z.2f}{_interval(interval)}"]


def _interval(interval: Sequence[float | None] | None) -> str:
    return "" if interval is None else escape(" [{:z.2f}, {:z.2f}]".format(*interval))


if __name__ == "__main__":
    run_main(main)

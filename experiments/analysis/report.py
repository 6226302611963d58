"""What is said in the terminal about runs: how their training went, and how well they do beside the
reference policies."""

import shlex
from collections.abc import Sequence
from pathlib import Path

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.measure import Measurement
from rich.table import Table

from envs import RETURN, Metric
from experiments.analysis.figures import learning_curves
from experiments.command_line import calling
from experiments.configuration import Run
from experiments.logs import STEPS, column_of
from experiments.run import metrics_of_run, read_progress
from experiments.run_directory import RunDirectory
from experiments.scores import Evaluation, Summary, final_evaluation
from mnm_rl.progress import short


def report(directory: Path) -> None:
    """What a training ends with: how it went, its figures beside chance and perfect play, and its
    learning curve."""
    run = Run.load(directory)
    print_training(directory, metrics_of_run(run))
    print_table([final_evaluation(directory, run)])
    picture = RunDirectory(directory).learning_curve
    learning_curves([(directory, run)], picture)
    gif = shlex.join([*calling("eval"), str(directory), "--gif", "episode.gif"])
    print(f"learning curve: {picture}\nan episode:     {gif}")


def print_training(directory: Path, metrics: Sequence[Metric], rows: int = 5) -> None:
    """A table of the training: return and metrics at evenly spaced steps."""
    progress = [row for row in read_progress(directory) if column_of(RETURN) in row]
    if not progress:
        return  # no episode has ended
    console = Console()
    console.print("while training", style="bold")
    logged = {column_of(metric): metric.heading for metric in (RETURN, *metrics)}
    shown = {key: name for key, name in logged.items() if any(key in row for row in progress)}
    table = _table("steps", *shown.values())
    for row in progress[:: -max(1, len(progress) // rows)][rows - 1 :: -1]:
        table.add_row(f"{row[STEPS]:,.0f}", *(_number(row.get(key)) for key in shown))
    console.print(table)


def print_table(evaluations: Sequence[Evaluation]) -> None:
    """One table an environment: the runs from worst to best, and where there are any the reference
    policies.

    Where the terminal is too narrow for all columns, the last metrics are left out first.
    """
    console = Console()
    for env in dict.fromkeys(e.run.environment for e in evaluations):
        chosen = sorted(
            (e for e in evaluations if e.run.environment == env),
            key=lambda e: e.summary.mean_return,
        )
        console.print(f"{escape(env)}, {chosen[0].episodes} episodes", style="bold", soft_wrap=True)
        left_out: list[Column] = []
        table = _comparison(chosen, left_out)
        for least in _least_first(chosen[0]):
            if (
                Measurement.get(console, console.options.update(max_width=10_000), table).maximum
                > console.width
            ):
                left_out.append(least)
                table = _comparison(chosen, left_out)
        console.print(table)
        meanings = [
            f"{metric.short}: {metric.label}"
            for metric in _others(chosen[0])
            if metric.short and metric not in left_out
        ]
        if chosen[0].references:
            meanings.append("score: random 0, oracle 1")
        for meaning in meanings:
            console.print(escape(meaning), style="dim")


Column = str | Metric
"""What is in a column: a metric, or what the string says."""


def _least_first(e: Evaluation) -> list[Column]:
    """The columns that a narrow terminal may go without, those that say least first."""
    others = _others(e)
    return [*reversed(others[1:]), "steps", *([RETURN] if e.references else others[:1])]


def _others(e: Evaluation) -> list[Metric]:
    """The metrics beside the return."""
    return [metric for metric in e.metrics if metric.name != RETURN.name]


def _comparison(evaluations: Sequence[Evaluation], left_out: Sequence[Column]) -> Table:
    rows: list[dict[Column, str]] = [
        {
            "agent": e.run.agent,
            "seed": str(e.run.seed),
            "steps": short(e.steps),
            **_cells(e.summary, e),
        }
        for e in evaluations
    ]
    columns = [column for column in rows[0] if column not in left_out]
    table = _table(*(c.heading if isinstance(c, Metric) else c for c in columns))
    for row in rows:
        table.add_row(*(row[column] for column in columns))
    table.add_section()
    for name, summary in evaluations[0].references.items():
        cells = {"agent": name, **_cells(summary, evaluations[0])}
        table.add_row(*(cells.get(column, "") for column in columns), style="dim")
    return table


def _cells(summary: Summary, e: Evaluation) -> dict[Column, str]:
    mean, ends = summary.mean_return, summary.return_ci95
    others: dict[Column, str] = {
        metric: _number(summary.metrics.get(metric.name)) for metric in _others(e)
    }
    if not e.references:
        return {**others, RETURN: _number(mean), "[95%]": _interval(ends)}
    normalized = None if ends is None else [e.normalized(bound) for bound in ends]
    score = f"{e.normalized(mean):z.2f} {_interval(normalized)}"
    return {RETURN: _number(mean), **others, "score [95%]": score}


def _number(mean: float | None) -> str:
    """Accuracies and returns may be of about 1, other metrics of hundreds."""
    return "" if mean is None else f"{mean:.{2 if abs(mean) < 10 else 1}f}"


def _interval(interval: Sequence[float | None] | None) -> str:
    return "" if interval is None else escape(f"[{interval[0]:z.2f}, {interval[1]:z.2f}]")


def _table(first: str, *others: str) -> Table:
    """A table without lines inside and with no cell over two lines; all columns but that of the
    agents are numbers."""
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), show_edge=False)
    for column in (first, *others):
        table.add_column(
            escape(column), justify="left" if column == "agent" else "right", no_wrap=True
        )
    return table

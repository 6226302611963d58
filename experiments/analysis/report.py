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

from experiments.analysis.figures import learning_curves
from experiments.command_line import calling
from experiments.configuration import Run
from experiments.run import read_progress
from experiments.run_directory import RunDirectory
from experiments.scores import Evaluation, Score, final_evaluation
from mnm_rl.callbacks import short


def report(directory: Path) -> None:
    """What a training ends with: how it went, its figures beside chance and perfect play, and its
    learning curve."""
    run = Run.load(directory)
    print_training(directory)
    print_table([final_evaluation(directory, run)])
    picture = RunDirectory(directory).learning_curve
    learning_curves([(directory, run)], picture)
    gif = shlex.join([*calling("eval"), str(directory), "--gif", "episode.gif"])
    print(f"learning curve: {picture}\nan episode:     {gif}")


def print_training(directory: Path, rows: int = 5) -> None:
    """A table of the training: return and goals at evenly spaced steps."""
    progress = [row for row in read_progress(directory) if "rollout/ep_rew_mean" in row]
    if not progress:
        return  # no episode has ended
    console = Console()
    console.print("while training", style="bold")
    columns = {
        "time/total_timesteps": "steps",
        "rollout/ep_rew_mean": "return",
        "rollout/goals": "goals",
    }
    shown = {key: title for key, title in columns.items() if all(key in row for row in progress)}
    table = _table(*shown.values())
    for row in progress[:: -max(1, len(progress) // rows)][rows - 1 :: -1]:
        table.add_row(
            *(
                f"{row[key]:,.0f}" if title == "steps" else _return(row[key])
                for key, title in shown.items()
            )
        )
    console.print(table)


def print_table(evaluations: Sequence[Evaluation]) -> None:
    """One table an environment: the runs from worst to best, and where there are any the reference
    policies.

    Where the terminal is too narrow for all columns, those that the others say nearly as well are
    left out.
    """
    console = Console()
    for env in dict.fromkeys(e.run.environment for e in evaluations):
        chosen = sorted(
            (e for e in evaluations if e.run.environment == env), key=lambda e: e.score.mean
        )
        console.print(f"{escape(env)}, {chosen[0].episodes} episodes", style="bold", soft_wrap=True)
        left_out: list[str] = []
        table = _comparison(chosen, left_out)
        for column in ("again", "first", "steps", "return") if chosen[0].references else ("steps",):
            if (
                Measurement.get(console, console.options.update(max_width=10_000), table).maximum
                > console.width
            ):
                left_out.append(column)
                table = _comparison(chosen, left_out)
        console.print(table)
        if chosen[0].references:
            meanings = {
                "first": "first: steps to the first goal",
                "again": "again: steps to each next one",
            }
            shown = [meaning for column, meaning in meanings.items() if column not in left_out]
            console.print("\n".join([*shown, "score: random 0, oracle 1"]), style="dim")


def _comparison(evaluations: Sequence[Evaluation], left_out: Sequence[str]) -> Table:
    references = evaluations[0].references
    rows = [
        {"agent": e.run.agent, "seed": str(e.run.seed), "steps": short(e.steps)}
        | _cells(e.score, e)
        for e in evaluations
    ]
    columns = [column for column in rows[0] if column not in left_out]
    table = _table(*columns)
    for row in rows:
        table.add_row(*(row[column] for column in columns))
    table.add_section()
    for name, score in references.items():
        row = {"agent": name} | _cells(score, evaluations[0])
        table.add_row(*(row.get(column, "") for column in columns), style="dim")
    return table


def _cells(score: Score, e: Evaluation) -> dict[str, str]:
    if not e.references:
        return {"return": _return(score.mean), "[95%]": _interval(score.ci95)}
    counts = {
        "return": score.mean,
        "goals": score.goals,
        "first": score.first_goal,
        "again": score.between,
    }
    interval = None if score.ci95 is None else [e.normalized(bound) for bound in score.ci95]
    return {column: "" if count is None else f"{count:.1f}" for column, count in counts.items()} | {
        "score [95%]": f"{e.normalized(score.mean):z.2f} {_interval(interval)}"
    }


def _return(mean: float) -> str:
    """Memory tasks and POPGym have returns of about 1, mazes of hundreds."""
    return f"{mean:.{2 if abs(mean) < 10 else 1}f}"


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

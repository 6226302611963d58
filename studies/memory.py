"""Memories beside one another on the memory tasks, without reinforcement learning (docs/memory.md).

python -m studies.memory GRID [--processes 2] [--json docs/memory_GRID.json] [--plot
docs/memory_GRID.png]

runs what of the grid has not been run yet, one thread each, and then writes and draws all that
there is of it. A run that fails does not hold up the others.
"""

import json
import os
import subprocess
import sys
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import tyro
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from numpy.typing import NDArray
from scipy import stats

from experiments.analysis.figures import agent_color, save_figure, style_of

TaskName = Literal["recall", "dictionary", "copy", "repeat_previous", "sort"]
Settings = dict[str, int]
SOLVED = 0.99
"""Share of right answers at which a run ends."""


@dataclass(frozen=True, kw_only=True)
class Grid:
    """Trainings: every agent with every setting of a task and every seed."""

    task: TaskName
    settings: list[Settings]
    """What changes between the panels of the figure."""
    agents: tuple[str, ...] = (
        "mnm-g",
        "mnm-p",
        "mnm-g-paper",
        "mnm-p-paper",
        "deltanet",
        "gated-deltanet",
        "lstm",
        "gru",
        "salu",
        "ntm",
    )
    seeds: int = 3
    updates: int = 1_500
    """Updates after which a run is given up."""
    interval: int = 10
    """Updates between two evaluations."""
    tests: list[str] = field(default_factory=list)
    """Settings that are tested beside those trained with."""
    stops: bool = True
    """Whether a run ends once it is solved, or goes on for the sake of the tests."""
    hidden_size: int = 100
    """Width of all agents, and of the memory of mnm-g and mnm-p too: their default is for
    control."""


GRIDS = {
    "recall": Grid(
        task="recall", settings=[{"pairs": pairs} for pairs in (8, 16, 32, 64)], updates=800
    ),
    "dictionary": Grid(
        task="dictionary",
        settings=[{"string_length": 4, "min_string_length": 1, "support": 4, "queries": 4}],
        seeds=5,
        updates=2_000,
        interval=50,
        tests=[f"min_string_length=4,support={support}" for support in (2, 4, 8)]
        + [f"string_length={length},min_string_length={length}" for length in (5, 6)],
        hidden_size=48,
    ),
    "copy": Grid(
        task="copy",
        settings=[{"items": 20, "min_items": 1}],
        interval=50,
        tests=[f"items={items},min_items={items}" for items in (20, 40, 80)],
        stops=False,
    ),
    "repeat_previous": Grid(
        task="repeat_previous",
        settings=[
            {"lag": 8, "steps": 32},
            {"lag": 31, "steps": 103},
            {"lag": 31, "steps": 103, "clock": 6},
        ],
        updates=600,
        interval=20,
    ),
    "sort": Grid(
        task="sort",
        settings=[{"items": 20}],
        updates=1_000,
        interval=50,
        tests=["items=40", "items=80"],
        stops=False,
    ),
}


@dataclass
class Options:
    grid: tyro.conf.Positional[Annotated[TaskName, tyro.conf.arg(metavar="GRID")]]
    """Which trainings."""
    learning_rates: tuple[float, ...] = (4e-3,)
    """Step sizes to train with; of each agent and setting, the one that learns soonest is shown."""
    agents: tuple[str, ...] | None = None
    """Only these agents."""
    settings: tuple[int, ...] | None = None
    """Only these settings of the grid, by their place in it, from 0."""
    seeds: int | None = None
    """Seeds of each, from 0 (default: the grid's)."""
    processes: int = os.cpu_count() or 1
    """Trainings at once."""
    runs: Path = Path("runs/memory")
    """Where the results of the runs are."""
    json: Path | None = None
    """Where to write the figures."""
    plot: Path | None = None
    """Where to draw them."""
    seconds: Path | None = None
    """A file of studies.memory_seconds, to draw its seconds of an update instead of the runs'."""


def commands(grid: Grid, options: Options) -> list[list[str]]:
    """The command line of every run, its result the last argument."""
    chosen = range(len(grid.settings)) if options.settings is None else options.settings
    made = []
    for i, agent, rate, seed in product(
        chosen,
        options.agents or grid.agents,
        options.learning_rates,
        range(options.seeds or grid.seeds),
    ):
        kwargs = [f"{key}={value}" for key, value in grid.settings[i].items()]
        out = options.runs / "-".join([grid.task, *kwargs]) / agent / f"lr{rate:g}-seed{seed}.json"
        tests = ["--test", *grid.tests] if grid.tests else []
        until = ["--until", str(SOLVED)] if grid.stops else []
        training = f"--updates {grid.updates} --interval {grid.interval}".split()
        training += f"--learning-rate {rate} --seed {seed} --threads 1".split()
        training += ["--hidden-size", str(grid.hidden_size)]
        if agent in ("mnm-g", "mnm-p"):
            training += ["--memory-size", str(grid.hidden_size)]
        made.append(
            [
                grid.task,
                agent,
                "--task-kwargs",
                *kwargs,
                *tests,
                *until,
                *training,
                "--out",
                str(out),
            ]
        )
    return made


def run(command: list[str]) -> str | None:
    """Run a command, unless its result is there; returns what went wrong, or None."""
    out = Path(command[-1])
    if out.exists():
        return None
    words = [sys.executable, "-m", "experiments.sequences", *command]
    done = subprocess.run(
        words, env=os.environ | {"OMP_NUM_THREADS": "1"}, capture_output=True, text=True
    )
    print(
        f"{out}: {(done.stdout or done.stderr).strip().splitlines()[-1]}",
        file=sys.stderr,
        flush=True,
    )
    return None if done.returncode == 0 else str(out)


def collect(files: Iterable[Path]) -> list[dict[str, Any]]:
    """Runs in short, each with its curves; of several step sizes, for each agent and setting, the
    one that learns soonest of those with the most seeds."""
    runs = []
    for file in files:
        result = json.loads(file.read_text())
        curves = {
            key: [evaluation[key] for evaluation in result["evaluations"]]
            for key in ("updates", "seconds", "accuracy")
        }
        curves["accuracy"] = [round(share, 4) for share in curves["accuracy"]]
        short = {key: result[key] for key in ("task", "task_kwargs", "agent", "seed", "parameters")}
        short |= {"learning_rate": result["hyperparameters"]["learning_rate"]} | curves
        runs.append(short | {"tests": result["evaluations"][-1].get("tests", {})})

    def soonest(group: list[dict[str, Any]]) -> float:
        last = max(run["updates"][-1] for run in runs)
        return float(np.mean([mean_until(run, last) for run in group]))

    shown = []
    for setting, agent in dict.fromkeys((name(run), run["agent"]) for run in runs):
        own = [run for run in runs if (name(run), run["agent"]) == (setting, agent)]
        rates = dict.fromkeys(run["learning_rate"] for run in own)
        groups: list[list[dict[str, Any]]]
        groups = [[run for run in own if run["learning_rate"] == rate] for rate in rates]
        best: list[dict[str, Any]] = max(groups, key=lambda group: (len(group), soonest(group)))
        shown += best
    return shown


def mean_until(run: dict[str, Any], last: float) -> float:
    """The mean accuracy over updates, until ``last``; a run that ended stays where it was."""
    return float(
        np.trapezoid(
            [0, *run["accuracy"], run["accuracy"][-1]],
            [0, *run["updates"], max(last, run["updates"][-1])],
        )
        / last
    )


def name(run: dict[str, Any]) -> str:
    """The settings of a run in words, such as ``8 pairs``."""
    return ", ".join(
        f"{value} {key.replace('_', ' ')}" for key, value in run["task_kwargs"].items()
    )


def task_of(run: dict[str, Any]) -> str:
    """The task of a run, with its settings, such as ``recall: 8 pairs``."""
    return f"{run['task']}: {name(run)}"


def timed_by(runs: list[dict[str, Any]], file: Path) -> list[dict[str, Any]]:
    """The runs with seconds from a file of studies.memory_seconds instead of their own.

    Raises:
        SystemExit: if it has none of an agent.
    """
    seconds, timed = json.loads(file.read_text()), []
    for run in runs:
        each = seconds.get(task_of(run), {}).get(run["agent"])
        if each is None:
            sys.exit(f"error: {file} has no seconds of {run['agent']} on {task_of(run)}")
        timed.append(run | {"seconds": [n * each for n in run["updates"]]})
    return timed


def solved(run: dict[str, Any], axis: str) -> float | None:
    """The updates, or seconds, of the first evaluation at which a run had solved its task, or
    None."""
    return next(
        (x for x, share in zip(run[axis], run["accuracy"], strict=True) if share >= SOLVED), None
    )


def band(
    runs: list[dict[str, Any]], axis: str, x: NDArray[Any]
) -> tuple[NDArray[Any], NDArray[Any]]:
    """Mean accuracy of the seeds at every x, and half the width of its 95% t-interval; zero for a
    single seed."""
    curves = np.array([np.interp(x, run[axis], run["accuracy"]) for run in runs])
    if len(runs) == 1:
        return curves[0], np.zeros_like(x)
    return curves.mean(axis=0), stats.t.ppf(0.975, len(runs) - 1) * stats.sem(curves, axis=0)


def draw(runs: list[dict[str, Any]], path: Path) -> None:
    """Accuracy over updates (above) and over seconds (below), a column for every setting, with 95%
    intervals over seeds; those of a single setting side by side. The last panel has the tests, if
    there are any."""
    settings = list(dict.fromkeys(name(run) for run in runs))
    agents = list(dict.fromkeys(run["agent"] for run in runs))
    tests = list(dict.fromkeys(test for run in runs for test in run["tests"]))
    rows = [[f"{axis}: {setting}" for setting in settings] for axis in ("updates", "seconds")]
    if len(settings) == 1:
        rows = [[*rows[0], *rows[1]]]
    columns = len(rows[0])
    figure, panels = plt.subplot_mosaic(
        [[*row, *(["tests"] if tests else [])] for row in rows],
        sharey=True,
        width_ratios=[1] * columns + [2] * bool(tests),
        figsize=(2.6 * (columns + 2 * bool(tests)) + 1.6, 2.5 * len(rows) + 0.5 * (len(rows) == 1)),
        layout="constrained",
    )
    for axis, setting in product(("updates", "seconds"), settings):
        panel = panels[f"{axis}: {setting}"]
        shown = [run for run in runs if name(run) == setting]
        end = max(run[axis][-1] for run in shown)
        for agent in dict.fromkeys(run["agent"] for run in shown):
            seeds = [run for run in shown if run["agent"] == agent]
            x = np.geomspace(max(run[axis][0] for run in seeds), end, 400)
            mean, half = band(seeds, axis, x)
            panel.plot(x, mean, label=agent, **style_of(agent, agents))
            low, high = np.clip(mean - half, 0, 1), np.clip(mean + half, 0, 1)
            panel.fill_between(x, low, high, color=agent_color(agent), alpha=0.2, linewidth=0)
        panel.set(xlabel=axis, xscale="log", ylim=(0, 1.02))
        panel.xaxis.set_major_formatter("{x:g}")
        if axis == "updates" and len(settings) > 1:
            panel.set_title(setting, fontsize=10)
    if tests:
        _draw_tests(panels["tests"], runs, tests)
    for row in rows:
        panels[row[0]].set_ylabel("right answers")
    for panel in panels.values():
        panel.spines[["top", "right"]].set_visible(False)
    handles = {
        label: handle
        for panel in panels.values()
        for handle, label in zip(*panel.get_legend_handles_labels(), strict=True)
    }
    figure.legend(list(handles.values()), list(handles), loc="outside right center", frameon=False)
    save_figure(figure, path)


def _draw_tests(panel: Axes, runs: list[dict[str, Any]], tests: list[str]) -> None:
    """The accuracy of each agent with each test, a dot with its 95% interval over seeds."""
    agents = list(dict.fromkeys(run["agent"] for run in runs))
    for i, agent in enumerate(agents):
        shares = np.array(
            [[run["tests"][test] for test in tests] for run in runs if run["agent"] == agent]
        )
        x = np.arange(len(tests)) + (i - (len(agents) - 1) / 2) * 0.8 / len(agents)
        half = stats.t.ppf(0.975, len(shares) - 1) * stats.sem(shares) if len(shares) > 1 else None
        panel.errorbar(
            x, shares.mean(axis=0), half, fmt="o", markersize=4, color=agent_color(agent)
        )
    panel.set_xticks(range(len(tests)), [in_words(test).replace(" ", "\n") for test in tests])
    panel.set_title("at the end, tested with", fontsize=10)


def in_words(test: str) -> str:
    """A test in words, such as ``support 8``, without the smallest of a range of lengths, if there
    is anything else."""
    parts = [part.split("=") for part in test.split(",")]
    some = [part for part in parts if not part[0].startswith("min_")] or parts
    return ", ".join(f"{key.replace('_', ' ')} {value}" for key, value in some)


def main(options: Options) -> None:
    made = commands(GRIDS[options.grid], options)
    with ThreadPoolExecutor(options.processes) as pool:
        failed = [out for out in pool.map(run, made) if out is not None]
    runs = collect(path for command in made if (path := Path(command[-1])).exists())
    if runs and options.json is not None:
        lines = ",\n".join(json.dumps(row) for row in runs)
        options.json.write_text(f'{{"runs": [\n{lines}\n]}}\n')
    if runs and options.plot is not None:
        draw(runs if options.seconds is None else timed_by(runs, options.seconds), options.plot)
    if failed:
        sys.exit(f"error: {len(failed)} of {len(made)} runs failed: {', '.join(failed)}")


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))

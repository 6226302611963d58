"""Which writes and reads make MNM a good choice: python -m studies.bounded_writes TASK ...
[--candidates NAME ...] [--seeds 0 1 2] [--processes 2] [--json FILE].

Trains the candidates of ``bounded_writes.toml`` on each task, one thread a run, and keeps what is
measured in the file, so that a study that was stopped goes on. Without tasks, prints the table.
Settings were chosen on seeds below 20; seeds from 20 on are those that are reported.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
import tomllib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import chain, product, starmap
from pathlib import Path
from threading import Lock
from typing import Annotated, Any

import tyro

from experiments.command_line import option
from experiments.run import read_progress

ROOT = Path(__file__).parent.parent
CANDIDATES: dict[str, dict[str, Any]] = tomllib.loads(
    Path(__file__).with_suffix(".toml").read_text()
)["candidates"]


@dataclass(frozen=True)
class Task:
    """What is trained, and what counts as solved."""

    kind: str
    """``"sequence"``: updates by cross-entropy; ``"maze"``: steps of PPO with the agents' settings;
    ``"drop-in"``: steps of PPO with the settings of ``studies.drop_in``."""
    name: str
    total: int
    """Updates, or environment steps."""
    solved: float
    options: tuple[str, ...] = ()
    width: int = 100
    """Of the controller."""


RECALL = ("--until", "0.99", "--interval", "5", "--episodes", "256", "--learning-rate", "4e-3")
REPORTED = 20
"""The first of the seeds that nothing was chosen by."""
TASKS = {
    "recall 8": Task("sequence", "recall", 300, 0.99, ("--task-kwargs", "pairs=8", *RECALL)),
    "recall 32": Task("sequence", "recall", 600, 0.99, ("--task-kwargs", "pairs=32", *RECALL)),
    "recall 64": Task("sequence", "recall", 800, 0.99, ("--task-kwargs", "pairs=64", *RECALL)),
    "dictionary": Task(
        "sequence",
        "dictionary",
        2_000,
        0.99,
        (
            "--task-kwargs",
            "string_length=4",
            "min_string_length=1",
            "support=4",
            "queries=4",
            "--until",
            "0.99",
            "--interval",
            "10",
            "--learning-rate",
            "4e-3",
            "--hidden-size",
            "48",
        ),
        width=48,
    ),
    "repeat lag 8": Task(
        "sequence",
        "repeat_previous",
        2_000,
        0.99,
        (
            "--task-kwargs",
            "lag=8",
            "steps=32",
            "--until",
            "0.99",
            "--interval",
            "10",
            "--learning-rate",
            "4e-3",
        ),
    ),
    "cartpole": Task("drop-in", "CartPole without velocities", 50_000, 450, width=64),
    "pendulum": Task("drop-in", "Pendulum without velocity", 131_072, -300, width=64),
    "t-maze": Task("drop-in", "T-maze", 65_536, 0.8, width=64),
    "minigrid": Task("drop-in", "MiniGrid-MemoryS7", 262_144, 0.8, width=64),
    "maze small": Task("maze", "mnm/MazeSmall-v0", 500_000, 20),
    "maze": Task("maze", "mnm/Maze-v0", 1_000_000, 30),
    "perfect": Task("maze", "mnm/Maze-v0", 1_000_000, 10, ("--env-kwargs", "layout=perfect")),
}
"""By name."""


def command(task: Task, candidate: dict[str, Any], seed: int, out: Path) -> list[str]:
    """What trains a candidate; its result is in ``out``."""
    if candidate.get("memory_size") == "full":
        candidate = candidate | {"memory_size": task.width}
    agent = candidate["agent"]
    hyperparameters = {name: value for name, value in candidate.items() if name != "agent"}
    own = [*chain.from_iterable(starmap(option, hyperparameters.items())), *task.options]
    one = ["--seed", str(seed), "--out", str(out), "--threads", "1"]
    if task.kind == "sequence":
        steps = ["--updates", str(task.total)]
        return ["-m", "experiments.sequences", task.name, agent, *steps, *own, *one]
    if task.kind == "maze":
        steps = ["--total-timesteps", str(task.total)]
        return ["train.py", agent, "--env", task.name, *steps, *own, *one]
    return ["-m", "studies.drop_in_core", task.name, json.dumps(candidate), str(seed), str(out)]


def curve(task: Task, out: Path) -> list[list[float]]:
    """Steps, seconds and score of every evaluation."""
    if task.kind == "maze":
        rows = read_progress(out)
        return [
            [row["time/total_timesteps"], row["time/time_elapsed"], row["rollout/goals"]]
            for row in rows
        ]
    if task.kind == "sequence":
        evaluations = json.loads(out.read_text())["evaluations"]
        return [[row["updates"], row["seconds"], row["accuracy"]] for row in evaluations]
    return list(json.loads(out.read_text()))


def run(name: str, candidate_name: str, seed: int) -> dict[str, Any]:
    """Train once."""
    task, candidate = TASKS[name], CANDIDATES[candidate_name]
    with tempfile.TemporaryDirectory() as directory:
        out = Path(directory) / "run"
        words = [sys.executable, *command(task, candidate, seed, out)]
        env = os.environ | {"OMP_NUM_THREADS": "1"}
        done = subprocess.run(words, cwd=ROOT, env=env, capture_output=True, text=True)
        result = {"task": name, "candidate": candidate_name, "seed": seed} | candidate
        if done.returncode != 0:
            return result | {"failed": (done.stderr or done.stdout).strip().splitlines()[-1]}
        points = curve(task, out)
    first = next((point for point in points if point[2] >= task.solved), None)
    thin = max(1, len(points) // 50)
    kept = points[::-1][::thin][::-1]
    return result | {
        "steps": first and first[0],
        "seconds": first and round(first[1], 1),
        "best": max(score for _, _, score in points),
        "last": sum(score for _, _, score in points[-5:]) / len(points[-5:]),
        "rate": round(points[-1][0] / max(points[-1][1], 1e-9), 1),
        "curve": [[round(x, 1), round(y, 4)] for x, _, y in kept],
    }


def table(rows: Sequence[dict[str, Any]]) -> str:
    """A line for each candidate, a column for each task, a figure for each seed: updates or steps
    until it is solved, and the best score of those that never get there."""
    tasks = [task for task in TASKS if any(row["task"] == task for row in rows)]
    lines = ["| candidate | " + " | ".join(tasks) + " |", "|" + " --- |" * (len(tasks) + 1)]
    for candidate in CANDIDATES:
        cells = []
        for task in tasks:
            own = [row for row in rows if row["task"] == task and row["candidate"] == candidate]
            cells.append(", ".join(_cell(row) for row in sorted(own, key=lambda row: row["seed"])))
        if any(cells):
            lines.append(f"| {candidate} | " + " | ".join(cells) + " |")
    return "\n".join(lines).replace("|  |", "| |").replace("|  |", "| |")


def _cell(row: dict[str, Any]) -> str:
    if "failed" in row:
        return "failed"
    if row["steps"] is None:
        return f"never ({row['best']:.3g})"
    return f"{row['steps'] / 1000:.0f}k" if row["steps"] >= 4_000 else f"{row['steps']:.0f}"


def main(
    tasks: Annotated[
        tyro.conf.Positional[tuple[str, ...]], tyro.conf.arg(help=f"of {', '.join(TASKS)}")
    ] = (),
    candidates: Annotated[
        tuple[str, ...], tyro.conf.arg(help="names in bounded_writes.toml; without, all")
    ] = (),
    seeds: tuple[int, ...] = (0, 1, 2),
    processes: Annotated[int, tyro.conf.arg(help="trainings at once")] = os.cpu_count() or 1,
    json_file: Annotated[Path, tyro.conf.arg(name="json")] = ROOT / "docs" / "bounded_writes.json",
) -> None:
    """Train what the file does not have yet, then print the table."""
    candidates = candidates or tuple(CANDIDATES)
    for known, given in ((TASKS, tasks), (CANDIDATES, candidates)):
        if unknown := [name for name in given if name not in known]:
            sys.exit(f"error: there is no {unknown[0]!r}; there are {', '.join(known)}")
    rows = json.loads(json_file.read_text()) if json_file.exists() else []
    rows = [row for row in rows if "failed" not in row]
    done = {(row["task"], row["candidate"], row["seed"]) for row in rows}
    todo = [
        (task, c, seed)
        for task, seed, c in product(tasks, seeds, candidates)
        if (task, c, seed) not in done
    ]
    lock = Lock()

    def measure(job: tuple[str, str, int]) -> None:
        started = time.perf_counter()
        row = run(*job)
        with lock:
            now = json.loads(json_file.read_text()) if json_file.exists() else []
            # that failed
            now = [
                other for other in now if (other["task"], other["candidate"], other["seed"]) != job
            ]
            now.append(row)
            json_file.write_text("[\n" + ",\n".join(json.dumps(row) for row in now) + "\n]\n")
        print(
            f"{job}: {_cell(row)} in {time.perf_counter() - started:.0f} s",
            file=sys.stderr,
            flush=True,
        )

    with ThreadPoolExecutor(processes) as pool:
        list(pool.map(measure, todo))
    print(table(json.loads(json_file.read_text()) if json_file.exists() else []))


if __name__ == "__main__":
    tyro.cli(main, description=__doc__)

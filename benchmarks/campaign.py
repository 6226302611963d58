"""Attack the run machinery: python -m benchmarks.campaign [--kills N] [--mutations N] [--json
FILE].

**Kills.** Small runs of several agents with both algorithms are killed (SIGKILL) at random moments,
resumed, and killed again; at the end each must be the run that nobody killed: weights and optimizer
to the bit, and ``progress.csv`` and TensorBoard's events without rows or points that are missing,
doubled or different (but for the clock).

**Mutations.** Files of a run, models and exports are cut, emptied, overwritten, and changed at
random, inside of archives and JSON texts as well; each must be refused in one line or do no harm,
within 2 s of CPU time and 500 MB more memory.

Every run and every attempt is a process of its own, forked from one that has imported everything
(for the attempts, kernels too).
"""

import io
import json
import multiprocessing
import os
import platform
import random
import resource
import shutil
import sys
import tempfile
import time
import traceback
import zipfile
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import tyro
from tensorboard.backend.event_processing.event_file_loader import LegacyEventFileLoader

import experiments.analysis.report
import train
from experiments.command_line import run_main
from experiments.configuration import Run
from experiments.logs import read_rows
from experiments.run import load_model
from mnm_rl.algorithms.on_policy import ALGORITHMS
from mnm_rl.files import checkpoints

MAZE = ["--env", "mnm/MazeSmall-v0", "--env-kwargs", "horizon=20", "--n-envs", "4"]
# its episodes do not end with the rollouts
CARTPOLE = ["--env", "CartPole-v1", "--n-envs", "4", "--n-steps", "25"]
CLOCK = {"time/fps", "time/time_elapsed"}
MOST_SECONDS, MOST_MB = 2.0, 500.0
PATIENCE = 60.0
"""Seconds after which an attempt is ended."""

FORK = multiprocessing.get_context("fork")


@dataclass(frozen=True, kw_only=True)
class Options:
    kills: int = 300
    """Kills at random moments."""
    mutations: int = 2000
    """Mutated files."""
    agents: tuple[str, ...] = ("mnm-p", "mnm-g", "lstm", "plastic")
    """Agents to train."""
    total_timesteps: int = 1500
    """Environment steps of each run."""
    checkpoint_interval: int = 300
    """Environment steps between its checkpoints."""
    seed: int = 0
    """Seed of the moments and the mutations."""
    json: Path | None = None
    """Where to write what came out."""


def main(options: Options) -> None:
    torch.set_num_threads(1)
    # plays hundreds of episodes with the finished model
    experiments.analysis.report.report = lambda directory: None
    with tempfile.TemporaryDirectory() as folder:
        result = {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "options": {name: value for name, value in vars(options).items() if name != "json"},
            "kills": kills(options, Path(folder)),
            "mutations": mutations(options, Path(folder)),
        }
    text = json.dumps(result, indent=2) + "\n"
    print(text)
    if options.json is not None:
        options.json.write_text(text)


# Kills


def kills(options: Options, folder: Path) -> dict[str, Any]:
    """Kill and resume runs until there have been as many kills as asked for."""
    rng = random.Random(options.seed)
    settings = [
        (agent, algorithm, env)
        for agent in options.agents
        for algorithm in ALGORITHMS
        for env in ("maze", "cartpole")
    ]
    rows = [
        {"agent": a, "algorithm": b, "env": c, "runs": 0, "kills": 0, "identical": 0}
        for a, b, c in settings
    ]
    whole: dict[int, tuple[Path, float]] = {}
    failures: list[str] = []
    turn = 0
    while sum(int(row["kills"]) for row in rows) < options.kills:
        row, turn = rows[turn % len(rows)], turn + 1
        k = rows.index(row)
        new = [
            *(
                str(row["agent"]),
                "--algorithm",
                str(row["algorithm"]),
                *(MAZE if row["env"] == "maze" else CARTPOLE),
            ),
            *("--threads", "1", "--total-timesteps", str(options.total_timesteps), "--seed", "1"),
            *("--checkpoint-interval", str(options.checkpoint_interval)),
        ]
        if k not in whole:
            directory, since = folder / f"whole{k}", time.perf_counter()
            train_in_process([*new, "--out", str(directory)], None)
            whole[k] = directory, time.perf_counter() - since
        directory, seconds = folder / f"run{turn}", whole[k][1]
        deadlines: list[float | None] = [rng.uniform(0, seconds) for _ in range(rng.randint(1, 4))]
        for deadline in [*deadlines, None]:
            resume = [
                "--resume" if checkpoints(directory / "checkpoints") else "--out",
                str(directory),
            ]
            args = (
                [str(row["agent"]), *resume, "--threads", "1"]
                if resume[0] == "--resume"
                else [*new, *resume]
            )
            killed, said = train_in_process(args, deadline)
            row["kills"] = int(row["kills"]) + killed
            if not killed:
                break
        row["runs"] = int(row["runs"]) + 1
        differences = (
            compare(whole[k][0], directory)
            if (directory / "model.zip").exists()
            else [f"not finished: {said}"]
        )
        row["identical"] = int(row["identical"]) + (not differences)
        failures += [
            f"{row['agent']} {row['algorithm']} {row['env']}: {difference}"
            for difference in differences
        ]
        shutil.rmtree(directory, ignore_errors=True)
        print(
            f"{sum(int(r['kills']) for r in rows)} kills, {len(failures)} failures", file=sys.stderr
        )
    total = {key: sum(int(row[key]) for row in rows) for key in ("runs", "kills", "identical")}
    return {**total, "failures": failures, "settings": rows}


def train_in_process(args: list[str], kill_after: float | None) -> tuple[bool, str]:
    """Run train.py in a process.

    Returns:
        Whether it had to be killed, and the last line that it wrote.
    """
    with tempfile.NamedTemporaryFile() as said:
        process = FORK.Process(target=_train, args=(args, said.name))
        process.start()
        process.join(kill_after)
        killed = process.is_alive()
        if killed:
            process.kill()
            process.join()
        lines = Path(said.name).read_text().splitlines()
    return killed, lines[-1] if lines else f"exit code {process.exitcode}"


def _train(args: list[str], said: str) -> None:
    with open(said, "w") as file, redirect_stderr(file), redirect_stdout(io.StringIO()):
        sys.argv = ["train.py", *args]
        run_main(train.main, log=lambda: train.directory)


def compare(one: Path, other: Path) -> list[str]:
    """What differs between two finished runs."""
    differences = []
    if any(not torch.equal(a, b) for a, b in zip(tensors(one), tensors(other), strict=True)):
        differences.append("other weights")
    tables = [
        [
            {k: v for k, v in row.items() if k not in CLOCK}
            for row in read_rows(directory / "progress.csv")
        ]
        for directory in (one, other)
    ]
    if tables[0] != tables[1]:
        differences.append(f"other rows in progress.csv: {len(tables[0])} and {len(tables[1])}")
    points = [sorted(event_points(directory)) for directory in (one, other)]
    if len({point[:2] for point in points[1]}) != len(points[1]):
        differences.append("doubled points in the event files")
    elif points[0] != points[1]:
        differences.append(
            f"other points in the event files: {len(points[0])} and {len(points[1])}"
        )
    if left := [path.name for path in other.rglob("*.unfinished")]:
        differences.append(f"left behind: {left}")
    return differences


def tensors(directory: Path) -> list[torch.Tensor]:
    """Parameters, buffers and optimizer state of a finished run."""
    policy = load_model(Run.load(directory), directory / "model.zip", None, "cpu").policy
    state = policy.optimizer.state_dict()["state"]
    return [
        *policy.state_dict().values(),
        *(value for part in state.values() for value in part.values()),
    ]


def event_points(directory: Path) -> list[tuple[str, int, float]]:
    """Tag, step and value of all points in the event files, but for the clock."""
    events = [
        event
        for path in directory.glob("events*")
        for event in LegacyEventFileLoader(str(path)).Load()
    ]
    return [
        (v.tag, e.step, v.simple_value)
        for e in events
        for v in e.summary.value
        if v.tag not in CLOCK
    ]


# Mutations


def mutations(options: Options, folder: Path) -> dict[str, Any]:
    """Mutate a file, and let a process meet it, as often as asked for."""
    rng = random.Random(options.seed)
    run, export = folder / "victim", folder / "export"
    new = [
        "mnm-p",
        *MAZE,
        "--threads",
        "1",
        "--total-timesteps",
        "800",
        "--checkpoint-interval",
        "300",
    ]
    train_in_process([*new, "--out", str(run)], None)
    process = FORK.Process(target=_export, args=(run / "model.zip", export))
    process.start()
    process.join()
    from_pretrained(export)  # loads the kernels, which every process would do anew
    last = checkpoints(run / "checkpoints")[-1].relative_to(run)
    (event_file,) = run.glob("events*")
    targets: dict[str, tuple[Path, Path, Callable[[Path], None]]] = {
        "checkpoint": (run, last, resume),
        "model.zip": (run, Path("model.zip"), load),
        "config.json of a run": (run, Path("config.json"), resume),
        "progress.csv": (run, Path("progress.csv"), resume),
        "event file": (run, event_file.relative_to(run), resume),
        "config.json of an export": (export, Path("config.json"), from_pretrained),
        "model.safetensors": (export, Path("model.safetensors"), from_pretrained),
    }
    empty = {
        "mutations": 0,
        "refused": 0,
        "harmless": 0,
        "failed": 0,
        "most_seconds": 0.0,
        "most_mb": 0.0,
    }
    rows: dict[str, dict[str, Any]] = {name: dict(empty) for name in targets}
    failures: list[str] = []
    for i in range(options.mutations):
        name = rng.choice(list(targets))
        source, file, meet = targets[name]
        directory = folder / "mutated"
        shutil.copytree(source, directory)
        if meet is resume:
            (directory / "model.zip").unlink()
        how = mutate(directory / file, rng)
        outcome, said, seconds, mb = attempt(meet, directory)
        if outcome != "failed" and (seconds > MOST_SECONDS or mb > MOST_MB):
            outcome, said = "failed", f"took {seconds:.1f} s and {mb:.0f} MB: {said}"
        row = rows[name]
        row["mutations"] += 1
        row[outcome] += 1
        row["most_seconds"] = max(row["most_seconds"], round(seconds, 2))
        row["most_mb"] = max(row["most_mb"], round(mb, 1))
        if outcome == "failed":
            failures.append(f"{i}: {name}, {how}: {said}")
            print(failures[-1], file=sys.stderr)
        shutil.rmtree(directory)
    total = {
        key: sum(row[key] for row in rows.values())
        for key in ("mutations", "refused", "harmless", "failed")
    }
    return {**total, "failures": failures, "files": rows}


def _export(model: Path, directory: Path) -> None:
    ALGORITHMS["ppo"].load(model, device="cpu").export(directory)


def resume(directory: Path) -> None:
    """Resume the run, up to where the training would begin."""
    ALGORITHMS["ppo"].learn = lambda self, *_, **__: self  # type: ignore[method-assign]
    sys.argv = ["train.py", "mnm-p", "--resume", str(directory), "--threads", "1"]
    run_main(train.main, log=lambda: None)


def load(directory: Path) -> None:
    """Load the model."""
    ALGORITHMS["ppo"].load(directory / "model.zip", device="cpu")


def from_pretrained(directory: Path) -> None:
    """Read the export and play a step."""
    model = ALGORITHMS["ppo"].from_pretrained(directory, device="cpu")
    model.predict(model.observation_space.sample())


def attempt(meet: Callable[[Path], None], directory: Path) -> tuple[str, str, float, float]:
    """Let a process meet a mutated file.

    Returns:
        ``"refused"``, ``"harmless"`` or ``"failed"``, what was said, seconds of CPU time, and MB of
        memory that were added.
    """
    receiver, sender = FORK.Pipe(duplex=False)
    process = FORK.Process(target=_attempt, args=(meet, directory, sender))
    process.start()
    sender.close()
    try:
        result = (
            receiver.recv() if receiver.poll(PATIENCE) else ("failed", "did not end", PATIENCE, 0.0)
        )
    except EOFError:
        process.join()
        result = ("failed", f"the process ended with exit code {process.exitcode}", 0.0, 0.0)
    process.kill()
    process.join()
    return tuple(result)  # type: ignore[return-value]


def _attempt(meet: Callable[[Path], None], directory: Path, sender: Any) -> None:
    before, since = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
    stderr = io.StringIO()
    outcome, said = "harmless", ""
    try:
        with redirect_stderr(stderr), redirect_stdout(io.StringIO()):
            meet(directory)
    except SystemExit as end:
        said = (
            stderr.getvalue().strip().splitlines()[-1:]
            and stderr.getvalue().strip().splitlines()[-1]
        )
        errors = [line for line in stderr.getvalue().splitlines() if line.startswith("error: ")]
        if end.code != 0:
            foreseen = (
                end.code in (1, 2)
                and len(errors) == 1
                and said == errors[0]
                and "traceback" not in stderr.getvalue().lower()
            )
            outcome = "refused" if foreseen else "failed"
    except (ValueError, FileNotFoundError) as error:
        outcome, said = (
            "refused" if str(directory) in str(error) else "failed",
            f"{type(error).__name__}: {error}",
        )
    except BaseException as error:
        outcome, said = "failed", "".join(traceback.format_exception_only(error)).strip()
    seconds = time.process_time() - since
    sender.send(
        (
            outcome,
            said[:300],
            seconds,
            (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1000,
        )
    )
    sender.close()
    os._exit(0)


ODD_VALUES = [
    None,
    True,
    "",
    "x" * 10_000,
    -1,
    0,
    0.5,
    1e9,
    10**9,
    10**15,
    10**30,
    float("nan"),
    float("inf"),
    [],
    {},
    [[]],
    "../../x",
]


def mutate(path: Path, rng: random.Random) -> str:
    """Change a file in one of many ways.

    Returns:
        The way, in words.
    """
    if path.suffix == ".json" and rng.random() < 0.7:
        return _mutate_json(path, rng)
    if path.suffix == ".zip" and rng.random() < 0.5:
        return _mutate_in_archive(path, rng)
    whole = path.read_bytes()
    mutated, how = _mutate_bytes(whole, rng)
    path.write_bytes(mutated)
    return how


def _mutate_bytes(whole: bytes, rng: random.Random) -> tuple[bytes, str]:
    start = rng.randrange(len(whole) + 1)
    length = min(len(whole) - start, int(10 ** rng.uniform(0, 4)))
    head, tail = whole[:start], whole[start + length :]
    where = f"{length} bytes at {start} of {len(whole)}"
    way = rng.choice(["empty", "cut", "hole", "noise", "flip", "gone", "twice", "longer"])
    mutated = {
        "empty": b"",
        "cut": head,
        "hole": head + bytes(length) + tail,
        "noise": head + rng.randbytes(length) + tail,
        "flip": head
        + bytes(byte ^ (1 << rng.randrange(8)) for byte in whole[start : start + 1])
        + whole[start + 1 :],
        "gone": head + tail,
        "twice": head + 2 * whole[start : start + length] + tail,
        "longer": whole + rng.randbytes(length),
    }[way]
    return mutated, f"{way}, {where}"


def _mutate_json(path: Path, rng: random.Random) -> str:
    data = json.loads(path.read_text())
    places: list[tuple[Any, Any]] = []

    def collect(part: Any) -> None:
        for key in part if isinstance(part, dict) else range(len(part)):
            places.append((part, key))
            if isinstance(part[key], dict | list):
                collect(part[key])

    collect(data)
    part, key = rng.choice(places)
    if rng.random() < 0.2 and isinstance(part, dict):
        del part[key]
        how = f"without {key}"
    else:
        part[key] = rng.choice(ODD_VALUES)
        how = f"{key} = {str(part[key])[:40]!r}"
    path.write_text(json.dumps(data))
    return how


def _mutate_in_archive(path: Path, rng: random.Random) -> str:
    """Change a member of a zip file, and keep the archive valid."""
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    chosen = rng.choice(list(members))
    if rng.random() < 0.2:
        del members[chosen]
        how = "left out"
    else:
        members[chosen], how = _mutate_bytes(members[chosen], rng)
    with zipfile.ZipFile(path, "w") as archive:
        for name, member in members.items():
            archive.writestr(name, member)
    return f"{chosen} in it: {how}"


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))

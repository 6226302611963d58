"""Grids of runs: what their files say, and what becomes of runs that finish, fail, and are
interrupted."""

import csv
import fcntl
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from agents import AGENTS
from experiments.__main__ import main
from experiments.command_line import RunError, UsageError
from experiments.configuration import Run
from experiments.grids.display import Display
from experiments.grids.grid import Grid, Job
from experiments.grids.schedule import LOST, LocalPool, last_line, run_jobs, start_locally
from train import parse_options

ROOT = Path(__file__).parent.parent
FILES = sorted((ROOT / "experiments").glob("*.toml"))

SMALL = """
title = "Small"
agents = ["lstm", "rnn"]
environments = ["mnm/MazeSmall-v0"]
seeds = 2
total_timesteps = 400
n_envs = 4
"""


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A function that writes a grid file into an empty working directory; train.py is its
    stand-in."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("experiments.grids.grid.TRAIN", ROOT / "tests" / "fake_train.py")

    def write(text: str) -> Path:
        path = tmp_path / "small.toml"
        path.write_text(text)
        return path

    return write


def run(file: Path, retry: bool = False, workers: int = 2) -> list[Job]:
    jobs = Grid.load(file).jobs()
    run_jobs(jobs, LocalPool(workers), Display(jobs), retry, interval=0.01)
    return jobs


def steps(job: Job) -> list[int]:
    with open(job.directory / "progress.csv", newline="") as file:
        return [int(row["time/total_timesteps"]) for row in csv.DictReader(file)]


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_every_grid_of_the_project_can_be_read(path: Path) -> None:
    grid = Grid.load(path)
    assert grid.about
    assert len(grid.jobs()) >= len(grid.agents) * len(grid.seeds)


def test_all_agents_run_a_seed_before_any_runs_the_next(write: Any) -> None:
    jobs = Grid.load(write(SMALL.replace("MazeSmall-v0", 'MazeSmall-v0", "mnm/Maze-v0'))).jobs()
    assert [(job.seed, job.environment, job.agent) for job in jobs] == [
        (seed, env, agent)
        for seed in (0, 1)
        for env in ("mnm/MazeSmall-v0", "mnm/Maze-v0")
        for agent in ("lstm", "rnn")
    ]
    assert len({job.directory for job in jobs}) == len(jobs)


def test_none_is_written_as_on_the_command_line(write: Any) -> None:
    job = Grid.load(write(SMALL + '[settings]\nfree = { target_kl = "None" }\n')).jobs()[0]
    assert job.run.hyperparameters.algorithm.target_kl is None


@pytest.mark.parametrize("algorithm", ["ppo", "a2c"])
def test_a_run_is_a_command_and_a_file_that_say_all(write: Any, algorithm: str) -> None:
    grid = f'''
title = "Small"
agents = ["mnm-p"]
algorithms = ["{algorithm}"]
environments = ["mnm/Maze-v0 size=7 layout=perfect mask_walls=true"]
seeds = 2
total_timesteps = 1e6
[settings]
"fixed start" = {{ learn_initial_memory = false, heads = 4 }}
'''
    job = Grid.load(write(grid)).jobs()[1]
    assert job.label == "mnm-p, fixed start"
    directory = (
        "runs/small/mnm-Maze-v0-size=7-layout=perfect-mask_walls=true/"
        f"{algorithm}/mnm-p/fixed-start/seed1"
    )
    assert job.shell() == (
        f"python train.py --config {directory}.json --out {directory} --threads 1"
    )
    job.write_config()
    options = parse_options(job.shell().split()[2:])
    assert options.run == job.run
    assert (options.out, options.threads) == (job.directory, 1)
    assert job.run.env_kwargs == {"size": 7, "layout": "perfect", "mask_walls": True}
    assert job.run.hyperparameters == AGENTS["mnm-p"].defaults(algorithm).changed(
        learn_initial_memory=False, heads=4
    )


def test_a_setting_can_be_for_some_agents_only(write: Any) -> None:
    grid = (
        SMALL.replace('"rnn"', '"mnm-p"')
        + '[settings]\ndefault = {}\n"no meta-loss" = { agents = ["mnm-p"], meta_coef = 0.0 }\n'
    )
    assert [job.label for job in Grid.load(write(grid)).jobs()[:3]] == [
        "lstm",
        "mnm-p",
        "mnm-p, no meta-loss",
    ]


@pytest.mark.parametrize(
    ("before", "after", "message"),
    [
        ('title = "Small"', "", "must say title"),
        ('title = "Small"', 'title = "Small"\nseed = 3', "there is no 'seed'"),
        ('title = "Small"', "title = ", "not a TOML file"),
        ('"rnn"', '"rmn"', "unknown agent 'rmn'"),
        ('"rnn"', '"lstm"', "agents has lstm twice"),
        ('["lstm", "rnn"]', '"lstm"', "must be a list"),
        ("seeds = 2", "seeds = 0", "seeds must be"),
        ("seeds = 2", "seeds = [1, 1]", "seeds must be"),
        ("400", "0", "total_timesteps must be"),
        ("400", "1.5", "total_timesteps must be"),
        ("MazeSmall-v0", "MazeSmall-v0 size", "name=value"),
        ("seeds = 2", 'seeds = 2\nalgorithms = ["dqn"]', "unknown algorithm 'dqn'"),
        ("n_envs = 4", "n_envs = 4\nsettings.wide = { heads = 2 }", "lstm has no 'heads'"),
        (
            "n_envs = 4",
            "n_envs = 4\nsettings.fast = { learning_rate = 7.0 }",
            "learning_rate must be from 0 to 1",
        ),
        ("n_envs = 4", 'n_envs = 4\nsettings.fast = { agents = ["gru"] }', "is for 'gru'"),
        ("n_envs = 4", 'n_envs = 4\nsettings = { "a b" = {}, "a-b" = {} }', "names so alike"),
    ],
)
def test_what_is_wrong_in_a_grid_is_said(write: Any, before: str, after: str, message: str) -> None:
    assert before in SMALL
    with pytest.raises(UsageError, match=re.escape(message)):
        Grid.load(write(SMALL.replace(before, after)))


def test_a_grid_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="there is no grid"):
        Grid.load(tmp_path / "nothing.toml")


def test_finished_runs_stay_as_they_are(write: Any, capsys: pytest.CaptureFixture[str]) -> None:
    file = write(SMALL)
    jobs = run(file)
    assert all(job.finished for job in jobs)
    assert "4 of 4 runs finished" in capsys.readouterr().err
    before = {job.log: job.log.read_text() for job in jobs}
    run(file)
    assert before == {job.log: job.log.read_text() for job in jobs}
    assert "started" not in capsys.readouterr().err


def test_each_run_has_one_thread_and_leaves_its_command_in_its_log(write: Any) -> None:
    job = run(write(SMALL))[0]
    assert job.log.read_text().splitlines() == [f"$ {job.shell()}", "started 1"]


def test_failed_runs_are_reported_and_tried_again_on_request(
    write: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    file = write(
        SMALL + '[settings]\ndefault = {}\nhigh = { agents = ["rnn"], learning_rate = 0.5 }\n'
    )
    with pytest.raises(RunError, match="2 of 6 runs failed; --retry"):
        run(file)
    jobs = Grid.load(file).jobs()
    assert [job.finished for job in jobs] == [True, True, False] * 2
    error = capsys.readouterr().err
    assert f"error: it diverged (exit code 1)\n  {jobs[2].shell()}" in error

    with pytest.raises(RunError):
        run(file)
    assert "started" not in capsys.readouterr().err
    for job in jobs:
        job.directory.with_suffix(".cure").touch()
    assert all(job.finished and not job.failed for job in run(file, retry=True))


def test_runs_without_a_checkpoint_start_again(write: Any) -> None:
    file = write(SMALL)
    job = Grid.load(file).jobs()[0]
    (job.directory / "checkpoints").mkdir(parents=True)
    (job.directory / "progress.csv").write_text("of a run that was killed")
    run(file)
    assert steps(job) == [100, 200, 300, 400]


def test_ctrl_c_saves_all_runs_and_the_same_command_goes_on(write: Any) -> None:
    file = write(SMALL + "[settings]\nslow = { learning_rate = 0.25 }\n")
    code = (
        "import experiments.grids.grid as g, pathlib; g.TRAIN = pathlib.Path(%r); import "
        "experiments.__main__ as m; m.run_main(m.main)"
    )
    process = subprocess.Popen(
        [
            sys.executable,
            "-c",
            code % str(ROOT / "tests" / "fake_train.py"),
            "run",
            str(file),
            "--workers",
            "2",
        ],
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )
    jobs = Grid.load(file).jobs()
    wait_for(
        lambda: all(
            (job.directory / "progress.csv").exists() and len(steps(job)) == 2 for job in jobs[:2]
        )
    )
    process.send_signal(signal.SIGINT)
    _, error = process.communicate(timeout=30)
    assert process.returncode == 130, error
    assert (
        error.splitlines()[-1]
        == "stopped: 4 of 4 runs are unfinished; the same command goes on with them"
    )
    assert [job.resumable for job in jobs] == [True, True, False, False]
    assert "--resume" in jobs[0].shell()
    run_jobs(jobs[:2], LocalPool(2), Display(jobs), interval=0.01)
    assert all(job.finished and steps(job) == [100, 200, 300, 400] for job in jobs[:2])


def test_a_run_that_somebody_else_is_at_work_on_is_left_alone(write: Any) -> None:
    file = write(SMALL)
    jobs = Grid.load(file).jobs()
    jobs[1].lock.parent.mkdir(parents=True)
    with open(jobs[1].lock, "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(RunError, match="somebody else is at work on 1 of 4 runs"):
            run(file)
    assert [job.finished for job in jobs] == [True, False, True, True]


def test_a_process_holds_its_run_until_it_ends(write: Any) -> None:
    job = Grid.load(write(SMALL + "[settings]\nslow = { learning_rate = 0.25 }\n")).jobs()[0]
    worker = start_locally(job)
    assert worker is not None
    assert start_locally(job) is None
    wait_for(lambda: job.log.exists() and "started" in job.log.read_text())
    worker.stop(signal.SIGINT)
    wait_for(lambda: worker.poll() is not None)
    assert job.resumable
    assert "saved at" in last_line(job.log)
    again = start_locally(job)
    assert again is not None
    wait_for(lambda: again.poll() is not None)
    assert job.finished


class LossyPool:
    """A pool whose first run is lost with its machine."""

    workers = 1

    def __init__(self) -> None:
        self.started: list[Path] = []

    def start(self, job: Job) -> Any:
        self.started.append(job.directory)
        return self if len(self.started) == 1 else start_locally(job)

    def poll(self) -> int:
        return LOST


def test_a_run_that_was_lost_with_its_machine_goes_on(write: Any) -> None:
    jobs, pool = Grid.load(write(SMALL)).jobs(), LossyPool()
    run_jobs(jobs, pool, Display(jobs), interval=0.01)
    assert all(job.finished for job in jobs)
    assert pool.started == [job.directory for job in (jobs[0], *jobs)]


def test_runs_made_with_other_settings_are_never_taken_for_the_grids(write: Any) -> None:
    run(write(SMALL))
    with pytest.raises(
        UsageError, match="was made with total_timesteps 400, and the grid says 800"
    ):
        run(write(SMALL.replace("400", "800")))


def test_runs_made_with_other_defaults_are_never_taken_for_the_grids(write: Any) -> None:
    run(write(SMALL + "[settings]\ndefault = { learning_rate = 0.02 }\n"))
    with pytest.raises(
        UsageError, match=r"was made with learning_rate 0.02, and the grid says 0.004"
    ):
        run(write(SMALL))


def test_the_runs_of_a_grid_are_listed_with_their_commands(
    write: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    file = write(SMALL)
    run_jobs(Grid.load(file).jobs()[:1], LocalPool(1), Display([]), interval=0.01)
    main(["list", str(file)])
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "finished    lstm, ppo, mnm/MazeSmall-v0, seed 0"
    assert lines[2] == "to do       rnn, ppo, mnm/MazeSmall-v0, seed 0"
    job = Grid.load(file).jobs()[1]
    assert lines[3].strip() == job.shell()
    assert Run.read(job.config) == job.run


def wait_for(happened: Any, seconds: float = 100.0) -> None:
    until = time.monotonic() + seconds
    while not happened():
        assert time.monotonic() < until, "it did not happen"
        time.sleep(0.01)

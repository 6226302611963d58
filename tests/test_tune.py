"""The search for hyperparameters over a grid; skipped, but for what is checked before it, where
Optuna is not installed."""

import json
from pathlib import Path
from typing import Any

import pytest

from experiments.command_line import InterruptedRun, UsageError
from experiments.grids.grid import Grid, Job
from experiments.grids.results import Result
from experiments.grids.schedule import LocalPool
from experiments.grids.tune import _space, tune
from tests.results import result

ROOT = Path(__file__).parent.parent
GRID = """
title = "Small"
agents = ["lstm", "rnn"]
environments = ["mnm/MazeSmall-v0"]
seeds = 2
total_timesteps = 400
n_envs = 4

[tune]
trials = 3
learning_rate = { low = 1e-4, high = 1e-2, log = true }
n_epochs = { low = 1, high = 8 }
gamma = [0.9, 0.95]
"""


def score(job: Job) -> Result:
    """A run scores what its learning rate says."""
    return result(
        job.agent, job.seed, 1000 * job.run.hyperparameters.algorithm.learning_rate + job.seed
    )


@pytest.fixture
def grid(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Grid:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("experiments.grids.grid.TRAIN", ROOT / "tests" / "fake_train.py")
    monkeypatch.setattr("experiments.grids.tune.result_of", score)
    return read(GRID, tmp_path)


def read(text: str, directory: Path) -> Grid:
    (directory / "small.toml").write_text(text)
    return Grid.load(directory / "small.toml")


@pytest.mark.parametrize(
    ("before", "after", "message"),
    [
        ("trials = 3", "", "needs a table"),
        ("trials = 3", "trials = 0", "needs a table"),
        ("gamma = [0.9, 0.95]", "gamma = []", "gamma must be a list of choices"),
        ("gamma = [0.9, 0.95]", "gamma = { low = 0.9 }", "gamma must be a list of choices"),
        (
            "gamma = [0.9, 0.95]",
            "gamma = { low = 0.9, high = 0.1 }",
            "gamma must be a list of choices",
        ),
        ("gamma = [0.9, 0.95]", "gamma = [0.9, 3.0]", "gamma must be from 0 to 1"),
        ("gamma = [0.9, 0.95]", "delta = [0.9, 0.95]", "lstm has no 'delta'"),
    ],
)
def test_what_is_wrong_in_a_search_is_said(
    before: str, after: str, message: str, tmp_path: Path
) -> None:
    with pytest.raises((UsageError, ValueError), match=message):
        _space(read(GRID.replace(before, after), tmp_path))


def test_tuning_without_optuna_is_a_clear_error(
    grid: Grid, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("experiments.grids.tune.optuna", None)
    with pytest.raises(UsageError, match=r"pip install 'mnm-rl\[tune\]'"):
        tune(grid, LocalPool(2), tmp_path / "trials.json")


def test_every_agent_is_searched_with_all_seeds(grid: Grid, tmp_path: Path) -> None:
    pytest.importorskip("optuna", reason="Optuna is not installed: pip install 'mnm-rl[tune]'")
    studies = tune(grid, LocalPool(2), tmp_path / "trials.json")
    assert [study.name for study in studies] == [
        "lstm, ppo, mnm/MazeSmall-v0",
        "rnn, ppo, mnm/MazeSmall-v0",
    ]
    for study in studies:
        rows = study.rows()
        assert [row["score"] for row in rows] == sorted(
            (row["score"] for row in rows), reverse=True
        )
        assert len(rows) == 3
        for row in rows:
            assert 1e-4 <= row["hyperparameters"]["learning_rate"] <= 1e-2
            assert row["hyperparameters"]["gamma"] in (0.9, 0.95)
            assert type(row["hyperparameters"]["n_epochs"]) is int
            assert row["score"] == pytest.approx(
                1000 * row["hyperparameters"]["learning_rate"] + 0.5
            )
    assert (
        json.loads((tmp_path / "trials.json").read_text())["studies"]["lstm, ppo, mnm/MazeSmall-v0"]
        == studies[0].rows()
    )
    assert len(list((tmp_path / "runs" / "small" / "tune").rglob("model.zip"))) == 2 * 3 * 2


def test_an_interrupted_search_goes_on_with_its_trials(
    grid: Grid, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("optuna", reason="Optuna is not installed: pip install 'mnm-rl[tune]'")

    def interrupted(jobs: Any, *_: Any) -> None:
        asked.extend(job.run.hyperparameters.flat() for job in jobs)
        raise InterruptedRun("by Ctrl-C")

    asked: list[Any] = []
    with monkeypatch.context() as patch:
        patch.setattr("experiments.grids.tune.run_jobs", interrupted)
        with pytest.raises(InterruptedRun):
            tune(grid, LocalPool(2), tmp_path / "trials.json")
    studies = tune(grid, LocalPool(2), tmp_path / "trials.json")
    assert all(len(study.rows()) == 3 for study in studies)
    first = [
        next(row for row in study.rows() if row["trial"] == 0)["hyperparameters"]
        for study in studies
    ]
    for hyperparameters, params in zip((asked[0], asked[2]), first, strict=True):
        assert hyperparameters == hyperparameters | params

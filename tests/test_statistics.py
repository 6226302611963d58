"""Statistics over seeds: what they are for scores that are known, and that they never pool what
does not belong together."""

import contextlib
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from envs import RETURN, Metric
from experiments.analysis.page import improvement, rows, sections
from experiments.command_line import UsageError
from experiments.grids.display import Display
from experiments.grids.grid import Grid, Job
from experiments.grids.results import Results, check_settings, collect, thinned
from experiments.grids.schedule import LocalPool, run_jobs
from experiments.statistics import (
    aggregate,
    curve,
    interval,
    iqm,
    mean,
    performance_profile,
    probability_of_improvement,
    within_episode,
)
from tests.results import MAZE, result, results

ROOT = Path(__file__).parent.parent
COMMITTED = sorted((ROOT / "docs" / "results").glob("*.json"))


def test_the_interquartile_mean_leaves_out_the_outer_quarters() -> None:
    assert iqm(np.array([-100.0, 1.0, 2.0, 100.0])) == 1.5
    assert aggregate([np.array([-100.0, 1.0]), np.array([2.0, 100.0])]) == 1.5


def test_an_interval_holds_the_truth_as_often_as_it_says() -> None:
    rng = np.random.default_rng(0)
    found = [interval([rng.normal(size=30)], mean) for _ in range(200)]
    assert 0.88 < np.mean([low < 0 < high for low, high in found]) < 0.98  # type: ignore[misc]


def test_resampling_stays_within_each_task() -> None:
    # seeds agree: all that varies is between the tasks
    apart = [np.full(3, 0.0), np.full(3, 100.0)]
    assert interval(apart, mean) == (50, 50)
    pooled = interval([np.concatenate(apart)], mean)
    assert pooled is not None
    assert pooled[1] - pooled[0] > 50


def test_one_seed_has_no_interval_and_beside_others_does_not_vary() -> None:
    assert interval([np.array([3.0])]) is None
    assert interval([np.array([3.0]), np.array([1.0, 1.0])], mean) == pytest.approx((5 / 3, 5 / 3))


def test_probability_of_improvement_counts_pairs() -> None:
    ours, theirs = np.array([1.0, 3.0]), np.array([2.0, 2.0, 3.0])
    assert probability_of_improvement([ours], [theirs])[0] == pytest.approx(2.5 / 6)
    assert probability_of_improvement([ours], [ours])[0] == 0.5
    above = [np.array([5.0, 6.0, 7.0])]
    assert probability_of_improvement(above, [theirs]) == (1.0, (1.0, 1.0))
    # the mean over two tasks
    assert probability_of_improvement([*above, ours], [theirs, ours])[0] == 0.75


@given(
    st.lists(st.integers(0, 5), min_size=1, max_size=6),
    st.lists(st.integers(0, 5), min_size=1, max_size=6),
)
def test_probabilities_of_improvement_sum_to_one(x: list[int], y: list[int]) -> None:
    a, b = [np.array(x, float)], [np.array(y, float)]
    assert probability_of_improvement(a, b)[0] + probability_of_improvement(b, a)[
        0
    ] == pytest.approx(1)


def test_a_profile_falls_from_one_to_zero() -> None:
    share, low, high = performance_profile(
        [np.array([1.0, 2.0, 3.0, 4.0])], np.array([0.0, 1.0, 2.5, 4.0])
    )
    assert share.tolist() == [1, 0.75, 0.5, 0]
    assert (low <= share).all()
    assert (share <= high).all()


def test_curves_are_read_at_the_same_places() -> None:
    runs = [
        (np.array([0.0, 10.0]), np.array([0.0, 10.0])),
        (np.array([0.0, 5.0, 10.0]), np.array([2.0, 7.0, 12.0])),
    ]
    middle, low, high = curve(runs, np.array([0.0, 5.0, 8.0]))
    assert middle.tolist() == [1, 6, 9]
    assert low.tolist() == [0, 5, 8]
    assert high.tolist() == [2, 7, 10]


def test_waits_within_an_episode_are_counted_from_one_reward_to_the_next() -> None:
    assert within_episode([[10, 14, 16], [20, 24], []]) == ([15, 4, 2], [2, 2, 1])
    assert within_episode([[]]) == ([], [])


def test_a_thinned_curve_keeps_its_means_and_goes_on_after_a_resume() -> None:
    rows = [
        {
            "time/total_timesteps": 10.0 * i,
            "time/time_elapsed": float(i if i <= 6 else i - 6),
            "rollout/goals": float(i),
        }
        for i in range(1, 11)
    ]
    curve = thinned(rows, [Metric("goals", "goals per episode")], points=5)
    assert curve["steps"] == [15, 35, 55, 75, 95]
    assert curve["score"] == [1.5, 3.5, 5.5, 7.5, 9.5]
    assert curve["seconds"] == [1.5, 3.5, 5.5, 7.5, 9.5]  # stopped after 6 seconds


def test_the_same_run_twice_is_an_error() -> None:
    with pytest.raises(UsageError, match="the same run twice: lstm, ppo"):
        results(result("lstm", 0, 20.0), result("lstm", 0, 21.0))


def test_only_what_is_alike_is_pooled() -> None:
    found = results(
        result("lstm", 0, 20.0),
        result("lstm", 0, 10.0, algorithm="a2c"),
        result("lstm", 0, 5.0, setting="wide"),
        result("lstm", 1, 21.0),
    )
    assert {group[:2]: found.scores(group).tolist() for group in found.groups} == {
        ("lstm", "ppo"): [20, 21],
        ("lstm, wide", "ppo"): [5],
        ("lstm", "a2c"): [10],
    }


def test_the_rows_of_a_table() -> None:
    found = results(
        *(result("lstm", seed, goals) for seed, goals in enumerate([15.0, 14.0, 16.0, 1.0])),
        result("rnn", 0, 20.0),
    )
    rnn, lstm = rows(found, list(found.groups))
    assert (rnn["label"], lstm["label"]) == ("rnn", "lstm")  # the best first
    assert rnn["iqm_interval"] is None
    assert (lstm["iqm"], lstm["mean"], lstm["range"]) == (14.5, 11.5, "1.0 to 16.0")
    assert lstm["normalized"] == pytest.approx((14.5 - 1) / 28)
    assert improvement(found, list(found.groups))[0]["against"] == [None, (1.0, (1.0, 1.0))]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A grid with three of four runs finished."""
    directory = tmp_path_factory.mktemp("grid")
    (directory / "tiny.toml").write_text(
        'title = "Tiny"\nagents = ["lstm", "rnn"]\nenvironments = ["mnm/MazeSmall-v0 horizon=20"]\n'
        "seeds = 2\ntotal_timesteps = 320\nn_envs = 4\n"
    )
    with contextlib.chdir(directory):
        jobs = Grid.load(directory / "tiny.toml").jobs()[:3]
        run_jobs(jobs, LocalPool(2), Display(jobs))
        collect(Grid.load(directory / "tiny.toml"))  # which plays their final episodes
    return directory


@pytest.fixture
def grid(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Grid:
    """A copy of it."""
    shutil.copytree(trained, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    return Grid.load(tmp_path / "tiny.toml")


def test_a_real_grid_from_its_file_to_its_statistics(
    grid: Grid, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(UsageError, match="no run of the grid other is finished"):
        collect(replace(grid, name="other"))
    shutil.rmtree(grid.jobs()[2].directory)
    found = collect(grid)
    assert "2 of 4 runs are not finished and left out" in capsys.readouterr().err
    assert (found.planned, [(r.agent, r.seed) for r in found.results]) == (
        4,
        [("lstm", 0), ("rnn", 0)],
    )
    lstm = found.results[0]
    assert (lstm.steps, lstm.episodes) == (320, 512)
    assert lstm.curve["steps"] == [80, 160, 240, 320]
    assert lstm.metrics["return"] == pytest.approx(10 * lstm.score)
    assert sum(count for _, count in lstm.waits) == pytest.approx(512 * lstm.score)

    evaluation = grid.jobs()[0].directory / "evaluation.json"
    before = evaluation.stat().st_mtime_ns
    assert collect(grid) == found
    assert evaluation.stat().st_mtime_ns == before  # the episodes are not played again

    found.save(tmp_path / "tiny.json")
    again = Results.load(tmp_path / "tiny.json")
    assert again == found
    assert sections(again) == sections(found)


def test_results_of_two_machines_are_put_together(
    grid: Grid, monkeypatch: pytest.MonkeyPatch
) -> None:
    jobs = grid.jobs()
    all_three = collect(grid)
    monkeypatch.setattr(Job, "finished", property(lambda job: job.directory == jobs[2].directory))
    here = collect(grid)
    assert here.results == all_three.results[2:]
    assert collect(grid, earlier=all_three) == replace(
        all_three, hyperparameters=here.hyperparameters + all_three.hyperparameters[1:]
    )
    elsewhere = replace(all_three, results=all_three.results[:2], versions={"torch": ["1.0"]})
    assert collect(grid, earlier=elsewhere).results == all_three.results
    assert collect(grid, earlier=elsewhere).versions["torch"] == ["1.0", *here.versions["torch"]]

    with pytest.raises(UsageError, match="total_timesteps 5, and the grid says 320"):
        collect(grid, earlier=replace(elsewhere, grid=elsewhere.grid | {"total_timesteps": 5}))
    other = [
        own | {"hyperparameters": own["hyperparameters"] | {"gamma": 0.5}}
        for own in elsewhere.hyperparameters
    ]
    with pytest.raises(UsageError, match=r"gamma 0.5 of lstm \(default\), and the grid says 0.95"):
        collect(grid, earlier=replace(elsewhere, hyperparameters=other))
    with pytest.raises(UsageError, match=r"of another grid: lstm, .*, seed 7"):
        collect(grid, earlier=replace(elsewhere, results=[replace(all_three.results[0], seed=7)]))


@pytest.mark.parametrize("text", ["{}", "[1]", "no JSON", '{"results": [{}]}'])
def test_what_holds_no_results_is_said(text: str, tmp_path: Path) -> None:
    (tmp_path / "file.json").write_text(text)
    with pytest.raises(UsageError, match="does not hold the results"):
        Results.load(tmp_path / "file.json")


def test_the_committed_data_gives_the_same_statistics_every_time() -> None:
    """Of the largest file; the tables of the documentation are made of all of them, and compared
    with what is written there."""
    path = max(COMMITTED, key=lambda path: path.stat().st_size)
    assert sections(Results.load(path)) == sections(Results.load(path))


@pytest.mark.parametrize("path", COMMITTED, ids=lambda path: path.stem)
def test_committed_results_were_made_with_the_settings_of_their_grid(path: Path) -> None:
    """With the defaults of the code, or with what the grid's file names."""
    results, grid = Results.load(path), Grid.load(ROOT / "experiments" / f"{path.stem}.toml")
    jobs = grid.jobs()
    check_settings(results, jobs)
    assert {(run.label, run.seed) for run in results.results} <= {
        (job.label, job.seed) for job in jobs
    }


def test_environments_without_metrics_are_scored_by_return() -> None:
    found = results(result("lstm", 0, 2.0, metrics=False, environment="CartPole-v1"))
    (group,) = found.groups
    assert found.metric("CartPole-v1") == RETURN
    assert found.scores(group).tolist() == [20]
    assert found.normalized("CartPole-v1", 3.0) is None
    assert found.normalized(MAZE, 15.0) == 0.5

"""An environment declares its metrics, in its own file, and everything after it shows them: this
file is such an environment, and no other file knows of it."""

import csv
import json
import math
import re
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.vector import AutoresetMode

import eval
from envs import RETURN, Metric
from envs.metrics import metrics_of
from experiments import __main__ as grids
from experiments.analysis.figures import profile_figure
from experiments.analysis.page import improvement, rows
from experiments.command_line import UsageError
from experiments.grids.results import Results
from mnm_rl import GymnasiumVecEnv
from mnm_rl.evaluation import episode_value

ROOT = Path(__file__).parent.parent
ORCHARD = "tests.test_metrics:mnm-test/Orchard-v0"

FALLS = Metric("falls", "falls per episode", higher_is_better=False)
CLIMB = Metric("steps", "time to the first apple", "steps", False, "climb")


class Orchard(gym.Env[Any, Any]):
    """Falls as often as the action is 1; the first apple comes in step 2 of every other episode."""

    metadata: ClassVar[dict[str, Any]] = {"render_modes": [], "metrics": (FALLS, CLIMB)}  # type: ignore[misc]

    def __init__(self, render_mode: str | None = None) -> None:
        self.observation_space = spaces.Box(0, 1, (2,), np.float32)
        self.action_space = spaces.Discrete(2)
        self.episodes = 0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        super().reset(seed=seed)
        self.t = self.falls = 0
        self.episodes += 1
        return np.zeros(2, np.float32), {}

    def step(self, action: Any) -> Any:
        self.t += 1
        self.falls += int(action)
        info = {"falls": self.falls, "steps": 2.0 if self.episodes % 2 else None}
        done = self.t == 4
        observation = np.full(2, self.t / 4, np.float32)
        return observation, float(action), done, False, info if done else {}


class Undeclared(Orchard):
    metadata: ClassVar[dict[str, Any]] = {"render_modes": []}  # type: ignore[misc]


class Wrong(Orchard):
    metadata: ClassVar[dict[str, Any]] = {"render_modes": [], "metrics": ("falls",)}  # type: ignore[misc]


class Wordy(Orchard):
    """Reports words."""

    def step(self, action: Any) -> Any:
        *rest, info = super().step(action)
        return *rest, info and {"falls": "many"}


gym.register("mnm-test/Orchard-v0", Orchard)
gym.register("mnm-test/Wrong-v0", Wrong)
gym.register("mnm-test/Wordy-v0", Wordy)


def same_step(env: Any, n: int = 2) -> Any:
    return gym.vector.SyncVectorEnv([env] * n, autoreset_mode=AutoresetMode.SAME_STEP)


@pytest.mark.parametrize("wrap", [lambda env: env(), gym.Wrapper, same_step])
def test_one_declaration_serves_an_environment_its_wrappers_and_its_batches(wrap: Any) -> None:
    def of(kind: Any) -> Any:
        return metrics_of(gym.Wrapper(kind()) if wrap is gym.Wrapper else wrap(kind))

    assert of(Orchard) == (FALLS, CLIMB)
    assert of(Undeclared) == (RETURN,)
    with pytest.raises(ValueError, match=r"must be a tuple of envs.Metric .* got \('falls',\)"):
        of(Wrong)


@pytest.mark.parametrize("name", [name for name in gym.registry if name.startswith("mnm/")])
def test_the_environments_of_the_library_report_what_they_declare(name: str) -> None:
    """Single and batched ones declare the same, and the last step of an episode has it."""
    batched, single = GymnasiumVecEnv(gym.make_vec(name, 1)), gym.make(name)
    metrics = metrics_of(single)
    assert metrics_of(batched.env) == metrics
    rng = np.random.default_rng(0)
    single.reset(seed=0)
    batched.reset()
    n = int(single.action_space.n)  # type: ignore[attr-defined]
    ended = [False]
    while not ended[0]:
        *_, ended, (of_batched,) = batched.step(rng.integers(n, size=1))
    done = False
    while not done:
        *_, terminated, truncated, of_single = single.step(rng.integers(n))
        done = terminated or truncated
    for info in (of_single, of_batched):
        for metric in metrics:
            if metric != RETURN:
                episode_value(info[metric.name], metric.name)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A grid in the environment of this file, run by its command, and its collected results."""
    directory = tmp_path_factory.mktemp("orchard")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(directory)
        patch.setenv("PYTHONPATH", str(ROOT))
        Path("orchard.toml").write_text(
            f'title = "Orchard"\nagents = ["rnn"]\nenvironments = ["{ORCHARD}"]\n'
            "seeds = 1\ntotal_timesteps = 64\nn_envs = 4\n"
            "[settings.default]\nn_steps = 8\nhidden_size = 4\n"
        )
        grids.main(["run", "orchard.toml", "--workers", "1"])
        grids.main(["collect", "orchard.toml", "--out", "orchard.json"])
    return directory


@pytest.fixture
def orchard(trained: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(trained)
    return trained


def run_of(directory: Path) -> Path:
    (model,) = directory.rglob("model.zip")
    return model.parent


def test_training_logs_the_metrics(orchard: Path) -> None:
    run = run_of(orchard)
    logged = list(csv.DictReader((run / "progress.csv").read_text().splitlines()))
    assert len(logged) == 2
    for row in logged:
        # a fall is an action of 1, and so is a reward of 1
        assert float(row["rollout/falls"]) == float(row["rollout/ep_rew_mean"])
        assert float(row["rollout/steps"]) == 2  # of the episodes that have one
    header = ["steps", "return", "falls", "climb"]
    assert header in [line.split() for line in run.with_suffix(".log").read_text().splitlines()]


def test_the_final_evaluation_keeps_the_metrics(orchard: Path) -> None:
    episodes = json.loads((run_of(orchard) / "evaluation.json").read_text())["episodes"]
    assert episodes["falls"] == episodes["return"]
    assert {*episodes["steps"]} == {2.0, None}


def test_eval_shows_the_metrics(
    orchard: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "120")
    eval.main([str(run_of(orchard)), "--json", "out.json", "--plot", "out.png"])
    text = capsys.readouterr().out
    assert re.search(r"agent +seed +steps +falls +climb +return +\[95%\]", text)
    assert "climb: time to the first apple (steps)" in text
    (row,) = json.loads(Path("out.json").read_text())["runs"]
    mean = row["return_mean"]
    assert row["metrics"] == {"falls": mean, "steps": 2.0, "return": mean}


def test_a_grid_compares_by_the_first_metric_and_reports_all(orchard: Path) -> None:
    found = Results.load(orchard / "orchard.json")
    (run,) = found.results
    assert found.metrics == {ORCHARD: [FALLS, CLIMB]}
    assert found.metric(ORCHARD) == FALLS
    assert run.score == run.metrics["falls"]
    assert run.curve["score"][-1] <= 4
    grids.main(["report", "orchard.json", "--out", "report.html"])
    page = (orchard / "report.html").read_text()
    assert "Falls per episode in the final evaluation" in page
    assert "time to the first apple (steps)" in page
    assert page.count("falls per episode") >= 3  # axes


def test_who_falls_less_is_better(orchard: Path) -> None:
    found = Results.load(orchard / "orchard.json")
    (run,) = found.results
    falls = {"rnn": (3.0, 1.0), "gru": (0.5, 0.0)}
    results = [
        replace(run, agent=agent, seed=seed, metrics=run.metrics | {"falls": own[seed]})
        for agent, own in falls.items()
        for seed in range(2)
    ]
    found = replace(found, results=results)
    groups = list(found.groups)
    assert [label for label, *_ in groups] == ["gru", "rnn"]
    _, rnn = rows(found, groups)
    assert (rnn["range"], rnn["best"]) == ("3.0 to 1.0", 1.0)
    assert improvement(found, groups)[0]["against"] == [None, (1.0, (1.0, 1.0))]
    (axes,) = profile_figure(found, groups).axes
    assert axes.get_ylabel() == "share of seeds below it"
    shares = {line.get_label(): line.get_ydata() for line in axes.get_lines()}
    assert (np.asarray(shares["gru"]) >= np.asarray(shares["rnn"])).all()


def test_runs_are_compared_by_what_all_of_them_have(orchard: Path) -> None:
    found = Results.load(orchard / "orchard.json")
    (run,) = found.results
    other = replace(run, agent="gru", metrics=run.metrics | {"falls": None})
    found = replace(found, results=[run, other])
    assert found.metric(ORCHARD) == CLIMB
    assert [found.scores(group).tolist() for group in found.groups] == [[2.0], [2.0]]


def test_what_is_no_declaration_or_no_number_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import train

    monkeypatch.chdir(tmp_path)
    few = ["--total-timesteps", "64", "--n-envs", "2", "--n-steps", "8", "--hidden-size", "4"]
    with pytest.raises(UsageError, match=r"must be a tuple of envs\.Metric"):
        train.main(["rnn", "--env", ORCHARD.replace("Orchard", "Wrong"), *few])
    with pytest.raises(TypeError, match=r"info\['falls'\] at the end of an episode must be a num"):
        train.main(["rnn", "--env", ORCHARD.replace("Orchard", "Wordy"), *few, "--out", "run"])


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (3, 3.0),
        (np.int64(3), 3.0),
        (np.array([0.5]), 0.5),
        (True, 1.0),
        (None, None),
        (math.nan, None),
        (np.float32("inf"), None),
    ],
)
def test_a_number_or_nothing_is_reported(value: Any, expected: float | None) -> None:
    assert episode_value(value, "falls") == expected


def test_results_of_version_0_2_0_are_read(tmp_path: Path) -> None:
    """Their metrics have the names that the environment gives them; the same again where they are
    saved and read."""
    read = 0
    for path in sorted((ROOT / "docs" / "results").glob("*.json")):
        then = json.loads(path.read_text())
        if "metrics" in then:  # collected since
            continue
        now, read = Results.load(path), read + 1
        for before, run in zip(then["results"], now.results, strict=True):
            if before["goals"] is None:
                assert list(run.metrics) == ["return"]
                assert now.metric(run.environment) == RETURN
            else:
                assert [run.metrics[metric.name] for metric in now.metrics[run.environment]] == [
                    before[key] for key in ("goals", "first_goal", "between")
                ]
                assert run.score == before["goals"]
                assert run.metrics["return"] == pytest.approx(10 * run.score)
        now.save(tmp_path / "again.json")
        assert Results.load(tmp_path / "again.json") == now
    assert read > 0


def test_a_json_report_has_the_keys_of_version_0_2_0() -> None:
    from experiments.earlier import with_earlier_keys

    metrics = {"goals": 2.0, "steps_to_first_goal": 5.0, "mean_steps_between_goals": None}
    assert with_earlier_keys({"metrics": metrics}) == {
        "metrics": metrics,
        "goals": 2.0,
        "steps_to_first_goal": 5.0,
        "steps_between_goals": None,
    }
    elsewhere = with_earlier_keys({"metrics": {"return": 1.0}})
    assert {elsewhere[key] for key in elsewhere if key != "metrics"} == {None}

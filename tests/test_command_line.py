"""train.py and eval.py as a user meets them: what they write, how they fail, and what survives a
kill."""

import contextlib
import csv
import io
import json
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import gymnasium as gym
import pytest
import torch
from stable_baselines3 import A2C
from torch.nn.utils import parameters_to_vector

import eval as eval_
import train
from agents import AGENTS
from experiments.command_line import UsageError, run_main
from experiments.configuration import Run, differences
from experiments.run import check_memory
from mnm_rl import RecurrentA2C, RecurrentPPO
from mnm_rl.algorithms.on_policy import ALGORITHMS
from mnm_rl.files import checkpoints
from mnm_rl.trained import find_model

ROOT = Path(__file__).parent.parent
SMALL = [
    "--env",
    "mnm/MazeSmall-v0",
    "--env-kwargs",
    "horizon=20",
    "--n-envs",
    "4",
    "--threads",
    "1",
]


class Done(NamedTuple):
    returncode: int
    stdout: str
    stderr: str


def command(script: str, *args: object) -> Done:
    """Run train.py or eval.py as from the command line, within this process."""
    stdout, stderr = io.StringIO(), io.StringIO()
    before = sys.argv
    sys.argv = [script, *map(str, args)]
    try:
        run = run_main if script == "eval.py" else partial(run_main, log=lambda: train.directory)
        main = eval_.main if script == "eval.py" else train.main
        with (
            contextlib.redirect_stdout(stdout),
            contextlib.redirect_stderr(stderr),
            pytest.raises(SystemExit) as exit_,
        ):
            run(main)
    finally:
        sys.argv = before
    code = exit_.value.code
    assert isinstance(code, int)
    return Done(code, stdout.getvalue(), stderr.getvalue())


def fails(code: int, script: str, *args: object) -> str:
    """Run a command that must fail with one clear line."""
    done = command(script, *args)
    assert done.returncode == code, done
    assert "Traceback" not in done.stderr + done.stdout
    errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1, done.stderr
    assert done.stderr.splitlines()[-1] == errors[0]
    return errors[0]


@pytest.fixture(autouse=True)
def _wide_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "120")
    monkeypatch.chdir(ROOT)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run; tests must leave it as it is."""
    run = tmp_path_factory.mktemp("runs") / "finished"
    done = command(
        "train.py",
        "mnm-p",
        *SMALL,
        "--total-timesteps",
        2000,
        "--checkpoint-interval",
        800,
        "--seed",
        3,
        "--out",
        run,
    )
    assert done.returncode == 0, done.stderr
    return run


@pytest.fixture
def unfinished(finished: Path, tmp_path: Path) -> Path:
    """A run that was killed after its last checkpoint."""
    run = tmp_path / "unfinished"
    shutil.copytree(finished, run)
    (run / "model.zip").unlink()
    return run


def rows(run: Path) -> list[dict[str, str]]:
    with open(run / "progress.csv", newline="") as file:
        return list(csv.DictReader(file))


def test_a_run_directory_holds_all_that_is_needed(finished: Path) -> None:
    config = json.loads((finished / "config.json").read_text())
    assert (config["agent"], config["env"], config["env_kwargs"]) == (
        "mnm-p",
        "mnm/MazeSmall-v0",
        {"horizon": 20},
    )
    assert (config["seed"], config["n_envs"], config["total_timesteps"]) == (3, 4, 2000)
    assert config["hyperparameters"]["core"]["hidden_size"] == 100
    assert RecurrentPPO.load(finished / "model.zip", device="cpu").num_timesteps == 2000
    assert [path.name for path in checkpoints(finished / "checkpoints")] == [
        "step-000000000800.zip",
        "step-000000001600.zip",
    ]
    assert list(finished.glob("events.out.tfevents*"))
    assert (finished / "learning_curve.png").stat().st_size > 1000
    last = rows(finished)[-1]
    for key in ("rollout/ep_rew_mean", "rollout/goals", "time/fps", "time/total_timesteps"):
        assert float(last[key]) >= 0
    for key in (
        "policy_gradient_loss",
        "value_loss",
        "entropy_loss",
        "meta_loss",
        "grad_norm",
        "approx_kl",
        "clip_fraction",
    ):
        assert last[f"train/{key}"] != ""
    for key in ("key_rms", "value_varies", "read_rms", "error_removed", "theta_change", "beta"):
        assert last[f"memory/{key}"] != ""


@pytest.mark.parametrize("algorithm", ["ppo", "a2c"])
def test_an_earlier_run_is_made_again_from_its_config(algorithm: str, tmp_path: Path) -> None:
    """Bit by bit, and with other settings where the command line says so."""
    first, again, other = (tmp_path / name for name in ("first", "again", "other"))
    args = ["--algorithm", algorithm, "--total-timesteps", 160, "--seed", 5, "--gamma", 0.9]
    args += ["--hidden-size", 8, "--heads", 2, "--no-learn-initial-memory", "--no-popart"]
    args += ["--write-bias", -1, "--target-kl", "None"] if algorithm == "ppo" else []
    assert command("train.py", "mnm-p", *SMALL, *args, "--out", first).returncode == 0
    repeat = ["--config", first / "config.json", "--threads", 1]
    done = command("train.py", *repeat, "--out", again)
    assert done.returncode == 0, done.stderr
    assert Run.load(again) == Run.load(first)
    models = [ALGORITHMS[algorithm].load(run / "model.zip", device="cpu") for run in (first, again)]
    one, two = (parameters_to_vector(model.policy.parameters()) for model in models)
    assert torch.equal(one, two)
    done = command("train.py", "mnm-p", *repeat, "--seed", 6, "--heads", 1, "--out", other)
    assert done.returncode == 0, done.stderr
    changed = differences(Run.load(first), Run.load(other))
    assert changed == {"seed": (5, 6), "heads": (2, 1)}


@pytest.mark.parametrize("name", ["mnm/Maze-v0:mnm-p", "mnm/Dictionary-v0:mnm-p"])
def test_the_config_of_a_published_model_is_one(name: str) -> None:
    directory = find_model(name)
    assert train.parse_options(["--config", f"{directory}/config.json"]).run == Run.load(directory)


def test_a_config_may_say_as_much_as_it_likes(tmp_path: Path) -> None:
    """What it leaves out is what a command line that leaves it out has."""
    path = tmp_path / "job.json"
    path.write_text('{"agent": "lstm", "seed": 3}')
    options = train.parse_options(["--config", str(path)])
    assert options == replace(train.parse_options(["lstm", "--seed", "3"]), config=path)


def test_a_config_that_cannot_be_used_is_told(finished: Path, tmp_path: Path) -> None:
    config, path = finished / "config.json", tmp_path / "job.json"
    assert "cannot read" in fails(2, "train.py", "--config", tmp_path / "nothing.json")
    assert "cannot read" in fails(2, "train.py", "--config", finished)
    assert f"a run of mnm-p, not lstm: python train.py mnm-p --config {config}" in fails(
        2, "train.py", "lstm", "--config", config
    )
    assert "finished run; give --out another name" in fails(
        2, "train.py", "--config", config, "--out", finished
    )
    for option in ("--config", "--out"):
        assert f"leave out {option}" in fails(
            2, "train.py", "mnm-p", "--resume", finished, option, config
        )
    assert "--gamma must be from 0 to 1" in fails(2, "train.py", "--config", config, "--gamma", 2)
    for text, expected in (
        ("[1, 2]", "damaged or of another version"),
        ("{", "damaged or of another version"),
        ("{}", "damaged or of another version"),
        ('{"agent": "human"}', "human"),
        ('{"agent": "lstm", "sead": 1}', "sead"),
        ('{"agent": "lstm", "seed": -1}', "seed must be at least 0, got -1"),
        ('{"agent": "lstm", "env_kwargs": ["size=7"]}', "env_kwargs cannot be"),
    ):
        path.write_text(text)
        error = fails(2, "train.py", "--config", path)
        assert expected in error
        assert str(path) in error


def test_a_run_has_the_defaults_that_it_was_made_with(finished: Path, tmp_path: Path) -> None:
    """Hyperparameters that earlier versions did not have are what they silently were then."""
    config = json.loads((finished / "config.json").read_text())
    assert Run.load(finished).hyperparameters.algorithm.target_kl == 0.05
    before = {
        "algorithm": "a2c",
        "init": "pytorch",
        "popart": False,
        "target_kl": None,
        "anneal_lr": False,
    }
    for part in config["hyperparameters"].values():
        for name in before.keys() & part:
            del part[name]
    (tmp_path / "config.json").write_text(json.dumps(config))
    earlier = Run.load(tmp_path).hyperparameters.flat()
    assert earlier == earlier | before


@pytest.mark.parametrize("algorithm", ["ppo", "a2c"])
@pytest.mark.parametrize("agent", AGENTS)
def test_hyperparameters_are_nested_and_those_of_earlier_versions_flat(
    agent: str, algorithm: str, tmp_path: Path
) -> None:
    changed = AGENTS[agent].defaults(algorithm).changed(gamma=0.5, popart=False, hidden_size=7)
    run = Run(hyperparameters=changed, env_kwargs={"size": 7})
    config = run.to_json() | {"versions": {"python": "3.11"}}
    assert config["hyperparameters"].keys() == {"algorithm", "policy", "core"}
    for hyperparameters in (config["hyperparameters"], changed.flat()):
        config["hyperparameters"] = hyperparameters
        (tmp_path / "config.json").write_text(json.dumps(config))
        assert Run.load(tmp_path) == run


def test_the_algorithm_of_the_papers(tmp_path: Path) -> None:
    """A2C has hyperparameters of its own, which --help shows; what is given on the command line
    comes before them."""
    assert "default: 0.008" in command("train.py", "lstm", "--algorithm=a2c", "--help").stdout
    assert "default: 0.008" not in command("train.py", "lstm", "--help").stdout
    run = tmp_path / "run"
    args = [
        "--algorithm",
        "a2c",
        "--gamma",
        "0.9",
        "--total-timesteps",
        "800",
        "--checkpoint-interval",
        "400",
        "--out",
        run,
    ]
    assert command("train.py", "lstm", *SMALL, *args).returncode == 0
    config = json.loads((run / "config.json").read_text())["hyperparameters"]["algorithm"]
    assert (config["algorithm"], config["learning_rate"], config["gamma"]) == ("a2c", 8e-3, 0.9)
    assert RecurrentA2C.load(run / "model.zip", device="cpu").learning_rate == 8e-3
    (run / "model.zip").unlink()
    assert command("train.py", "lstm", "--resume", run).returncode == 0
    assert command("eval.py", run, "--episodes", "4").returncode == 0


@pytest.mark.parametrize("agent", AGENTS)
def test_every_agent_trains_at_its_defaults(agent: str, tmp_path: Path) -> None:
    done = command(
        "train.py",
        agent,
        "--total-timesteps",
        "100",
        "--n-envs",
        "2",
        "--env-kwargs",
        "horizon=10",
        "--out",
        tmp_path / "run",
    )
    assert done.returncode == 0, done.stderr
    assert "oracle" in done.stdout
    assert (tmp_path / "run" / "model.zip").exists()


def test_the_default_directory_names_environment_agent_and_seed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    done = command("train.py", "lstm", *SMALL, "--total-timesteps", "1e2", "--seed", "7")
    assert done.returncode == 0, done.stderr
    assert len(list(tmp_path.glob("runs/mnm/MazeSmall-v0/lstm/seed7-*/model.zip"))) == 1


def test_any_gymnasium_environment_can_be_trained_on(tmp_path: Path) -> None:
    for env in ("CartPole-v1", "tests.command_line_envs:mnm-test/Counting-v0"):
        run = tmp_path / env.split("/")[-1]
        done = command(
            "train.py",
            "rnn",
            "--env",
            env,
            "--total-timesteps",
            "300",
            "--n-envs",
            "2",
            "--n-steps",
            "20",
            "--out",
            run,
        )
        assert done.returncode == 0, done.stderr
        assert env in done.stdout
    assert command("eval.py", run, "--episodes", "3", "--gif", run / "episode.gif").returncode == 0
    assert (run / "episode.gif").read_bytes().startswith(b"GIF")


def test_numbers_may_be_written_as_people_write_them(tmp_path: Path) -> None:
    for i, number in enumerate(("1e2", "1_00", "100")):
        run = tmp_path / str(i)
        assert (
            command("train.py", "rnn", *SMALL, "--total-timesteps", number, "--out", run).returncode
            == 0
        )
        assert json.loads((run / "config.json").read_text())["total_timesteps"] == 100


def test_help_lists_options_defaults_and_sources() -> None:
    done = command("train.py", "mnm-g", "--help")
    assert done.returncode == 0
    for text in ("--learning-rate", "--meta-coef", "--env-kwargs", "paper", "default"):
        assert text in done.stdout
    assert "mnm-g" in command("train.py", "--help").stdout
    assert command("eval.py", "--help").returncode == 0


@pytest.mark.parametrize(
    ("args", "expected"),
    [
        ([], "name an agent: mnm-g, mnm-p"),
        (["mnm"], "unknown agent 'mnm': it must be one of mnm-g, mnm-p"),
        (["lstm", "--sede", "1"], "--sede"),
        (["lstm", "--learning-rate", "fast"], "--learning-rate"),
        (["lstm", "--total-timesteps", "1.5"], "not a whole number"),
        (["lstm", "--n-envs", "0"], "--n-envs must be at least 1, got 0"),
        (["lstm", "--total-timesteps", "-5"], "--total-timesteps must be at least 1"),
        (["lstm", "--seed", "-1"], "--seed must be at least 0"),
        (["lstm", "--env", "Maze-v7"], "cannot make the environment Maze-v7"),
        (["lstm", "--env", "nowhere:Maze-v0"], "nowhere"),
        (["lstm", "--env-kwargs", "size"], "name=value"),
        (["lstm", "--env-kwargs", "sise=9"], "sise"),
        (["lstm", "--env-kwargs", "size=8"], "odd and at least 5, got 8"),
        (["lstm", "--env-kwargs", "size=3"], "odd and at least 5, got 3"),
        (["lstm", "--env-kwargs", "layout=####"], "two free cells"),
        (["lstm", "--env-kwargs", "layout=...\n.."], "row 1 has 3 cells, row 2 has 2"),
        (["lstm", "--env-kwargs", "layout=..#.."], "could not be reached"),
        (["lstm", "--env", "tests.command_line_envs:mnm-test/Text-v0"], "observation space Text"),
        (["mnm-p", "--heads", "0"], "heads"),
        (["mnm-p", "--memory-layers", "1e9"], "--memory-layers must be from 1 to 100"),
        (["lstm", "--hidden-size", "0"], "--hidden-size must be from 1 to 10,000, got 0"),
        (["mnm-p", "--memory-size", "-3"], "--memory-size must be from 1 to 10,000, got -3"),
        (["lstm", "--hidden-size", "1e9"], "--hidden-size must be from 1"),
        (["lstm", "--learning-rate", "inf"], "--learning-rate must be from 0 to 1, got inf"),
        (["lstm", "--gamma", "nan"], "--gamma must be from 0 to 1, got nan"),
        (["lstm", "--gamma", "2"], "--gamma must be from 0 to 1, got 2"),
        (["lstm", "--n-steps", "0"], "--n-steps must be from 1"),
        (["lstm", "--adam-eps", "0"], "--adam-eps must be from"),
        (["mnm-p", "--meta-coef", "-1"], "--meta-coef must be from 0"),
        (["lstm", "--total-timesteps", "inf"], "not a whole number"),
        (["lstm", "--threads", "100000"], "--threads must be at most 256"),
        (["lstm", "--seed", "5e9"], "--seed must be at most 4,294,967,295"),
        (["lstm", "--env-kwargs", "horizon=2.5"], "whole number, got 2.5"),
        (["lstm", "--env-kwargs", "layout=1"], "a name or a drawing, got 1"),
        (["lstm", "--env-kwargs", "goal_reward=1e300"], "finite number"),
        (["lstm", "--resume", "nowhere"], "there is no run directory nowhere"),
        (["lstm", "--out", "pyproject.toml"], "is a file"),
        (["lstm", "--out", "tests"], "not empty"),
        (["lstm", "--out", "/dev/null"], "--out /dev/null is a file; name a directory"),
        (["lstm", "--out", "x" * 300], "File name too long"),
        (["mnm-p", "--n-envs", "1e6", "--n-steps", "1e6"], "would need at least 80,"),
        (
            ["mnm-p-paper", "--hidden-size", "10000", "--n-envs", "1000"],
            "would need at least 2,432 GB of memory, and the machine has",
        ),
        (["mnm-p-paper", "--replay", "1e9"], "would need at least 102,912 GB of memory"),
        (
            ["lstm", "--env", "tests.command_line_envs:mnm-test/ExitsAtOnce-v0"],
            "cannot make the environment",
        ),
        (["lstm", "--algorithm", "dqn"], "dqn"),
        (
            ["lstm", "--algorithm", "a2c", "--n-epochs", "8"],
            "--n-epochs is a hyperparameter of PPO",
        ),
    ],
)
def test_wrong_usage_of_train_is_one_line_and_exit_code_2(
    args: list[str], expected: str, tmp_path: Path
) -> None:
    out = [] if "--out" in args or "--resume" in args or not args else ["--out", tmp_path / "run"]
    assert expected in fails(2, "train.py", *args, *out)
    assert not (tmp_path / "run").exists()


def test_the_limit_of_a_container_is_the_limit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    limits = (tmp_path / "memory.max", tmp_path / "none")
    limits[0].write_text("1000000\n")
    monkeypatch.setattr("experiments.run.CGROUPS", limits)
    run = Run(
        hyperparameters=AGENTS["mnm-p"].defaults(),
        env="mnm/MazeSmall-v0",
        env_kwargs={},
        total_timesteps=1,
        n_envs=64,
        seed=0,
    )
    with pytest.raises(UsageError, match="and the machine has 0 GB"):
        check_memory(run)
    limits[0].write_text("max\n")
    check_memory(run)


def test_wrong_usage_of_eval_is_one_line_and_exit_code_2(finished: Path, tmp_path: Path) -> None:
    assert "RUN" in fails(2, "eval.py")
    assert "there is no run directory" in fails(2, "eval.py", tmp_path / "nowhere")
    assert "no config.json" in fails(2, "eval.py", tmp_path)
    assert "--episodes must be at least 1" in fails(2, "eval.py", finished, "--episodes", "0")
    for option, value, expected in (
        ("--plot", tmp_path / "plot.doc", "ends in .png or .svg or .pdf"),
        ("--plot", tmp_path, "ends in .png"),
        ("--gif", tmp_path / "movie.mp4", "ends in .gif"),
        ("--json", tmp_path / "nowhere" / "x.json", "there is no directory"),
        ("--json", tmp_path, "is a directory"),
        ("--plot", Path("/proc/plot.png"), "cannot be written"),
        ("--seed", 2**32, "--seed must be at most"),
    ):
        assert expected in fails(2, "eval.py", finished, option, value)


def test_a_finished_run_is_never_overwritten(finished: Path) -> None:
    before = (finished / "model.zip").read_bytes()
    assert "finished run" in fails(2, "train.py", "mnm-p", *SMALL, "--out", finished)
    assert "finished run" in fails(2, "train.py", "mnm-p", "--resume", finished)
    assert "must be more than its 2,000" in fails(
        2, "train.py", "mnm-p", "--resume", finished, "--total-timesteps", "2e3"
    )
    assert (finished / "model.zip").read_bytes() == before


def test_every_printed_command_can_be_typed(tmp_path: Path) -> None:
    """In a directory whose name has a space and a quote."""
    run = tmp_path / "it's mine"
    done = command(
        "train.py",
        "lstm",
        *SMALL,
        "--total-timesteps",
        200,
        "--checkpoint-interval",
        100,
        "--out",
        run,
    )
    assert shlex.join(["python", "eval.py", str(run), "--gif", "episode.gif"]) in done.stdout
    assert shlex.join(["python", "train.py", "lstm", "--resume", str(run)]) in fails(
        2, "train.py", "rnn", "--resume", run
    )
    (run / "model.zip").unlink()
    assert f"continue it with {shlex.join(['--resume', str(run)])}," in fails(
        2, "train.py", "lstm", *SMALL, "--out", run
    )
    for checkpoint in checkpoints(run / "checkpoints"):
        checkpoint.unlink()
    assert f"with {shlex.join(['--out', str(run)])} and" in fails(
        2, "train.py", "lstm", "--resume", run
    )


def test_an_environment_that_is_not_registered_says_how_it_would_be() -> None:
    for env in ("nowhere/Maze-v0", "Nowhere-v0"):
        error = fails(2, "train.py", "lstm", "--env", env)
        assert f"if a module registers it, name the module as well: --env MODULE:{env}" in error


def test_a_killed_run_goes_on_from_its_last_checkpoint(unfinished: Path) -> None:
    """Rows after the checkpoint are trained again, those before are kept."""
    before = rows(unfinished)
    done = command("train.py", "mnm-p", "--resume", unfinished, "--threads", "1")
    assert done.returncode == 0, done.stderr
    assert RecurrentA2C.load(unfinished / "model.zip", device="cpu").num_timesteps == 2000
    after = rows(unfinished)
    steps = [float(row["time/total_timesteps"]) for row in after]
    assert steps == [float(row["time/total_timesteps"]) for row in before]
    kept = sum(step <= 1600 for step in steps)
    assert [float(row["rollout/ep_rew_mean"]) for row in after[:kept]] == [
        float(row["rollout/ep_rew_mean"]) for row in before[:kept]
    ]


def test_resume_refuses_what_it_cannot_go_on_with(unfinished: Path) -> None:
    assert "a run of mnm-p, not lstm" in fails(2, "train.py", "lstm", "--resume", unfinished)
    assert "leave out the flags for n_envs" in fails(
        2, "train.py", "mnm-p", "--resume", unfinished, "--n-envs", "8"
    )
    assert "unfinished run; continue it with --resume" in fails(
        2, "train.py", "mnm-p", *SMALL, "--out", unfinished
    )
    last = checkpoints(unfinished / "checkpoints")[-1]
    whole = last.read_bytes()
    for damaged in (whole[: len(whole) // 2], b"", whole[:3000] + bytes(3000) + whole[6000:]):
        last.write_bytes(damaged)
        error = fails(1, "train.py", "mnm-p", "--resume", unfinished)
        assert f"{last} is damaged" in error
        assert "delete it to go on from step-000000000800.zip" in error
    last.unlink()
    assert command("train.py", "mnm-p", "--resume", unfinished).returncode == 0


def test_half_written_runs(unfinished: Path) -> None:
    config = unfinished / "config.json"
    whole = config.read_text()
    config.write_text(whole[:50])
    assert "config.json is damaged" in fails(2, "train.py", "mnm-p", "--resume", unfinished)
    assert "config.json is damaged" in fails(2, "eval.py", unfinished)
    config.write_text(whole)
    shutil.rmtree(unfinished / "checkpoints")
    assert "no checkpoint" in fails(2, "train.py", "mnm-p", "--resume", unfinished)
    assert "no model yet" in fails(2, "eval.py", unfinished)
    config.unlink()
    assert "no config.json" in fails(2, "eval.py", unfinished)


def test_an_unfinished_run_is_named_as_such(unfinished: Path) -> None:
    done = command("eval.py", unfinished, "--episodes", "2")
    assert done.returncode == 0
    assert f"warning: {unfinished} is not finished: 1,600 of 2,000 steps" in done.stderr


def test_a_model_that_is_not_one_is_named(unfinished: Path) -> None:
    A2C("MlpPolicy", gym.make("mnm/MazeSmall-v0", horizon=20), device="cpu").save(
        unfinished / "model.zip"
    )
    assert "model.zip is not a model that mnm_rl" in fails(1, "eval.py", unfinished)
    RecurrentA2C("LstmPolicy", "CartPole-v1", device="cpu").save(unfinished / "model.zip")
    assert "model.zip was trained on another environment" in fails(2, "eval.py", unfinished)
    (unfinished / "model.zip").write_text("not a zip file")
    assert "model.zip is damaged" in fails(1, "eval.py", unfinished)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (
            {"env_kwargs": {"horizon": 20, "view": 5}},
            "trained on another environment than config.json names",
        ),
        ({"hyperparameters": {"gamma": 0.5}}, "trained with gamma 0.95, not 0.5"),
        ({"hyperparameters": {"hidden_size": "100"}}, "hidden_size cannot be '100'"),
        ({"hyperparameters": {"gamma": None}}, "gamma cannot be None"),
        ({"hyperparameters": {"rule": "hebb"}}, "rule"),
        ({"total_timesteps": -1}, "total_timesteps must be at least 1, got -1"),
        ({"seed": 1.5}, "seed cannot be 1.5"),
        ({"env": None}, "env cannot be None"),
        ({"env_kwargs": []}, "env_kwargs cannot be []"),
        ({"agent": "human"}, "human"),
    ],
)
def test_a_config_that_was_changed_is_refused(
    change: dict[str, Any], expected: str, unfinished: Path
) -> None:
    before = checkpoints(unfinished / "checkpoints")
    path = unfinished / "config.json"
    config = json.loads(path.read_text())
    hyperparameters = config["hyperparameters"] | change.get("hyperparameters", {})
    path.write_text(json.dumps(config | change | {"hyperparameters": hyperparameters}))
    error = fails(2, "train.py", "mnm-p", "--resume", unfinished)
    assert expected in error
    assert "delete" not in error
    assert checkpoints(unfinished / "checkpoints") == before


def test_runs_of_version_0_1_0_began_with_the_initial_weights_of_pytorch(unfinished: Path) -> None:
    """Their ``config.json`` and their models do not name them: today's default, another one, must
    not stand in."""
    path = unfinished / "config.json"
    config = json.loads(path.read_text())
    del config["hyperparameters"]["core"]["init"]
    path.write_text(json.dumps(config))
    assert Run.load(unfinished).hyperparameters.core.init == "pytorch"
    assert "was trained with policy_kwargs" in fails(2, "train.py", "mnm-p", "--resume", unfinished)
    last = checkpoints(unfinished / "checkpoints")[-1]
    model = RecurrentPPO.load(last, device="cpu")
    del model.policy_kwargs["init"]
    model.save(last)
    assert command("train.py", "mnm-p", "--resume", unfinished).returncode == 0


@pytest.mark.parametrize(
    "garbage",
    [b"\xff\xfe\n", b"abc\n", b"\0" * 500, b"1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17,18,19,20\n"],
)
def test_a_garbled_progress_table_is_read_as_far_as_it_goes(
    garbage: bytes, unfinished: Path, tmp_path: Path
) -> None:
    with open(unfinished / "progress.csv", "ab") as file:
        file.write(garbage)
    assert (
        command(
            "eval.py", unfinished, "--episodes", "2", "--plot", tmp_path / "plot.png"
        ).returncode
        == 0
    )
    assert command("train.py", "mnm-p", "--resume", unfinished).returncode == 0
    assert len(rows(unfinished)) == 25
    (unfinished / "progress.csv").unlink()
    assert (
        command(
            "eval.py", unfinished, "--episodes", "2", "--plot", tmp_path / "plot.png"
        ).returncode
        == 0
    )


def start(*args: object) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, str(ROOT / "train.py"), *map(str, args)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def wait_for_checkpoint(run: Path) -> None:
    for _ in range(1200):
        if checkpoints(run / "checkpoints"):
            return
        time.sleep(0.05)
    raise AssertionError("no checkpoint within a minute")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_saves_and_exits_with_130(number: signal.Signals, tmp_path: Path) -> None:
    run = tmp_path / "a run's directory"
    process = start(
        "mnm-p", *SMALL, "--total-timesteps", "1e8", "--checkpoint-interval", "100", "--out", run
    )
    wait_for_checkpoint(run)
    process.send_signal(number)
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Traceback" not in stderr
    assert stderr.splitlines()[-1].startswith("stopped: saved at")
    assert shlex.join(["python", "train.py", "mnm-p", "--resume", str(run)]) in stderr
    steps = RecurrentPPO.load(checkpoints(run / "checkpoints")[-1], device="cpu").num_timesteps
    assert f"{steps:,}" in stderr.splitlines()[-1]


def test_a_kill_at_any_moment_leaves_the_last_complete_checkpoint(tmp_path: Path) -> None:
    """Checkpoints are written all the time, so some of the kills fall into the writing of one."""
    for delay in (0.0, 0.013, 0.031, 0.07):
        run = tmp_path / str(delay)
        process = start(
            "lstm", *SMALL, "--total-timesteps", "1e8", "--checkpoint-interval", "1", "--out", run
        )
        wait_for_checkpoint(run)
        time.sleep(delay)
        process.kill()
        process.communicate()
        for path in checkpoints(run / "checkpoints"):
            RecurrentA2C.load(path, device="cpu")


PROGRAMS = [
    ["train.py", "--help"],
    *(["train.py", name, "--help"] for name in AGENTS),
    ["train.py", "unknown"],
    ["eval.py", "--help"],
    ["eval.py"],
    *(
        ["experiments", *verb, "--help"]
        for verb in ([], ["run"], ["list"], ["tune"], ["collect"], ["report"])
    ),
]


@pytest.mark.parametrize("words", PROGRAMS, ids=" ".join)
def test_help_and_wrong_usage_do_not_wait_for_pytorch(words: list[str]) -> None:
    code = f"""
import runpy, sys
sys.argv = {words}
try:
    run = runpy.run_path if sys.argv[0].endswith(".py") else runpy.run_module
    run(sys.argv[0], run_name="__main__")
finally:
    assert not {{"torch", "numpy", "gymnasium", "matplotlib"}} & sys.modules.keys()
"""
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60
    )
    assert "Error" not in done.stderr
    assert done.returncode == (0 if "--help" in words else 2)
    if "--help" not in words:
        return
    shown = " ".join(done.stdout.replace("│", " ").split())
    for ugly in ("(default: )", "None}", "{None"):
        assert ugly not in shown
    for hint in re.findall(r"\(default: [^()]*\)", shown):
        before = shown.split(hint)[0].split(" --")[-1]
        assert "(default" not in before
    sentences = [sentence for sentence in re.split(r"(?<=[.:]) ", shown) if len(sentence) > 60]
    assert len(set(sentences)) == len(sentences)


def test_help_has_a_line_for_each_agent() -> None:
    lines = command("train.py", "--help").stdout.splitlines()
    for name, agent in AGENTS.items():
        (line,) = [line for line in lines if line.split()[:1] == [name]]
        assert line.split(maxsplit=1)[1] == (agent.__doc__ or "").splitlines()[0]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_during_the_imports_exits_with_130(number: signal.Signals, tmp_path: Path) -> None:
    process = start("lstm", *SMALL, "--out", tmp_path / "run")
    time.sleep(0.3)
    process.send_signal(number)
    stdout, stderr = process.communicate(timeout=60)
    assert (process.returncode, stdout) == (130, "")
    assert "Traceback" not in stderr


def test_two_signals_together_are_one(tmp_path: Path) -> None:
    run = tmp_path / "run"
    process = start(
        "lstm", *SMALL, "--total-timesteps", "1e8", "--checkpoint-interval", "100", "--out", run
    )
    wait_for_checkpoint(run)
    process.send_signal(signal.SIGINT)
    time.sleep(0.005)
    process.send_signal(signal.SIGTERM)
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 130, stderr
    assert stderr.splitlines()[-1].startswith("stopped: saved at")


def test_a_disk_that_is_full_from_the_start_names_the_file(
    unfinished: Path, tmp_path: Path
) -> None:
    """Nothing can be written, and nothing is lost: the files are as they were."""
    before = {
        path: path.read_bytes()
        for path in sorted(unfinished.rglob("*"))
        if path.suffix in (".json", ".csv", ".zip")
    }
    script = (
        "import resource, runpy, signal, sys; signal.signal(signal.SIGXFSZ, signal.SIG_IGN);"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100)); sys.argv[0] = 'train.py';"
        "runpy.run_path('train.py', run_name='__main__')"
    )
    for args, file in (
        (["--resume", str(unfinished), "--threads", "1"], "progress.csv"),
        ([*SMALL, "--out", str(tmp_path / "new")], "config.json"),
    ):
        done = subprocess.run(
            [sys.executable, "-c", script, "mnm-p", *args],
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert done.returncode == 1
        assert "Traceback" not in done.stderr
        assert done.stderr.splitlines()[-1].startswith("error: File too large: ")
        assert done.stderr.splitlines()[-1].endswith(file)
    assert {path: path.read_bytes() for path in before} == before
    assert (
        command(
            "train.py", "mnm-p", *SMALL, "--total-timesteps", "100", "--out", tmp_path / "new"
        ).returncode
        == 0
    )


def test_a_disk_that_fills_up_in_training_names_the_file(tmp_path: Path) -> None:
    script = (
        "import resource, runpy, signal, sys; signal.signal(signal.SIGXFSZ, signal.SIG_IGN);"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (8000, 8000)); sys.argv[0] = 'train.py';"
        "runpy.run_path('train.py', run_name='__main__')"
    )
    args = ["lstm", *SMALL, "--total-timesteps", "40000", "--out", str(tmp_path / "run")]
    done = subprocess.run(
        [sys.executable, "-c", script, *args], cwd=ROOT, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert (
        f"error: File too large: {tmp_path / 'run' / 'events.out.tfevents.'}"
        in done.stderr.splitlines()[-1]
    )


def test_a_full_disk_keeps_the_last_checkpoint(unfinished: Path) -> None:
    """A resumed run may write files of at most 200 kB: enough for its logs, too little for a
    checkpoint."""
    before = {path.name: path.read_bytes() for path in checkpoints(unfinished / "checkpoints")}
    script = (
        "import resource, runpy, signal, sys; signal.signal(signal.SIGXFSZ, signal.SIG_IGN);"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000)); sys.argv[0] = 'train.py';"
        "runpy.run_path('train.py', run_name='__main__')"
    )
    args = ["mnm-p", "--resume", str(unfinished), "--checkpoint-interval", "80", "--threads", "1"]
    done = subprocess.run(
        [sys.executable, "-c", script, *args], cwd=ROOT, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert done.stderr.splitlines()[-1].startswith("error: File too large")
    assert {
        path.name: path.read_bytes() for path in (unfinished / "checkpoints").iterdir()
    } == before


@pytest.mark.parametrize(
    ("env", "expected"),
    [
        ("NanReward-v0", "the reward of environment 0 is NaN or infinite at step 20"),
        ("NanObservation-v0", "the observation of environment 0 is NaN or infinite at step 20"),
        ("HugeReward-v0", "value_loss became inf at step"),
        (
            "NanFinalObservation-v0",
            "the final observation of environment 0 is NaN or infinite at step 20",
        ),
        ("Raises-v0", "ZeroDivisionError: the ball is gone"),
        ("OSError-v0", "OSError: [Errno 5] the camera is gone"),
        ("BrokenPipe-v0", "BrokenPipeError: [Errno 32] the simulator is gone"),
        ("DoneIsNone-v0", "TypeError: terminated must be True or False, got None"),
        ("RewardIsNone-v0", "TypeError: a reward must be a number, got None"),
        ("ShortObservation-v0", "ValueError: an observation must have the shape"),
        ("Exits-v0", "RuntimeError: an environment called sys.exit(3) at step 18"),
    ],
)
def test_a_run_that_diverges_or_breaks_says_why_and_keeps_its_checkpoint(
    env: str, expected: str, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    args = [
        "--env",
        f"tests.command_line_envs:mnm-test/{env}",
        "--n-envs",
        "2",
        "--n-steps",
        "4",
        "--checkpoint-interval",
        "8",
    ]
    args += ["--no-popart"] if env == "HugeReward-v0" else []  # it copes with them
    message = fails(1, "train.py", "lstm", *args, "--total-timesteps", "1000", "--out", run)
    assert expected in message
    of_the_environment = not env.startswith(("Nan", "Huge"))
    assert (
        f"saved; go on with: python train.py lstm --resume {run}" in message
    ) == of_the_environment
    steps = RecurrentPPO.load(checkpoints(run / "checkpoints")[-1], device="cpu").num_timesteps
    assert steps == 16  # the end of the last rollout
    assert (run / "error.log").exists() == of_the_environment


@pytest.mark.parametrize(
    ("env", "expected"),
    [
        ("RaisesAtReset-v0", "the box is empty"),
        ("NanAtReset-v0", "the observation of environment 0 is NaN or infinite at step 0"),
    ],
)
@pytest.mark.filterwarnings("ignore:.*not within the observation space")
def test_what_breaks_before_the_first_step_is_named(
    env: str, expected: str, tmp_path: Path
) -> None:
    args = [
        "--env",
        f"tests.command_line_envs:mnm-test/{env}",
        "--n-envs",
        "2",
        "--total-timesteps",
        "100",
        "--out",
        tmp_path / "run",
    ]
    assert expected in fails(1, "train.py", "lstm", *args)


def test_a_maze_may_be_named_with_its_module(tmp_path: Path) -> None:
    args = [
        "--env",
        "envs:mnm/MazeSmall-v0",
        "--n-envs",
        "2",
        "--total-timesteps",
        "100",
        "--threads",
        "1",
        "--out",
        tmp_path / "run",
    ]
    done = command("train.py", "rnn", *args)
    assert done.returncode == 0, done.stderr
    assert "oracle" in done.stdout


def test_eval_writes_json_plot_gif_and_goal_readout(finished: Path, tmp_path: Path) -> None:
    kinds = {"json": "json", "plot": "svg", "gif": "gif", "goal-readout": "png"}
    paths = {option: tmp_path / f"out.{kind}" for option, kind in kinds.items()}
    options = [x for option, path in paths.items() for x in (f"--{option}", path)]
    done = command("eval.py", finished, finished, "--episodes", "20", "--deterministic", *options)
    assert done.returncode == 0, done.stderr
    for text in ("mnm-p", "random", "explorer", "oracle", "score"):
        assert text in done.stdout
    assert "warning: 2 runs of mnm-p have the same seed 3" in done.stderr
    report = json.loads(paths["json"].read_text())
    assert report["runs"][0] == report["runs"][1]
    (run, _), (agent,) = report["runs"], report["agents"]
    assert (run["agent"], run["seed"], run["train_steps"], run["episodes"]) == (
        "mnm-p",
        3,
        2000,
        20,
    )
    low, high = run["return_ci95"]
    assert low <= run["return_mean"] == 10 * run["goals"] <= high
    assert run["steps_to_first_goal"] <= 20
    assert set(agent) == {
        "agent",
        "env",
        "seeds",
        "return_iqm",
        "return_iqm_ci95",
        "normalized_iqm",
    }
    assert agent["seeds"] == [3, 3]
    assert agent["return_iqm"] == run["return_mean"]
    assert agent["normalized_iqm"] == run["normalized_score"]
    assert all(path.stat().st_size > 500 for path in paths.values())
    assert all(str(path) in done.stdout for path in paths.values())


def test_evaluation_is_repeatable(finished: Path, tmp_path: Path) -> None:
    reports: list[Any] = []
    for i in range(2):
        assert (
            command(
                "eval.py", finished, "--episodes", "10", "--seed", "5", "--json", tmp_path / str(i)
            ).returncode
            == 0
        )
        reports.append(json.loads((tmp_path / str(i)).read_text()))
    assert reports[0] == reports[1]


def test_figures_that_do_not_apply_are_null_or_refused_before_an_episode(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "run"
    args = [
        "--env",
        "tests.command_line_envs:mnm-test/Counting-v0",
        "--n-envs",
        "2",
        "--n-steps",
        "4",
        "--total-timesteps",
        "40",
    ]
    assert command("train.py", "rnn", *args, "--out", run).returncode == 0
    assert command("eval.py", run, "--episodes", "1", "--json", tmp_path / "json").returncode == 0
    report = json.loads((tmp_path / "json").read_text())
    for key in (
        "normalized_score",
        "goals",
        "steps_to_first_goal",
        "steps_between_goals",
        "return_ci95",
    ):
        assert report["runs"][0][key] is None
    assert report["agents"][0]["normalized_iqm"] is None
    assert report["agents"][0]["return_iqm_ci95"] is None
    monkeypatch.setattr(
        "experiments.scores.evaluate", lambda *_: pytest.fail("episodes are played")
    )
    assert "has none" in fails(2, "eval.py", run, "--goal-readout", tmp_path / "readout.png")
    assert "no fast weights" in fails(2, "eval.py", run, "--probe", tmp_path / "probe.png")
    monkeypatch.setattr("tests.counting.Counting.render", lambda self: None)
    assert "--gif: tests.command_line_envs:mnm-test/Counting-v0 cannot be drawn" in fails(
        2, "eval.py", run, "--gif", tmp_path / "episode.gif"
    )


def test_eval_writes_what_a_memory_does_as_a_figure_and_as_data(
    finished: Path, tmp_path: Path
) -> None:
    done = command("eval.py", finished, "--episodes", "1", "--probe", tmp_path / "probe.svg")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "probe.svg").stat().st_size > 500
    assert (tmp_path / "probe.npz").stat().st_size > 500
    assert str(tmp_path / "probe.svg") in done.stdout
    assert str(tmp_path / "probe.npz") in done.stdout
    assert "one run, got 2" in fails(
        2, "eval.py", finished, finished, "--probe", tmp_path / "probe.svg"
    )

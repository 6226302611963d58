"""Trained models: those that come with the package do what their cards say, and a run's model
becomes one."""

import json
import re
import shlex
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch

import eval
import train
from experiments import __main__ as grids
from experiments.command_line import UsageError
from experiments.configuration import Run
from experiments.publish import command_of
from experiments.run import newest_model
from experiments.scores import play
from mnm_rl import RecurrentPPO
from mnm_rl.trained import find_model, trained_models
from tests.test_command_line import SMALL, fails

EPISODES = 64


def test_the_models_that_are_promised_are_there() -> None:
    mazes = {
        f"mnm/{maze}-v0:{agent}"
        for maze in ("Maze", "MazeSmall")
        for agent in ("mnm-p", "mnm-g", "gru", "plastic")
    }
    assert trained_models().keys() == mazes | {"mnm/Recall-v0:mnm-p", "mnm/Dictionary-v0:mnm-p"}


@pytest.mark.parametrize("name", trained_models())
def test_a_trained_model_scores_what_its_card_says(name: str) -> None:
    directory = find_model(name)
    score = json.loads((directory / "config.json").read_text())["score"]
    assert f"| Return | {score['mean']:.2f} [" in (directory / "README.md").read_text()
    returns = np.array(
        play(directory, Run.load(directory), EPISODES, 1, deterministic=False).episodes["return"]
    )
    error = returns.std(ddof=1) / EPISODES**0.5 + (score["ci95"][1] - score["ci95"][0]) / 4
    assert abs(returns.mean() - score["mean"]) < 4 * error + 1e-3


@pytest.mark.parametrize("name", trained_models())
def test_a_trained_model_is_loaded_by_its_name_and_plays(name: str) -> None:
    model = RecurrentPPO.from_pretrained(name, device="cpu")
    run = Run.load(find_model(name))
    env = gym.make(run.env, **run.env_kwargs)
    assert env.observation_space == model.observation_space
    observation, _ = env.reset(seed=0)
    state, start = None, True
    for _ in range(3):
        action, state = model.predict(observation, state=state, episode_start=np.array([start]))
        observation, _, start, _, _ = env.step(action)


def test_a_name_that_is_none_is_named_with_those_that_are() -> None:
    with pytest.raises(
        FileNotFoundError,
        match=r"nor a trained model mnm/Maze-v0:salu; models are .*mnm/Maze-v0:mnm-p",
    ):
        RecurrentPPO.from_pretrained("mnm/Maze-v0:salu")
    assert "trained models are" in fails(2, "eval.py", "mnm/Maze-v0:salu")


def test_eval_takes_a_trained_model_by_its_name(tmp_path: Path, capsys: Any) -> None:
    name = "mnm/MazeSmall-v0:gru"
    eval.main([name, "--episodes", "4", "--gif", str(tmp_path / "episode.gif")])
    assert "mnm/MazeSmall-v0, 4 episodes" in capsys.readouterr().out
    assert (tmp_path / "episode.gif").stat().st_size > 1000
    with pytest.raises(UsageError, match=r"--plot: .* has no learning curve"):
        eval.main([name, "--episodes", "4", "--plot", str(tmp_path / "curves.png")])


def test_the_model_of_a_run_becomes_files_for_others(tmp_path: Path) -> None:
    run, out = tmp_path / "run", tmp_path / "model"
    train.main(
        [
            "mnm-p",
            *SMALL,
            "--total-timesteps",
            "400",
            "--hidden-size",
            "8",
            "--out",
            str(run),
        ]
    )
    grids.main(["publish", str(run), "--out", str(out)])
    assert sorted(path.name for path in out.iterdir()) == [
        "README.md",
        "config.json",
        "model.safetensors",
    ]
    assert Run.load(out) == Run.load(run)
    assert newest_model(out) == out
    before = torch.nn.utils.parameters_to_vector(
        RecurrentPPO.load(run / "model.zip", device="cpu").policy.parameters()
    )
    after = torch.nn.utils.parameters_to_vector(
        RecurrentPPO.from_pretrained(out, device="cpu").policy.parameters()
    )
    assert torch.equal(before, after)
    with pytest.raises(UsageError, match="is not empty"):
        grids.main(["publish", str(run), "--out", str(out)])


def test_what_is_no_run_is_told_apart(tmp_path: Path) -> None:
    published = find_model("mnm/MazeSmall-v0:gru")
    RecurrentPPO.from_pretrained(published, device="cpu").export(tmp_path)
    with pytest.raises(UsageError, match="is an exported model, which does not say how"):
        eval.main([str(tmp_path)])
    with pytest.raises(UsageError, match="is a published model, which has no checkpoint"):
        train.main(["gru", "--resume", str(published)])
    with pytest.raises(UsageError, match=r"is no finished run: it has no model\.zip"):
        grids.main(["publish", str(published), "--out", str(tmp_path / "again")])


@pytest.mark.parametrize("name", trained_models())
def test_the_command_of_a_card_is_that_of_its_run(name: str) -> None:
    directory = find_model(name)
    (command,) = re.findall(r"```bash\n(.*)\n```", (directory / "README.md").read_text())
    run = Run.load(directory)
    assert command == command_of(run)
    assert train.parse_options(shlex.split(command)[2:]).run == run

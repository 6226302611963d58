"""A run that was killed and resumed is the run that was not: weights, progress.csv and TensorBoard
events."""

import io
import random
import signal
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tensorboard.backend.event_processing.event_file_loader import LegacyEventFileLoader

import train
from experiments.configuration import Run
from experiments.logs import ProgressTable, cut_events, read_rows
from experiments.run import load_model, read_progress
from mnm_rl.callbacks import ProgressBar
from mnm_rl.files import checkpoints
from tests.test_command_line import ROOT, SMALL, start, wait_for_checkpoint

CLOCK = {"time/fps", "time/time_elapsed"}
"""What differs from one run to the next: the columns that tell the time."""


class Killed(BaseException):
    """Ends a run on the spot: no ``except Exception`` saves anything."""


@pytest.fixture(autouse=True)
def _here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    # plays hundreds of episodes, after the run
    monkeypatch.setattr("experiments.analysis.report.report", lambda directory: None)


def run(*args: object) -> None:
    with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
        train.main([*map(str, args)])


def run_until(steps: int, how: Callable[[], None], *args: object) -> None:
    """Run until ``steps`` steps have been taken, then let ``how`` end it."""
    with pytest.MonkeyPatch.context() as patch:

        def on_step(callback: ProgressBar) -> bool:
            if callback.num_timesteps >= steps:
                how()
            return True

        patch.setattr(ProgressBar, "_on_step", on_step)
        run(*args)


def kill() -> None:
    raise Killed


def weights(directory: Path) -> list[torch.Tensor]:
    """The parameters of the trained model and the state of its optimizer."""
    model = load_model(Run.load(directory), directory / "model.zip", None, "cpu")
    moments = model.policy.optimizer.state_dict()["state"]
    return [
        *model.policy.state_dict().values(),
        *(value for part in moments.values() for value in part.values()),
    ]


def rows(directory: Path) -> list[dict[str, str]]:
    """The rows of ``progress.csv`` as they are written, but for the clock."""
    return [
        {k: v for k, v in row.items() if k not in CLOCK}
        for row in read_rows(directory / "progress.csv")
    ]


def points(directory: Path) -> list[tuple[str, int, float]]:
    """The points of all event files, in order, but for the clock."""
    events = [
        event
        for path in sorted(directory.glob("events.out.tfevents*"))
        for event in LegacyEventFileLoader(str(path)).Load()
    ]
    return [
        (v.tag, e.step, v.simple_value)
        for e in events
        for v in e.summary.value
        if v.tag not in CLOCK
    ]


def assert_same_run(one: Path, other: Path) -> None:
    for a, b in zip(weights(one), weights(other), strict=True):
        assert torch.equal(a, b)
    assert rows(one) == rows(other)
    assert sorted(points(one)) == sorted(points(other))
    assert {"train/value_loss", "rollout/ep_rew_mean", "time/fps"} <= {
        tag for tag, *_ in points(other)
    } | CLOCK
    assert len({point[:2] for point in points(other)}) == len(points(other))
    steps = [int(row["time/total_timesteps"]) for row in rows(other)]
    assert [int(row["time/iterations"]) for row in rows(other)] == list(range(1, len(steps) + 1))


UNALIGNED = ["--env", "CartPole-v1", "--n-envs", "4", "--n-steps", "25", "--threads", "1"]
"""Episodes do not end with the rollouts."""


@pytest.mark.parametrize("algorithm", ["ppo", "a2c"])
@pytest.mark.parametrize("agent", ["mnm-p", "lstm"])
@pytest.mark.parametrize("env", [SMALL, UNALIGNED], ids=["maze", "CartPole"])
def test_a_run_killed_at_random_moments_and_resumed_is_the_same_run(
    agent: str, algorithm: str, env: list[str], tmp_path: Path
) -> None:
    args = [
        agent,
        "--algorithm",
        algorithm,
        *env,
        "--total-timesteps",
        900,
        "--checkpoint-interval",
        250,
        "--seed",
        5,
    ]
    run(*args, "--out", tmp_path / "whole")
    moments = sorted(random.Random(f"{agent} {algorithm}").sample(range(330, 900), 2))
    with pytest.raises(Killed):
        run_until(moments[0], kill, *args, "--out", tmp_path / "killed")
    with pytest.raises(Killed):
        run_until(moments[1], kill, agent, "--resume", tmp_path / "killed", "--threads", 1)
    run(agent, "--resume", tmp_path / "killed", "--threads", 1)
    assert_same_run(tmp_path / "whole", tmp_path / "killed")


def test_a_run_whose_process_was_killed_is_the_same_run(tmp_path: Path) -> None:
    args = ["lstm", *SMALL, "--total-timesteps", 6000, "--checkpoint-interval", 300]
    run(*args, "--out", tmp_path / "whole")
    process = start(*args, "--out", tmp_path / "killed")
    wait_for_checkpoint(tmp_path / "killed")
    process.kill()
    process.communicate()
    assert not (tmp_path / "killed" / "model.zip").exists()
    run("lstm", "--resume", tmp_path / "killed", "--threads", 1)
    assert_same_run(tmp_path / "whole", tmp_path / "killed")


def test_a_run_stopped_between_checkpoints_is_the_same_where_episodes_end_with_rollouts(
    tmp_path: Path,
) -> None:
    """As in the maze; Ctrl-C waits for the update that follows the rollout."""
    args = ["lstm", *SMALL, "--total-timesteps", 900, "--checkpoint-interval", 250]
    run(*args, "--out", tmp_path / "whole")
    with pytest.raises(train.InterruptedRun, match="saved at 560 of 900"):
        run_until(
            500, lambda: signal.raise_signal(signal.SIGTERM), *args, "--out", tmp_path / "stopped"
        )
    run("lstm", "--resume", tmp_path / "stopped", "--threads", 1)
    assert_same_run(tmp_path / "whole", tmp_path / "stopped")


@pytest.mark.parametrize(
    ("env", "interval"),
    [(SMALL, 10_000), (SMALL, 250), (UNALIGNED, 250)],
    ids=["ends of episodes", "checkpoints too", "checkpoints alone"],
)
@pytest.mark.parametrize("algorithm", ["ppo", "a2c"])
def test_a_finished_run_that_goes_on_for_more_steps_is_the_longer_run(
    algorithm: str, env: list[str], interval: int, tmp_path: Path
) -> None:
    args: list[Any] = [
        "lstm",
        "--algorithm",
        algorithm,
        "--no-anneal-lr",
        *env,
        "--checkpoint-interval",
        interval,
    ]
    run(*args, "--total-timesteps", 1200, "--out", tmp_path / "whole")
    run(*args, "--total-timesteps", 650, "--out", tmp_path / "longer")
    (tmp_path / "longer" / "evaluation.json").write_text("of the shorter run")
    with pytest.raises(Killed):
        run_until(
            900,
            kill,
            "lstm",
            "--resume",
            tmp_path / "longer",
            "--total-timesteps",
            1200,
            "--threads",
            1,
        )
    assert not (tmp_path / "longer" / "model.zip").exists()
    assert not (tmp_path / "longer" / "evaluation.json").exists()
    run("lstm", "--resume", tmp_path / "longer", "--threads", 1)
    assert Run.load(tmp_path / "longer") == Run.load(tmp_path / "whole")
    assert_same_run(tmp_path / "whole", tmp_path / "longer")


def test_a_learning_rate_that_has_fallen_to_zero_is_that_of_the_longer_run_from_there_on(
    tmp_path: Path,
) -> None:
    def shares() -> list[float]:
        """Of the first rate, after each update but the last, which is logged when the run goes
        on."""
        run = Run.load(tmp_path / "run")
        rates = [row.get("train/learning_rate", np.nan) for row in read_progress(tmp_path / "run")]
        return [
            rate / run.hyperparameters.algorithm.learning_rate
            for rate in rates
            if np.isfinite(rate)
        ]

    run("lstm", *SMALL, "--total-timesteps", 400, "--out", tmp_path / "run")
    assert shares() == pytest.approx([0.8, 0.6, 0.4, 0.2])
    train.main(["lstm", "--resume", str(tmp_path / "run"), "--total-timesteps", "800"])
    assert shares() == pytest.approx([0.8, 0.6, 0.4, 0.2, 0, 0.4, 0.3, 0.2, 0.1])


def test_a_finished_run_without_a_checkpoint_goes_on_and_says_what_differs(
    tmp_path: Path, capsys: Any
) -> None:
    run("lstm", *UNALIGNED, "--total-timesteps", 300, "--out", tmp_path / "run")
    assert not checkpoints(tmp_path / "run" / "checkpoints")
    train.main(["lstm", "--resume", str(tmp_path / "run"), "--total-timesteps", "500"])
    assert (
        "has no checkpoint, and goes on with new episodes after 300 steps"
        in capsys.readouterr().err
    )
    assert (
        load_model(
            Run.load(tmp_path / "run"), tmp_path / "run" / "model.zip", None, "cpu"
        ).num_timesteps
        == 500
    )


def test_rows_stay_as_they_were_written(tmp_path: Path) -> None:
    """``7`` stays ``7`` and ``7.0`` stays ``7.0``; a column that comes later is empty above; a torn
    row goes."""
    table = ProgressTable(tmp_path / "progress.csv", up_to=0)
    table.write({"time/total_timesteps": 10, "a": 7}, {})
    table.write({"time/total_timesteps": 20, "a": 7.0, "b": np.float32(0.1)}, {"a": None})
    table.write({"time/total_timesteps": 30, "a": 1, "b": 2}, {"b": ("csv",)})
    text = "time/total_timesteps,a,b\n10,7,\n20,7.0,0.1\n30,1,\n"
    assert (tmp_path / "progress.csv").read_text() == text
    with open(tmp_path / "progress.csv", "a") as file:
        file.write("40," + 200_000 * "1" + ",\n50,tor")
    ProgressTable(tmp_path / "progress.csv", up_to=20)
    assert (tmp_path / "progress.csv").read_text() == text.removesuffix("30,1,\n")


@pytest.mark.parametrize("torn", [0, 1, 5, 20])
def test_event_files_end_at_the_checkpoint(torn: int, tmp_path: Path) -> None:
    from torch.utils.tensorboard import SummaryWriter

    for first in (1, 4):
        with SummaryWriter(tmp_path, filename_suffix=str(first)) as writer:
            for step in range(first, first + 3):
                writer.add_scalar("x", step, step)
    (last,) = tmp_path.glob("events*4")
    whole = last.read_bytes()
    last.write_bytes(whole[: len(whole) - torn])
    cut_events(tmp_path, up_to=5)
    assert sorted(step for _, step, _ in points(tmp_path)) == [1, 2, 3, 4, 5]
    cut_events(tmp_path, up_to=2)
    assert sorted(step for _, step, _ in points(tmp_path)) == [1, 2]


def test_a_run_without_a_checkpoint_is_started_afresh(tmp_path: Path) -> None:
    args = ["lstm", *SMALL, "--total-timesteps", 200, "--checkpoint-interval", 100]
    with pytest.raises(Killed):
        run_until(90, kill, *args, "--out", tmp_path / "run")
    with pytest.raises(
        train.UsageError, match=r"no checkpoint to resume from.*start it again, with --out .*run"
    ):
        run("lstm", "--resume", tmp_path / "run")
    run(*args, "--out", tmp_path / "run")
    run(*args, "--out", tmp_path / "whole")
    assert_same_run(tmp_path / "whole", tmp_path / "run")


def test_what_a_kill_left_unfinished_is_cleared_away(tmp_path: Path) -> None:
    args = ["lstm", *SMALL, "--total-timesteps", 400, "--checkpoint-interval", 100]
    with pytest.raises(Killed):
        run_until(290, kill, *args, "--out", tmp_path / "run")
    (tmp_path / "run" / "checkpoints" / "step-000000000300.unfinished").write_text(
        "half a checkpoint"
    )
    run("lstm", "--resume", tmp_path / "run")
    assert not list((tmp_path / "run").rglob("*.unfinished"))
    assert len(checkpoints(tmp_path / "run" / "checkpoints")) == 2


def test_a_resumed_run_keeps_its_interval_unless_told_otherwise(tmp_path: Path) -> None:
    args: list[Any] = ["lstm", *SMALL, "--total-timesteps", 500, "--checkpoint-interval", 160]
    with pytest.raises(Killed):
        run_until(300, kill, *args, "--out", tmp_path / "run")
    assert Run.load(tmp_path / "run").checkpoint_interval == 160
    with pytest.raises(Killed):
        run_until(330, kill, "lstm", "--resume", tmp_path / "run", "--checkpoint-interval", 80)
    assert Run.load(tmp_path / "run").checkpoint_interval == 80

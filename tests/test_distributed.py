"""Several processes train as one does; when one of them dies, all end, and the run goes on in as
many as are there then."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from experiments.run import read_progress
from mnm_rl import RecurrentPPO
from mnm_rl.algorithms import distributed
from mnm_rl.algorithms.buffers import RolloutSequence
from mnm_rl.files import checkpoints
from tests import sharing
from tests.test_command_line import command, fails

ROOT = Path(__file__).parent.parent
LIMIT = 300
"""Seconds after which a launch has failed; on a quiet machine it takes ten."""
DEADLY = [
    "gru",
    "--env",
    "tests.command_line_envs:mnm-test/Deadly-v0",
    "--n-envs",
    "4",
    "--n-steps",
    "4",
    "--hidden-size",
    "8",
]
DEADLY += ["--n-minibatches", "2"]


def launch(
    *args: object, nnodes: int = 1, port: int = 0, **environment: str
) -> subprocess.Popen[str]:
    """Start a module or script with torchrun: two processes on one machine, or one on each of two,
    which is this one again."""
    torchrun = [sys.executable, "-m", "torch.distributed.run"]
    if nnodes == 1:
        torchrun += ["--standalone", "--nproc-per-node", "2"]
    else:
        rendezvous = (
            f"--rdzv-id=test --rdzv-backend=c10d --rdzv-endpoint=127.0.0.1:{port} "
            "--local-addr=127.0.0.1"
        )
        torchrun += ["--nnodes", "2", "--nproc-per-node", "1", *rendezvous.split()]
    return subprocess.Popen(
        [*torchrun, *map(str, args)],
        cwd=ROOT,
        env=os.environ | {"OMP_NUM_THREADS": "1"} | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def output(process: subprocess.Popen[str]) -> str:
    try:
        return process.communicate(timeout=LIMIT)[0]
    finally:
        process.kill()


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def rows(run: Path) -> list[int]:
    """The steps of the rows of ``progress.csv``."""
    return [int(row["time/total_timesteps"]) for row in read_progress(run)]


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What each of two processes has after the trainings of :mod:`tests.sharing`."""
    directory = tmp_path_factory.mktemp("shared")
    process = launch("-m", "tests.sharing", directory)
    said = output(process)
    assert process.returncode == 0, said
    return [torch.load(directory / f"{rank}.pt") for rank in range(2)]


@pytest.mark.parametrize("case", sharing.CASES)
def test_two_processes_take_the_updates_of_one(
    case: str, shared: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(np.random, "permutation", sharing.in_order)
    monkeypatch.setattr(RolloutSequence, "minibatches", sharing.of_two)
    alone = sharing.trained(case, parts=2)
    assert case != "ppo, stopped by its kl" or alone["updates"] < 20 * sharing.ROLLOUTS
    for name, value in alone.items():
        first, second = (results[case][name] for results in shared)
        assert torch.equal(first, second), name
        torch.testing.assert_close(
            first, value, rtol=1e-4, atol=1e-5, msg=lambda text, name=name: f"{name}: {text}"
        )


def test_processes_draw_different_numbers(shared: list[dict[str, Any]]) -> None:
    (numpy0, torch0), (numpy1, torch1) = (results["drawn"] for results in shared)
    assert numpy0 != numpy1
    assert torch0 != torch1


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A run of which one process died, and what was said."""
    run = tmp_path_factory.mktemp("killed") / "run"
    args = [*DEADLY, "--total-timesteps", "160", "--checkpoint-interval", "16", "--out", run]
    process = launch("train.py", *args, MNM_TEST_DEADLY_STEP="34")
    said = output(process)
    assert process.returncode == 1, said
    return run, said


def test_a_process_that_dies_ends_the_others_with_a_message(killed: tuple[Path, str]) -> None:
    run, said = killed
    errors = [
        line for line in said.splitlines() if "error: process 0 of 2 has lost another one" in line
    ]
    assert len(errors) == 1, said
    assert f"go on with: torchrun --nproc-per-node 2 train.py gru --resume {run}" in errors[0]
    assert not (run / "model.zip").exists()


def test_the_run_goes_on_in_one_process(killed: tuple[Path, str], tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(killed[0], run)
    assert command("train.py", "gru", "--resume", run).returncode == 0
    assert rows(run) == list(range(16, 161, 16))


def test_the_run_goes_on_on_two_machines_as_if_nothing_had_happened(
    killed: tuple[Path, str], tmp_path: Path
) -> None:
    run = tmp_path / "run"
    shutil.copytree(killed[0], run)
    port = free_port()
    agents = [launch("train.py", "gru", "--resume", run, nnodes=2, port=port) for _ in range(2)]
    said = [output(agent) for agent in agents]
    assert [agent.returncode for agent in agents] == [0, 0], said
    assert rows(run) == list(range(16, 161, 16))
    assert sum("episodes with" in text for text in said) == 1  # one of them reports
    whole = tmp_path / "whole"
    args = [*DEADLY, "--total-timesteps", "160", "--checkpoint-interval", "16", "--out", whole]
    assert "stopped" not in output(launch("train.py", *args))
    uninterrupted, resumed = (
        RecurrentPPO.load(directory / "model.zip").policy.state_dict() for directory in (whole, run)
    )
    assert all(torch.equal(resumed[name], value) for name, value in uninterrupted.items())


def test_a_signal_stops_all_and_saves(tmp_path: Path) -> None:
    run = tmp_path / "run"
    process = launch(
        "train.py",
        *DEADLY,
        "--total-timesteps",
        "1e9",
        "--checkpoint-interval",
        "1e9",
        "--out",
        run,
    )
    deadline = time.monotonic() + LIMIT
    while not rows(run) and time.monotonic() < deadline:
        time.sleep(0.1)
    process.send_signal(signal.SIGTERM)
    said = output(process)
    assert process.returncode != 0
    assert len([line for line in said.splitlines() if line.startswith("stopped: saved at")]) == 1, (
        said
    )
    assert len(checkpoints(run / "checkpoints")) == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([], "the environments (4) cannot be shared equally by 3 processes"),
        (
            ["--n-envs", "6", "--n-minibatches", "3"],
            "the environments of a minibatch (2) cannot be shared equally by 3 processes",
        ),
    ],
)
def test_what_cannot_be_shared_is_refused(
    options: list[str], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(distributed, "world_size", lambda: 3)
    assert message in fails(2, "train.py", *DEADLY, *options)


def test_without_a_group_there_is_one_process() -> None:
    numbers = torch.randn(7)
    assert (distributed.rank(), distributed.world_size(), distributed.launcher()) == (
        0,
        1,
        "python",
    )
    assert distributed.mean(numbers) is numbers
    mean, std = distributed.mean_and_std(numbers)
    assert (mean, std) == (numbers.mean(), numbers.std())
    assert distributed.from_first(lambda: 5) == 5
    assert distributed.any_process(True)
    assert not distributed.any_process(False)


ENDING = """
import atexit, pathlib
threads = pathlib.Path("/proc/self/task")
atexit.register(lambda: print(*(name.read_text().strip() for name in threads.glob("*/comm"))))
import torch
from mnm_rl.algorithms import distributed
distributed.join("cpu")
layer = torch.nn.Linear(1, 1)
optimizer = torch.optim.Adam(layer.parameters())
layer(torch.ones(1)).backward()
optimizer.step()
print(distributed.mean(torch.ones(())).item())
"""


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="threads have no names here")
def test_no_thread_of_the_group_outlives_it() -> None:
    alone = {
        "TORCHELASTIC_RUN_ID": "test",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(free_port()),
    }
    alone |= {"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "1"}
    done = subprocess.run(
        [sys.executable, "-c", ENDING],
        cwd=ROOT,
        env=os.environ | alone,
        capture_output=True,
        text=True,
        timeout=LIMIT,
    )
    assert done.stdout.startswith("1.0\n"), done.stderr
    # it would abort the process if it ended later than the interpreter
    assert "gloo" not in done.stdout

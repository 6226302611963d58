"""A GPU gives what a CPU gives."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from mnm_rl import RecurrentCore
from mnm_rl.cores.implementations import PathName
from tests import sharing, test_cores, test_fused
from tests.test_command_line import command

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
ROOT = Path(__file__).parent.parent
CORES = [
    (module, name, path)
    for module in (test_cores, test_fused)
    for name, make in module.CORES.items()
    for path in ("plain", "reversible")
    if path == "plain" or make().why_not(path) is None
]
SMALL = [
    "--env",
    "mnm/MazeSmall-v0",
    "--n-envs",
    "4",
    "--n-steps",
    "10",
    "--hidden-size",
    "8",
    "--total-timesteps",
    "80",
]


def results(core: RecurrentCore[Any], inputs: Tensor, starts: Tensor) -> list[Tensor]:
    """Outputs, meta-losses and the gradients of the inputs and of all parameters."""
    inputs = inputs.clone().requires_grad_()
    outputs, _, meta_loss = core(inputs, core.initial_state(inputs.shape[1]), starts)
    loss = outputs.square().sum() + meta_loss.sum()
    gradients = torch.autograd.grad(loss, (inputs, *core.parameters()), materialize_grads=True)
    return [x.detach().cpu() for x in (outputs, meta_loss, *gradients)]


@pytest.mark.parametrize(("module", "name", "path"), CORES)
@pytest.mark.parametrize("dtype", test_fused.TOLERANCE, ids=str)
def test_outputs_and_gradients(module: Any, name: str, path: PathName, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    core = module.CORES[name]().to(dtype)
    inputs, starts = torch.randn(9, 4, module.F, dtype=dtype), torch.rand(9, 4) < 0.3
    core.path = "plain"
    expected = results(core, inputs, starts)
    core.cuda().path = path
    for there, here in zip(results(core, inputs.cuda(), starts.cuda()), expected, strict=True):
        assert (there - here).abs().max() <= test_fused.TOLERANCE[dtype] * here.abs().max()


def test_a_neural_memory_runs_reversibly_there() -> None:
    core = test_cores.CORES["mnm-p"]().cuda()
    assert core.why_not("reversible") is None
    assert "path=reversible" in repr(core)


@pytest.mark.parametrize("case", sharing.CASES)
def test_a_training(case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(np.random, "permutation", sharing.in_order)
    here, there = sharing.trained(case), sharing.trained(case, device="cuda")
    torch.testing.assert_close(there, here, rtol=1e-3, atol=1e-4)


def test_a_training_in_a_group_that_talks_with_nccl(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torchrun = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc-per-node",
        "1",
    ]
    subprocess.run([*torchrun, "-m", "tests.sharing", tmp_path, "cuda"], cwd=ROOT, check=True)
    monkeypatch.setattr(np.random, "permutation", sharing.in_order)
    shared = torch.load(tmp_path / "0.pt")
    for case in sharing.CASES:
        torch.testing.assert_close(shared[case], sharing.trained(case), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("algorithm", ["ppo", "a2c"])
@pytest.mark.parametrize("agent", ["mnm-p", "plastic-modulated", "lstm", "salu", "ntm"])
def test_the_command_line(agent: str, algorithm: str, tmp_path: Path) -> None:
    few = ["--n-minibatches", "2"] if algorithm == "ppo" else []
    trained = command(
        "train.py",
        agent,
        *SMALL,
        *few,
        "--algorithm",
        algorithm,
        "--device",
        "cuda",
        "--out",
        tmp_path / "run",
    )
    assert trained.returncode == 0, trained.stderr
    assert (tmp_path / "run" / "evaluation.json").exists()

"""The benchmark measures what it says: the naive references compute the same, and the pieces
run."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
import tyro

import benchmarks
from benchmarks import predict, throughput

ROOT = Path(__file__).parent.parent


@pytest.mark.parametrize("name", throughput.CORES)
@pytest.mark.parametrize("heads", [1, 4])
def test_the_naive_references_have_the_same_results_and_gradients(name: str, heads: int) -> None:
    make, reference = throughput.CORES[name]
    core = make(heads).double()
    core.path = "plain"
    inputs = torch.randn(6, 3, throughput.F, dtype=torch.float64)
    results = []
    for outputs, meta_loss in (
        core(inputs, core.initial_state(3), torch.zeros(6, 3, dtype=torch.bool))[::2],
        reference(core, inputs),
    ):
        loss = outputs.pow(2).sum() + meta_loss.sum()
        results.append(
            [
                outputs,
                meta_loss,
                *torch.autograd.grad(loss, list(core.parameters()), allow_unused=True),
            ]
        )
    for ours, naive in zip(*results, strict=True):
        torch.testing.assert_close(ours, naive)


def test_the_pieces_run(tmp_path: Path) -> None:
    options = tyro.cli(throughput.Options, args=["--threads", "2"])
    assert options.threads == 2
    rows = [
        {"core": "mnm-p-paper", "B": 16, "T": T, "H": 1}
        | {
            path: throughput.measure_core("mnm-p-paper", path == "naive", 16, T, 1, 0.0)
            | {"memory_mb": T}
            for path in ("fused", "naive")
        }
        for T in (2, 4)
    ]
    assert all(row["fused"]["steps_per_second"] > 0 for row in rows)  # type: ignore[index]
    assert throughput.measure_training("rnn", 0.0)["steps_per_second"] > 0
    assert throughput.measure_maze(2, 3)["steps_per_second"] > 0
    machine = {"threads": 2, "matrix_product_gflops": throughput.matrix_product_rate(64, 2)}
    throughput.draw({"machine": machine, "cores": rows}, tmp_path / "plot.png")
    assert (tmp_path / "plot.png").exists()


def test_predict_is_measured() -> None:
    times = predict.measure(predict.make(units=3), turns=1, calls=2)
    assert times.keys() == predict.POLICIES.keys()
    assert all(ms > 0 for ms in times.values())


def test_a_benchmark_that_became_a_study_is_told_where_it_is() -> None:
    for old, new in benchmarks.MOVED.items():
        assert (ROOT / f"{new.replace('.', '/')}.py").exists()
        assert not (ROOT / f"{old.replace('.', '/')}.py").exists()
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.drop_in", "cartpole"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1
    assert done.stderr == ("benchmarks.drop_in is studies.drop_in now: python -m studies.drop_in\n")

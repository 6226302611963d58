"""What a GPU does for the cores, and for training on the maze, beside the kernels on the CPU of the
same machine (docs/speed.md).

python -m benchmarks.gpu --json docs/gpu.json

Cores: forward, backward and Adam on random inputs of 200 steps; training: A2C, rollout and update
together. Memory is the GPU's.
"""

import os

if __name__ == "__main__":
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as train.py does

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import tyro

from benchmarks.naive import whole_gru, whole_lstm
from benchmarks.throughput import CORES, F, best_of, matrix_product_rate, trainer

T = 200
WHOLE = {"gru": whole_gru, "lstm": whole_lstm}
"""PyTorch's own, which call cuDNN."""


@dataclass
class Options:
    json: Path
    """Where to write the figures."""
    threads: int = os.cpu_count() or 1
    """CPU threads."""
    seconds: float = 0.5
    """Seconds to measure each for, at least twice."""
    environments: tuple[int, ...] = (32, 256, 2048)
    """Batches to measure the cores with."""
    training_environments: tuple[int, ...] = (64, 1024)
    """Environments to measure the training with."""


def measure_core(core: str, device: str, path: str, B: int, total: float) -> dict[str, Any]:
    """Steps per second and peak memory on the GPU in MB; nothing where it does not fit."""
    model = CORES[core][0](1).to(device)
    if path != "torch.nn":
        model.path = path
    adam = torch.optim.Adam(model.parameters())
    inputs, starts = (
        torch.randn(T, B, F, device=device),
        torch.zeros(T, B, dtype=torch.bool, device=device),
    )

    def update() -> None:
        if path == "torch.nn":
            outputs, meta_loss = WHOLE[core](model, inputs)
        else:
            outputs, _, meta_loss = model(inputs, model.initial_state(B), starts)
        (outputs.pow(2).mean() + meta_loss.mean()).backward()
        adam.step()
        adam.zero_grad()

    return measured(update, T * B, device, total)


def measure_training(agent: str, device: str, n_envs: int, total: float) -> dict[str, Any]:
    update, steps = trainer(agent, n_envs, device)
    return measured(update, steps, device, total)


def measured(update: Callable[[], None], steps: int, device: str, total: float) -> dict[str, Any]:
    def and_wait() -> None:
        update()
        if device == "cuda":
            torch.cuda.synchronize()

    if device == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    try:
        speed = steps / best_of(and_wait, total)
    except torch.OutOfMemoryError:
        return {"steps_per_second": None, "memory_mb": None}
    return {
        "steps_per_second": round(speed),
        "memory_mb": round(torch.cuda.max_memory_allocated() / 1e6) if device == "cuda" else None,
    }


def main(options: Options) -> None:
    torch.set_num_threads(options.threads)
    rows: list[dict[str, Any]] = []

    def add(**what: Any) -> None:
        measure = measure_core if "core" in what else measure_training
        rows.append(what | measure(**what, total=options.seconds))
        print(rows[-1], flush=True)

    for core in CORES:
        there = [
            "plain",
            *(["torch.nn"] if core in WHOLE else []),
            *(["reversible"] if CORES[core][0](1).why_not("reversible") is None else []),
        ]
        for B in options.environments:
            for device, path in (("cpu", "auto"), *(("cuda", path) for path in there)):
                add(core=core, device=device, path=path, B=B)
    for agent in ("mnm-p-paper", "mnm-g-paper", "lstm"):
        for n_envs in options.training_environments:
            for device in ("cpu", "cuda"):
                add(agent=agent, device=device, n_envs=n_envs)
    machine = {
        "gpu": torch.cuda.get_device_name(),
        "threads": options.threads,
        "matrix_product_gflops": round(matrix_product_rate()),
    }
    options.json.write_text(json.dumps({"machine": machine, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))

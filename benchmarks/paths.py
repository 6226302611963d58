"""The three ways to run a neural memory beside one another: plain autograd, reversible, fused
(docs/speed.md).

python -m benchmarks.paths --json docs/paths.json
"""

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import tyro

from benchmarks.throughput import in_a_process, matrix_product_rate

CORES = ("mnm-p-paper", "mnm-g-paper", "deltanet")
PATHS = ("plain", "reversible", "fused")


@dataclass
class Options:
    json: Path
    """Where to write the figures."""
    threads: int = os.cpu_count() or 1
    """CPU threads."""
    seconds: float = 3.0
    """Seconds to measure each for."""
    rounds: int = 2
    """How often to measure everything, in turn; the best counts."""


def main(options: Options) -> None:
    torch.set_num_threads(options.threads)
    best: dict[tuple[str, str], dict[str, Any]] = {}
    for _ in range(options.rounds):
        for core in CORES:
            for path in PATHS:
                what = dict(
                    kind="core",
                    core=core,
                    naive=False,
                    B=32,
                    T=200,
                    H=1,
                    total=options.seconds,
                    path=path,
                )
                measured = in_a_process(options.threads, **what)
                if measured["steps_per_second"] > best.get((core, path), {}).get(
                    "steps_per_second", 0
                ):
                    best[core, path] = measured
    rows = [
        {"core": core, "path": path} | {key: round(x) for key, x in figures.items()}
        for (core, path), figures in best.items()
    ]
    machine = {"threads": options.threads, "matrix_product_gflops": round(matrix_product_rate())}
    options.json.write_text(json.dumps({"machine": machine, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))

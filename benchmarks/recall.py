"""Updates until a memory recalls key-value pairs, without reinforcement learning (examples/recall.py).

python -m benchmarks.recall [--pairs 8 16] [--seeds 3] [--json docs/initialization.json]
"""

import contextlib
import io
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import tyro
from rich.console import Console
from rich.table import Table

from examples.recall import VALUES, train
from mnm_rl import MnmCore

CORES: dict[str, dict[str, Any]] = {
    "mnm-g": {"write_rule": "g"},
    "mnm-p": {"write_rule": "p"},
    "deltanet": {"write_rule": "delta", "memory_layers": 1},
}


@dataclass
class Options:
    pairs: tuple[int, ...] = (8, 16)
    """How many pairs."""
    seeds: int = 3
    """Seeds of each, from 0."""
    updates: int = 600
    """Updates after which it is given up."""
    learning_rate: float = 4e-3
    """Step size of Adam."""
    json: Path | None = None
    """Where to write the figures, as ``recall``; what else the file holds stays."""


def updates_to_99(right: list[float]) -> int | None:
    """The first update at which the mean of the last five is 99% right."""
    means = np.convolve(right, np.ones(5) / 5, "valid")
    return int(np.argmax(means >= 0.99)) + 5 if means.max() >= 0.99 else None


def main(options: Options) -> None:
    torch.set_num_threads(1)
    rows = []
    table = Table("core", "pairs", "updates to 99%, each seed")
    for name, arguments in CORES.items():
        for pairs in options.pairs:
            reached = []
            for seed in range(options.seeds):
                torch.manual_seed(seed)
                core = MnmCore(2 * pairs + VALUES, hidden_size=48, **arguments)
                with contextlib.redirect_stdout(io.StringIO()):
                    right = train(core, pairs, options.updates, learning_rate=options.learning_rate)
                reached.append(updates_to_99(right))
            rows.append({"core": name, "pairs": pairs, "updates": reached})
            table.add_row(name, str(pairs), ", ".join("never" if n is None else str(n) for n in reached))
    Console().print(table)
    if options.json is not None:
        figures = json.loads(options.json.read_text()) if options.json.exists() else {}
        options.json.write_text(json.dumps(figures | {"recall": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main(tyro.cli(Options))

"""What one action costs: python -m benchmarks.predict [--json FILE].

``predict`` for one observation of CartPole with the state carried on, as a user plays:
sb3-contrib's RecurrentPPO beside this library's policies, each as it is by default (an LSTM of 256
in ``MlpLstmPolicy``, 100 units in the others), and all of 64 units; then the same policies exported
to ONNX, in ONNX Runtime. One thread. They take turns, and what counts is the median of the
processor time of a turn: other work on the machine slows all.
"""

import json
import statistics
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import torch
import tyro
from rich.console import Console
from rich.table import Table

from mnm_rl import RecurrentPPO

RIVAL = "sb3-contrib, MlpLstmPolicy"
POLICIES: dict[str, tuple[str, dict[str, Any]]] = {
    "MlpLstmPolicy": ("MlpLstmPolicy", {}),
    "LstmPolicy": ("LstmPolicy", {}),
    "MnmPolicy, rule g": ("MnmPolicy", {"write_rule": "g"}),
    "MnmPolicy, rule p": ("MnmPolicy", {"write_rule": "p"}),
}


@dataclass
class Options:
    turns: int = 40
    """How often each policy has its turn."""
    calls: int = 25
    """Calls of ``predict`` in a turn."""
    json: Path | None = None
    """Where to write the figures."""


def make(units: int | None, rival: Any = None) -> dict[str, Any]:
    """A model of each kind by its name, with so many units, or as many as it has by default."""
    made = {}
    for name, (policy, kwargs) in POLICIES.items():
        width = (
            {}
            if units is None
            else {"lstm_hidden_size" if policy == "MlpLstmPolicy" else "hidden_size": units}
        )
        for label, algorithm in (
            ((RIVAL, rival), (name, RecurrentPPO))
            if name == "MlpLstmPolicy"
            else ((name, RecurrentPPO),)
        ):
            if algorithm is not None:
                made[label] = algorithm(
                    policy, "CartPole-v1", policy_kwargs=kwargs | width, seed=0, device="cpu"
                )
    return made


class InOnnx:
    """A model exported to ONNX, with ``predict`` for one observation."""

    def __init__(self, model: RecurrentPPO) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        with tempfile.TemporaryDirectory() as directory:
            path = Path(directory) / "policy.onnx"
            model.export(path, format="onnx")
            self.session = onnxruntime.InferenceSession(
                path, options, providers=["CPUExecutionProvider"]
            )
        inputs = self.session.get_inputs()
        self.state = {
            i.name: np.zeros([1, *i.shape[1:]], np.float32)
            for i in inputs
            if i.name.startswith("state_")
        }

    def predict(
        self, observation: Any, state: Any, start: Any, deterministic: bool
    ) -> tuple[Any, Any]:
        state = state or self.state
        given = {"observation": observation[None], "episode_start": start, **state}
        action, _, *after = self.session.run(None, given)
        return action, dict(zip(state, after, strict=True))


def measure(models: dict[str, Any], turns: int, calls: int) -> dict[str, float]:
    """Milliseconds of one call of ``predict``, of each model."""
    observation, start = np.zeros(4, np.float32), np.zeros(1, bool)
    states: dict[str, Any] = dict.fromkeys(models)
    times: dict[str, list[float]] = {name: [] for name in models}
    for turn in range(turns + 1):
        for name, model in models.items():
            begin = time.process_time()
            for _ in range(calls):
                _, states[name] = model.predict(
                    observation, states[name], start, deterministic=True
                )
            if turn > 0:  # the first compiles
                times[name].append((time.process_time() - begin) / calls * 1e3)
    return {name: statistics.median(of_one) for name, of_one in times.items()}


def main(options: Options) -> None:
    try:
        from sb3_contrib import RecurrentPPO as TheirRecurrentPPO
    except ImportError as error:
        sys.exit(f"error: {error}; install what this compares with: pip install '.[bench,onnx]'")
    torch.set_num_threads(1)
    figures = []
    table = Table("policy", "units", "ms", "of sb3-contrib's", title="predict, one observation")
    for units in (None, 64):
        models = make(units, TheirRecurrentPPO)
        exported = {
            f"{name}, ONNX Runtime": InOnnx(model)
            for name, model in models.items()
            if name != RIVAL
        }
        times = measure(models | exported, options.turns, options.calls)
        for name, ms in times.items():
            figures.append(
                {"policy": name, "units": units, "ms": ms, "of_sb3_contrib": ms / times[RIVAL]}
            )
            table.add_row(
                name,
                "default" if units is None else str(units),
                f"{ms:.2f}",
                f"{ms / times[RIVAL]:.2f}",
            )
    Console().print(table)
    if options.json is not None:
        options.json.write_text(json.dumps(figures, indent=1) + "\n")


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))

"""Sequence learning without reinforcement learning: any core, by the cross-entropy of its answers
plus its meta-loss.

:mod:`experiments.sequences` trains on the memory tasks, :mod:`experiments.babi` on stories; the
model, the update and the hyperparameters on the command line are the same, and here.
"""

import json
import math
import platform
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from agents import AGENTS, Agent
from experiments.command_line import UsageError, first_line
from mnm_rl import RecurrentCore, TrainingDivergedError, __version__
from mnm_rl.algorithms.recurrent_policy import POLICIES, RecurrentActorCriticPolicy
from mnm_rl.cores.core import make_state
from mnm_rl.files import replacing


class Batch(NamedTuple):
    """B sequences of T steps; one may hold several episodes, one after the other."""

    observations: Tensor
    """What the model's encoder takes, ``[T, B, ...]``."""
    targets: Tensor
    """The right answer at the steps that ask, -1 at those that do not, ``[T, B]`` int64."""
    starts: Tensor
    """Where an episode begins anew, ``[T, B]`` bool."""
    counts: Tensor
    """Which steps belong to an episode; the others fill up a sequence, and do not count; ``[T, B]``
    bool."""
    state: Any = None
    """The core's state before the first step, batch first; None: its initial state."""

    def answers(self) -> Tensor:
        """The right answers ``[N]`` of the N steps that ask."""
        return self.targets[self.targets >= 0]


class Prediction(NamedTuple):
    """What a model makes of a batch."""

    logits: Tensor
    """At the N steps that ask, ``[N, n_answers]``."""
    meta_loss: Tensor
    """Its mean over the steps that count."""
    state: Any
    """The core's state after the last step, batch first."""


class SequenceModel(nn.Module):
    """Observations to answers: an encoder, a core, and a linear layer.

    Args:
        encoder: observations ``[T, B, ...]`` to the inputs of the core, ``[T, B, F]``.
        core: any core.
        n_answers: how many answers there are.
    """

    def __init__(self, encoder: nn.Module, core: RecurrentCore[Any], n_answers: int) -> None:
        super().__init__()
        self.encoder, self.core = encoder, core
        self.head = nn.Linear(core.output_size, n_answers)

    def forward(self, batch: Batch) -> Prediction:
        """Answer the steps that ask."""
        inputs = self.encoder(batch.observations)
        state = self.core.initial_state(inputs.shape[1]) if batch.state is None else batch.state
        outputs, state, meta_loss = self.core(inputs, state, batch.starts)
        return Prediction(
            self.head(outputs[batch.targets >= 0]), meta_loss[batch.counts].mean(), state
        )

    @torch.no_grad()
    def right(self, batch: Batch) -> tuple[Tensor, Any]:
        """Which of the N answers are right, ``[N]`` bool, and the core's state after the last
        step."""
        logits, _, state = self(batch)
        return logits.argmax(dim=1) == batch.answers(), state


@dataclass(frozen=True, kw_only=True)
class Training:
    """Hyperparameters of the training.

    With a weight of 1 for the meta-loss, the paper's, to write what the memory gives already can be
    all that is learned (docs/memory.md).
    """

    learning_rate: float = 4e-3
    """Step size of Adam."""
    max_grad_norm: float = 0.5
    """Gradient norm above which gradients are scaled down (Stable-Baselines3's default)."""
    adam_eps: float = 1e-8
    """Epsilon of Adam (PyTorch's default; Stable-Baselines3's is 1e-5)."""
    meta_coef: float = 0.1
    """Weight of the meta-loss."""


class Trainer:
    """Trains a model with Adam, one batch an update.

    Args:
        model: the model.
        training: its hyperparameters.
        weight_decay: decoupled from the gradient (AdamW).

    Attributes:
        state: the core's state after the last update's last step, detached.
        updates: how many there were.
        seconds: what they took, without the making of batches and without evaluations.
    """

    def __init__(self, model: SequenceModel, training: Training, weight_decay: float = 0.0) -> None:
        self.model, self.training = model, training
        self.parameters = list(model.parameters())
        self.optimizer = torch.optim.AdamW(
            self.parameters,
            lr=training.learning_rate,
            eps=training.adam_eps,
            weight_decay=weight_decay,
            fused=True,
        )
        self.updates, self.seconds = 0, 0.0
        self.state: Any = None

    def gradients(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Leave the gradients of a batch in the parameters; returns the cross-entropy, and the norm
        before it was cut."""
        logits, meta_loss, state = self.model(batch)
        self.state = make_state(state, (part.detach() for part in state))
        answers = batch.answers()
        loss = F.cross_entropy(logits, answers, reduction="sum") / max(1, len(answers))
        self.optimizer.zero_grad()
        (loss + self.training.meta_coef * meta_loss).backward()
        return loss.detach(), nn.utils.clip_grad_norm_(self.parameters, self.training.max_grad_norm)

    def update(self, batch: Batch) -> float:
        """One update; returns the cross-entropy before it.

        Raises:
            TrainingDivergedError: if the gradient is NaN or infinite; the parameters stay as they
                were.
        """
        since = time.perf_counter()
        loss, norm = self.gradients(batch)
        if not math.isfinite(norm):  # so it is wherever a loss is not finite
            raise TrainingDivergedError(
                f"the gradient became NaN or infinite at update {self.updates + 1:,}: a smaller "
                "--learning-rate may help"
            )
        self.optimizer.step()
        self.updates += 1
        self.seconds += time.perf_counter() - since
        return loss.item()

    def compile(self, batch: Batch) -> None:
        """Have kernels compiled, or loaded, before the clock runs."""
        self.gradients(batch)


def find_agent(name: str) -> type[Agent]:
    """An agent by its name.

    Raises:
        UsageError: if there is no such agent.
    """
    if name not in AGENTS:
        raise UsageError(f"unknown agent {name!r}: it must be one of {', '.join(AGENTS)}")
    return AGENTS[name]


def build_core(agent: Agent, input_size: int) -> RecurrentCore[Any]:
    """The core of an agent.

    Raises:
        UsageError: if its hyperparameters do not go together.
    """
    policy = cast(type[RecurrentActorCriticPolicy], POLICIES[agent.policy])
    try:
        return policy.core_class(input_size, **agent.arguments())
    except (ValueError, RuntimeError, MemoryError) as error:
        raise UsageError(f"{agent.name} cannot be built: {first_line(error)}") from error


def names(args: Sequence[str], usage: str, *what: str) -> list[str]:
    """The first arguments of a command line, which are not options.

    Raises:
        UsageError: if there are fewer.
        SystemExit: after ``--help``.
    """
    if args and args[0] in ("-h", "--help"):
        print(usage)
        sys.exit(0)
    given = list(args[: len(what)])
    if len(given) < len(what) or any(name.startswith("-") for name in given):
        raise UsageError(f"name {' and '.join(what)} first; {usage.splitlines()[0]}")
    return given


def versions() -> dict[str, str]:
    """What a result was made with."""
    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": np.__version__,
        "mnm_rl": __version__,
    }


def write_json(path: Path, figures: dict[str, Any]) -> None:
    """Write figures, the whole file or nothing."""
    with replacing(path) as file:
        file.write((json.dumps(figures, indent=1) + "\n").encode())

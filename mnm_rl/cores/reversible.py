"""MNM in plain PyTorch without keeping fast weights: on any device, in any dtype, with any write
rule, heads and replay."""

from typing import Any

import torch
from torch import Tensor

from mnm_rl.cores.implementations import Implementation
from mnm_rl.cores.mnm import MnmState
from mnm_rl.memory import NeuralMemory, PlainMemory, ReversibleMemory


class Reversible(Implementation[MnmState]):
    """The core's own scan with a memory that undoes its writes on the way back."""

    name = "reversible"
    calls_modules = True
    core: Any

    @classmethod
    def refusal(cls, core: Any) -> str | None:
        memory, rule = core.memory, type(core.memory.rule)
        if type(memory) is not NeuralMemory:
            return f"{type(memory).__name__} may write and read in another way than NeuralMemory"
        for method in ("deltas", "step_sizes"):
            if _defining(rule, method) is not _defining(rule, f"{method}_backward"):
                return f"{rule.__name__} has {method} of its own, and no {method}_backward"
        return super().refusal(core)

    def sequence(
        self, inputs: Tensor, state: MnmState, episode_starts: Tensor
    ) -> tuple[Tensor, MnmState, Tensor]:
        memory = ReversibleMemory if torch.is_grad_enabled() else PlainMemory
        outputs, state, meta_loss = self.core.scan(inputs, state, episode_starts, memory)
        return outputs, state, meta_loss


def _defining(kind: type[Any], method: str) -> type[Any]:
    """The class that a class has a method from."""
    return next(base for base in kind.__mro__ if method in vars(base))

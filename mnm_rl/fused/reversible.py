"""MNM in plain PyTorch without keeping fast weights: on any device, in any dtype, with any write rule, heads and replay."""

from typing import Any

import torch
from torch import Tensor

from mnm_rl.cores.implementations import Implementation
from mnm_rl.cores.mnm import MnmState
from mnm_rl.memory import PlainMemory, ReversibleMemory


class Reversible(Implementation[MnmState]):
    """The core's own scan with a memory that undoes its writes on the way back."""

    name = "reversible"
    core: Any

    def sequence(self, inputs: Tensor, state: MnmState, episode_starts: Tensor) -> tuple[Tensor, MnmState, Tensor]:
        memory = ReversibleMemory if torch.is_grad_enabled() else PlainMemory
        outputs, state, meta_loss = self.core.scan(inputs, state, episode_starts, memory)
        return outputs, state, meta_loss

"""A memory in use: fast weights that one sequence of writes changes. Here as plain PyTorch has
it."""

from typing import Protocol

import torch
from torch import Tensor

from mnm_rl.memory.adjoint import Kept, write_and_read
from mnm_rl.memory.neural_memory import NeuralMemory


class RunningMemory(Protocol):
    """What a sequence does with its fast weights: made from the memory and ``theta [B, L, D, D]``
    before the first step.

    Attributes:
        last: what the last write and read came from.
    """

    last: Kept

    def __init__(self, memory: NeuralMemory, theta: Tensor) -> None: ...

    def reset(self, starts: Tensor) -> None:
        """Back to ``theta_0`` where ``starts [B]`` is true; the other environments stay
        bit-identical."""

    def write_and_read(
        self,
        keys: Tensor,
        values: Tensor,
        beta: Tensor,
        read_keys: Tensor,
        alpha: Tensor | None = None,
    ) -> Tensor:
        """Write ``keys -> values`` (``[B, H, D]`` each) with strength ``beta [B]``, keep the share
        ``alpha [B]`` of the fast weights, all of them if None, then read: ``[B, N, D]`` to ``[B, N,
        D]``."""

    def theta(self) -> Tensor:
        """The fast weights as they are now, ``[B, L, D, D]``."""


class PlainMemory:
    """A :class:`RunningMemory` that autograd differentiates, keeping the fast weights of every
    step."""

    def __init__(self, memory: NeuralMemory, theta: Tensor) -> None:
        self._memory, self._theta = memory, theta.unbind(1)

    def reset(self, starts: Tensor) -> None:
        self._theta = self._memory.reset(self._theta, starts)

    def write_and_read(
        self,
        keys: Tensor,
        values: Tensor,
        beta: Tensor,
        read_keys: Tensor,
        alpha: Tensor | None = None,
    ) -> Tensor:
        keys, targets, beta = self._memory.prepare_write(keys, values, beta)
        rule = self._memory.rule
        read_keys = rule.normalize(read_keys)
        self._theta, read, self.last = write_and_read(
            rule, self._theta, keys, targets, beta, read_keys, alpha
        )
        return read

    def theta(self) -> Tensor:
        return torch.stack(self._theta, dim=1)

"""What a write rule is."""

from abc import ABC, abstractmethod
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from mnm_rl.memory.function import FastWeights


class WriteRule(nn.Module, ABC):
    """What a write stores, and how strongly: the factors of
    ``W^l_t = W^l_(t-1) - s^l * sum_h delta^l_h (z^(l-1)_h)^T``.

    A rule gives the error signals :meth:`deltas` and the step sizes :meth:`step_sizes`, each with
    its adjoint; autograd differentiates the rest.

    Args:
        size: width ``D`` of keys, values and every layer.
        layers: number of layers ``L``.
        bounded: whether keys have norm one, and ``beta`` is the share of its error that a write
            removes; if False, keys are as they are and ``s = 2/(H D) * beta``, the step of the
            paper.

    Raises:
        ValueError: if the rule is not for memories of so many layers.
    """

    gated: ClassVar[bool] = False
    """Whether every write leaves only a share ``alpha`` of the fast weights, which the core has to
    give."""
    options: ClassVar[tuple[str, ...]] = ()
    """The arguments of :class:`~mnm_rl.memory.NeuralMemory` that the constructor takes as well."""

    def __init__(self, size: int, layers: int, bounded: bool = True) -> None:
        super().__init__()
        self.size, self.layers, self.bounded = size, layers, bounded

    def normalize(self, keys: Tensor) -> Tensor:
        """The keys ``[B, N, D]`` that the memory function is run on, for writing and for
        reading."""
        return normalize(keys, dim=-1) if self.bounded else keys

    def targets(self, keys: Tensor, values: Tensor) -> Tensor:
        """What the layers should have given for the written keys ``[B, H, D]``; here ``[B, H, 1,
        D]``, the values themselves."""
        return values.unsqueeze(2)

    def step_sizes(self, beta: Tensor, z: list[Tensor], deltas: list[Tensor]) -> Tensor:
        """``s^1 ... s^L``, ``[B, L]``, of a write of strength ``beta [B]``.

        Bounded, ``s^l = beta / N^l`` with ``N^l = max(H, sum_h |z^(l-1)_h|^2)``: layer ``l`` comes
        nearer to its target by the share ``beta``, or less, whatever its inputs are.

        The step sizes are linear in ``beta``. The kernels rely on this: they multiply by ``beta``
        at the end, and by nothing else in the gradient with respect to ``beta``.

        Args:
            beta: write strength, ``[B]``.
            z: activations ``z^0 ... z^L`` of the written keys, each ``[B, H, D]``.
            deltas: ``delta^1 ... delta^L``, each ``[B, H, D]``.
        """
        if self.bounded:
            return beta.unsqueeze(1) / power(z)
        heads = z[0].shape[1]
        return (2 / (heads * self.size) * beta).unsqueeze(1).expand(-1, self.layers)

    def step_sizes_backward(
        self,
        beta: Tensor,
        z: list[Tensor],
        g_z: list[Tensor],
        deltas: list[Tensor],
        g_deltas: list[Tensor],
        g_step_sizes: Tensor,
    ) -> Tensor:
        """Back through :meth:`step_sizes`, given the gradient with respect to what it returned,
        ``[B, L]``.

        What the step sizes owe to activations and error signals is added to ``g_z`` (of ``z^0 ...
        z^L``) and ``g_deltas``, by putting new tensors into these lists.

        Returns:
            The gradient with respect to ``beta``, ``[B]``.
        """
        if not self.bounded:
            return 2 / (z[0].shape[1] * self.size) * g_step_sizes.sum(dim=1)
        N = power(z)
        add_power_backward(g_z, z, N, -g_step_sizes * beta.unsqueeze(1) / N**2)
        return (g_step_sizes / N).sum(dim=1)

    @abstractmethod
    def deltas(self, theta: FastWeights, z: list[Tensor], targets: Tensor) -> list[Tensor]:
        """The error signals.

        Args:
            theta: fast weights before the write, each ``[B, D, D]``.
            z: activations ``z^0 ... z^L`` of the written keys, each ``[B, H, D]``.
            targets: from :meth:`targets`.

        Returns:
            ``delta^1 ... delta^L``, each ``[B, H, D]``.
        """

    @abstractmethod
    def deltas_backward(
        self,
        theta: FastWeights,
        G: list[Tensor],
        z: list[Tensor],
        g_z: list[Tensor],
        deltas: list[Tensor],
        g_deltas: list[Tensor],
    ) -> Tensor:
        """Back through :meth:`deltas`, given the gradient ``g_deltas`` with respect to what it
        returned.

        What the deltas owe to theta and z is added to ``G`` (``[B, D, D]`` for every layer) and
        ``g_z`` (of ``z^0 ... z^L``), by putting new tensors into these lists.

        Returns:
            The gradient with respect to the targets.
        """


def power(z: list[Tensor]) -> Tensor:
    """``N^1 ... N^L``, ``[B, L]``: of the inputs of each layer, ``N^l = max(H, sum_h
    |z^(l-1)_h|^2)``.

    It bounds what a write does: ``sum_h delta_h (z_h . z)`` of any of its keys is at most ``N``
    times the largest error, so that a step of ``1 / N`` does not overshoot, whatever the heads
    write. Keys have norm one, so ``N^1 = H``.
    """
    heads = z[0].shape[1]
    hidden = [x.square().sum(dim=(1, 2)).clamp(min=heads) for x in z[1:-1]]
    return torch.stack([torch.full_like(z[0][:, 0, 0], heads), *hidden], dim=1)


def add_power_backward(g_z: list[Tensor], z: list[Tensor], N: Tensor, g_N: Tensor) -> None:
    """Back through :func:`power`, given the gradient with respect to it: adds to ``g_z``."""
    g_squares = torch.where(z[0].shape[1] < N, g_N, 0)
    for l in range(1, len(z) - 1):
        g_z[l] = g_z[l] + 2 * g_squares[:, l].view(-1, 1, 1) * z[l]

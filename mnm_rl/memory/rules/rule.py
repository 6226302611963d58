"""What a write rule is."""

from abc import ABC, abstractmethod
from typing import Literal

from torch import Tensor, nn

from mnm_rl.initialization import Init
from mnm_rl.memory.function import FastWeights

FeedbackInputs = Literal["value", "key_value"]


class WriteRule(nn.Module, ABC):
    """What a write stores, and how strongly: the factors of ``W^l_t = W^l_(t-1) - s * sum_h delta^l_h (z^(l-1)_h)^T``.

    A rule gives the error signals :meth:`deltas` and their adjoint :meth:`deltas_backward`; autograd differentiates the rest.

    Args:
        size: width ``D`` of keys, values and every layer.
        layers: number of layers ``L``.
        feedback_inputs: what a rule that feeds values back into the layers sees of a write.
        init: how a rule with parameters of its own initializes them.

    Raises:
        ValueError: if the rule is not for memories of so many layers.
    """

    def __init__(self, size: int, layers: int, feedback_inputs: FeedbackInputs, init: Init) -> None:
        super().__init__()
        self.size, self.layers = size, layers

    def normalize(self, keys: Tensor) -> Tensor:
        """The keys ``[B, N, D]`` that the memory function is run on, for writing and for reading; here, as they are."""
        return keys

    def targets(self, keys: Tensor, values: Tensor) -> Tensor:
        """What the layers should have given for the written keys ``[B, H, D]``; here ``[B, H, 1, D]``, the values themselves."""
        return values.unsqueeze(2)

    def step_size(self, beta: Tensor, heads: int) -> Tensor:
        """``s``, ``[B]``, of a write of strength ``beta [B]``; here ``2/(H D) * beta``, of the gradient of the recall loss."""
        return 2 / (heads * self.size) * beta

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
        self, theta: FastWeights, G: list[Tensor], z: list[Tensor], g_z: list[Tensor], deltas: list[Tensor], g_deltas: list[Tensor]
    ) -> Tensor:
        """Back through :meth:`deltas`, given the gradient ``g_deltas`` with respect to what it returned.

        What the deltas owe to theta and z is added to ``G`` (``[B, D, D]`` for every layer) and ``g_z`` (of ``z^0 ... z^L``), by
        putting new tensors into these lists.

        Returns:
            The gradient with respect to the targets.
        """

"""Rule p: the perceptron rule of every layer, with learned targets (Munkhdalai et al. 2019,
MNM-p)."""

from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from mnm_rl.initialization import Init
from mnm_rl.memory.function import FastWeights
from mnm_rl.memory.rules.rule import WriteRule

FeedbackInputs = Literal["value", "key_value"]


class LocalRule(WriteRule):
    """Each layer's distance to its own fed-back target: ``delta^l = z^l - zhat^l``, ``zhat^l = Q^l
    v^w + q^l``.

    With ``bounded``, the targets of hidden layers are ``zhat^l = tanh(Q^l v^w + q^l)``: one that
    ``z^l``, which is a tanh, cannot reach would let the fast weights grow with every write.

    Args:
        size: width ``D`` of keys, values and every layer.
        layers: number of layers ``L``.
        bounded: as for every rule.
        init: with ``"scaled"``, ``Q^L = I`` and the rest is 0.
        feedback_inputs: with ``"key_value"``, the maps ``Q^l`` see ``[v^w; k^w]``.

    Attributes:
        feedback: ``Q^l`` and ``q^l`` of every layer, in one linear map.
    """

    options: ClassVar[tuple[str, ...]] = ("init", "feedback_inputs")

    def __init__(
        self,
        size: int,
        layers: int,
        bounded: bool = True,
        init: Init = "scaled",
        feedback_inputs: FeedbackInputs = "value",
    ) -> None:
        super().__init__(size, layers, bounded)
        self.feedback_inputs = feedback_inputs
        self.feedback = nn.Linear(
            size * (2 if feedback_inputs == "key_value" else 1), layers * size
        )
        if init == "scaled":
            nn.init.zeros_(self.feedback.weight)
            nn.init.zeros_(self.feedback.bias)
            nn.init.eye_(self.feedback.weight.data[-size:, :size])

    def targets(self, keys: Tensor, values: Tensor) -> Tensor:
        """``zhat^1 ... zhat^L``, ``[B, H, L, D]``."""
        inputs = (
            torch.cat([values, keys], dim=-1) if self.feedback_inputs == "key_value" else values
        )
        targets: Tensor = self.feedback(inputs)
        targets = targets.view(*values.shape[:2], self.layers, self.size)
        if not self.bounded:
            return targets
        return torch.cat([targets[:, :, :-1].tanh(), targets[:, :, -1:]], dim=2)

    def deltas(self, theta: FastWeights, z: list[Tensor], targets: Tensor) -> list[Tensor]:
        return [z_l - zhat for z_l, zhat in zip(z[1:], targets.unbind(2), strict=True)]

    def deltas_backward(
        self,
        theta: FastWeights,
        G: list[Tensor],
        z: list[Tensor],
        g_z: list[Tensor],
        deltas: list[Tensor],
        g_deltas: list[Tensor],
    ) -> Tensor:
        g_z[1:] = [g_z_l + g for g_z_l, g in zip(g_z[1:], g_deltas, strict=True)]
        return -torch.stack(g_deltas, dim=2)

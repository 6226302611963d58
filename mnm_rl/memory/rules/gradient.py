"""Rule g: a gradient step on the recall loss (Munkhdalai et al. 2019, MNM-g)."""

from torch import Tensor, baddbmm

from mnm_rl.memory.function import FastWeights
from mnm_rl.memory.rules.rule import WriteRule


class GradientRule(WriteRule):
    """Backpropagation of ``1/2 |z^L - v|^2`` in closed form, so that writing needs no autograd:

    ``delta^L = z^L - v``, ``delta^l = q^l * (1 - (z^l)^2)`` with ``q^l = (W^(l+1))^T delta^(l+1)``.
    """

    def deltas(self, theta: FastWeights, z: list[Tensor], targets: Tensor) -> list[Tensor]:
        deltas = [z[-1] - targets.squeeze(2)]
        for W, z_l in zip(theta[:0:-1], z[-2:0:-1], strict=True):  # W^(l+1) and z^l, for l = L-1 down to 1
            deltas.insert(0, (deltas[0] @ W) * (1 - z_l**2))
        return deltas

    def deltas_backward(
        self, theta: FastWeights, G: list[Tensor], z: list[Tensor], g_z: list[Tensor], deltas: list[Tensor], g_deltas: list[Tensor]
    ) -> Tensor:
        g = g_deltas[0]
        for l in range(1, len(theta)):  # lists of layers begin with layer 1: theta[l] is W^(l+1), deltas[l] is delta^(l+1)
            q, g_q = deltas[l] @ theta[l], g * (1 - z[l] ** 2)
            g_z[l] = g_z[l] - 2 * g * q * z[l]
            G[l] = baddbmm(G[l], deltas[l].mT, g_q)
            g = g_deltas[l] + g_q @ theta[l].mT
        g_z[-1] = g_z[-1] + g
        return -g.unsqueeze(2)

"""Rule g: a gradient step on the recall loss (Munkhdalai et al. 2019, MNM-g)."""

import torch
from torch import Tensor, baddbmm

from mnm_rl.memory.function import FastWeights
from mnm_rl.memory.rules.rule import WriteRule, add_power_backward, power


class GradientRule(WriteRule):
    """Backpropagation of ``1/2 |z^L - v|^2`` in closed form, so that writing needs no autograd:

    ``delta^L = z^L - v``, ``delta^l = q^l * (1 - (z^l)^2)`` with ``q^l = (W^(l+1))^T delta^(l+1)``.
    """

    def step_sizes(self, beta: Tensor, z: list[Tensor], deltas: list[Tensor]) -> Tensor:
        """Bounded, one step size for all layers, ``s = beta E^L / sum_l E^l N^l`` with ``E^l =
        sum_h |delta^l_h|^2``: the step after which a linear memory would have lost the share
        ``beta`` of its error (Polyak 1987), or less."""
        if not self.bounded:
            return super().step_sizes(beta, z, deltas)
        E, N = _energy(deltas), power(z)
        return (beta * E[:, -1] / _total(E, N)).unsqueeze(1).expand(-1, self.layers)

    def step_sizes_backward(
        self,
        beta: Tensor,
        z: list[Tensor],
        g_z: list[Tensor],
        deltas: list[Tensor],
        g_deltas: list[Tensor],
        g_step_sizes: Tensor,
    ) -> Tensor:
        if not self.bounded:
            return super().step_sizes_backward(beta, z, g_z, deltas, g_deltas, g_step_sizes)
        E, N = _energy(deltas), power(z)
        total = _total(E, N)
        share = E[:, -1] / total
        g_share = g_step_sizes.sum(dim=1) * beta
        g_total = (-g_share * share / total).unsqueeze(1)
        g_E = g_total * N
        g_E[:, -1] += g_share / total
        add_power_backward(g_z, z, N, g_total * E)
        for l, delta in enumerate(deltas):
            g_deltas[l] = g_deltas[l] + 2 * g_E[:, l].view(-1, 1, 1) * delta
        return g_step_sizes.sum(dim=1) * share

    def deltas(self, theta: FastWeights, z: list[Tensor], targets: Tensor) -> list[Tensor]:
        deltas = [z[-1] - targets.squeeze(2)]
        # W^(l+1) and z^l, for l = L-1 down to 1
        for W, z_l in zip(theta[:0:-1], z[-2:0:-1], strict=True):
            deltas.insert(0, (deltas[0] @ W) * (1 - z_l**2))
        return deltas

    def deltas_backward(
        self,
        theta: FastWeights,
        G: list[Tensor],
        z: list[Tensor],
        g_z: list[Tensor],
        deltas: list[Tensor],
        g_deltas: list[Tensor],
    ) -> Tensor:
        g = g_deltas[0]
        # lists of layers begin with layer 1: theta[l] is W^(l+1), deltas[l] is delta^(l+1)
        for l in range(1, len(theta)):
            q, g_q = deltas[l] @ theta[l], g * (1 - z[l] ** 2)
            g_z[l] = g_z[l] - 2 * g * q * z[l]
            G[l] = baddbmm(G[l], deltas[l].mT, g_q)
            g = g_deltas[l] + g_q @ theta[l].mT
        g_z[-1] = g_z[-1] + g
        return -g.unsqueeze(2)


def _energy(deltas: list[Tensor]) -> Tensor:
    """``E^1 ... E^L``, ``[B, L]``."""
    return torch.stack([delta.square().sum(dim=(1, 2)) for delta in deltas], dim=1)


def _total(E: Tensor, N: Tensor) -> Tensor:
    """``sum_l E^l N^l``, ``[B]``; not zero where there is no error, and nothing to be written."""
    return (E * N).sum(dim=1).clamp(min=torch.finfo(E.dtype).tiny ** 0.5)

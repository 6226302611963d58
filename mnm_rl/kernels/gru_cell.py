"""One step of a GRU cell for one environment, forward and backward, as Numba kernels."""

import torch
from torch import Tensor

from mnm_rl.kernels.arena import Array
from mnm_rl.kernels.padding import (
    CellParameters,
    CellWeights,
    gather,
    gather_inputs,
    gather_rows,
    spread,
    spread_inputs,
    spread_rows,
)
from mnm_rl.kernels.simd import inlined, padded, sigmoid_, tanh_

R, Z, N, U = range(4)
"""Reset, update, new, and what of the new comes from the hidden state, before it is reset; each at
``[k P : (k + 1) P]``."""


@inlined
def gru_cell(gates: Array, h: Array) -> None:
    """``gates [4P]`` before and after their nonlinearities, ``h`` before and after the step."""
    P = h.shape[0]
    sigmoid_(gates[: N * P])
    for k in range(P):
        gates[N * P + k] += gates[R * P + k] * gates[U * P + k]
    tanh_(gates[N * P : U * P])
    for k in range(P):
        n = gates[N * P + k]
        h[k] = n + gates[Z * P + k] * (h[k] - n)


@inlined
def gru_cell_backward(gates: Array, h: Array, gh: Array, g: Array) -> None:
    """Back through :func:`gru_cell`: ``h`` before the step; ``gh``, in: after the step, out: before
    it, without what goes through the gates; ``g``, with respect to the gates, is filled in."""
    P = h.shape[0]
    one = h.dtype.type(1)
    for k in range(P):
        r, z, n, u = gates[R * P + k], gates[Z * P + k], gates[N * P + k], gates[U * P + k]
        g_n = gh[k] * (one - z) * (one - n * n)
        g[R * P + k] = g_n * u * r * (one - r)
        g[Z * P + k] = gh[k] * (h[k] - n) * z * (one - z)
        g[N * P + k] = g_n
        g[U * P + k] = g_n * r
        gh[k] *= z


def pack_gru(parameters: CellParameters, F: int) -> CellWeights:
    """PyTorch's parameters in the layout of the kernels; the first F inputs are x."""
    weight_ih, weight_hh, bias_ih, bias_hh = parameters
    D = weight_hh.shape[1]
    P = padded(D)
    from_x, from_v = (
        torch.cat([part, torch.zeros_like(part[:P])]) for part in spread_inputs(weight_ih, 3, D, F)
    )
    from_h, b_x, b_h = (
        spread(weight_hh, 3, D, 1, D),
        spread_rows(bias_ih, 3, D),
        spread_rows(bias_hh, 3, D),
    )
    from_h = torch.cat([from_h[: N * P], torch.zeros_like(from_h[:P]), from_h[N * P :]])
    back = torch.cat([from_v, from_h], dim=1)
    gates = torch.cat([from_x, back], dim=1).T.contiguous()
    bias = torch.cat([b_x[: N * P] + b_h[: N * P], b_x[N * P :], b_h[N * P :]])
    return CellWeights(gates.numpy(), back.numpy(), bias.numpy())


def unpack_gru(weight: Tensor, bias: Tensor, D: int, F: int, M: int) -> CellParameters:
    """The gradients with respect to PyTorch's parameters, of those with respect to the gates'
    ``[4P, F + K + P]`` and ``[4P]``."""
    P, before = padded(D), F + padded(M)

    def of_h(rows: Tensor) -> Tensor:
        return torch.cat([rows[: N * P], rows[U * P :]])

    return (
        gather_inputs(weight[: U * P, :before], 3, D, F, M),
        gather(of_h(weight[:, before:]), 3, D, 1, D),
        gather_rows(bias[: U * P], 3, D),
        gather_rows(of_h(bias), 3, D),
    )

"""One step of an LSTM cell for one environment, forward and backward, as Numba kernels."""

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

I, F, N, O = range(4)
"""The gates in PyTorch's order: input, forget, new cell, output; gate k is at ``[k P : (k + 1)
P]``."""


@inlined
def lstm_cell(gates: Array, c: Array, h: Array) -> None:
    """``gates [4P]`` before and after their nonlinearities, ``c`` before and after the step, ``h``
    after it."""
    P = c.shape[0]
    sigmoid_(gates[I * P : (F + 1) * P])
    tanh_(gates[N * P : (N + 1) * P])
    sigmoid_(gates[O * P :])
    for k in range(P):
        c[k] = gates[F * P + k] * c[k] + gates[I * P + k] * gates[N * P + k]
        h[k] = c[k]
    tanh_(h)
    for k in range(P):
        h[k] *= gates[O * P + k]


@inlined
def lstm_cell_backward(gates: Array, c: Array, gh: Array, gc: Array, g: Array) -> None:
    """Back through :func:`lstm_cell`: ``c`` before the step; ``gc`` with respect to the cell, in:
    after the step, out: before it; ``g``, with respect to the gates, is filled in."""
    P = c.shape[0]
    one = c.dtype.type(1)
    tanh_c = g[:P]
    for k in range(P):
        tanh_c[k] = gates[F * P + k] * c[k] + gates[I * P + k] * gates[N * P + k]
    tanh_(tanh_c)
    for k in range(P):
        i, f, n, o, t = (
            gates[I * P + k],
            gates[F * P + k],
            gates[N * P + k],
            gates[O * P + k],
            tanh_c[k],
        )
        gc_k = gc[k] + gh[k] * o * (one - t * t)
        g[I * P + k] = gc_k * n * i * (one - i)
        g[F * P + k] = gc_k * c[k] * f * (one - f)
        g[N * P + k] = gc_k * i * (one - n * n)
        g[O * P + k] = gh[k] * t * o * (one - o)
        gc[k] = gc_k * f


def pack_lstm(parameters: CellParameters, F: int) -> CellWeights:
    """PyTorch's parameters in the layout of the kernels; the first F inputs are x."""
    weight_ih, weight_hh, bias_ih, bias_hh = parameters
    D = weight_hh.shape[1]
    from_x, from_v = spread_inputs(weight_ih, 4, D, F)
    back = torch.cat([from_v, spread(weight_hh, 4, D, 1, D)], dim=1)
    gates = torch.cat([from_x, back], dim=1).T.contiguous()
    return CellWeights(gates.numpy(), back.numpy(), spread_rows(bias_ih + bias_hh, 4, D).numpy())


def unpack_lstm(weight: Tensor, bias: Tensor, D: int, F: int, M: int) -> CellParameters:
    """The gradients with respect to PyTorch's parameters, of those with respect to the gates'
    ``[4P, F + K + P]`` and ``[4P]``."""
    before = F + padded(M)
    of_both = gather_rows(bias, 4, D)
    weight_ih = gather_inputs(weight[:, :before], 4, D, F, M)
    return weight_ih, gather(weight[:, before:], 4, D, 1, D), of_both, of_both

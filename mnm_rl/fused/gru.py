"""A whole sequence of a GRU core as one differentiable operation, four environments at a time."""

from typing import Any, NamedTuple

import torch
from torch import Tensor

from mnm_rl.cores.gru import GruCore, GruState
from mnm_rl.fused.arena import Array
from mnm_rl.fused.gated import GatedTrace, Weights
from mnm_rl.fused.padding import gather, gather_rows, spread, spread_rows
from mnm_rl.fused.simd import ROWS, add_product, copy_, fill_, inlined, padded, sigmoid_, tanh_
from mnm_rl.fused.trace import FusedCore

R, Z, N, U = range(4)
"""Reset, update, new, and what of the new comes from the hidden state, before it is reset; each at ``[k P : (k + 1) P]``."""


class Kept(NamedTuple):
    """What the forward pass leaves for the backward pass, time first."""

    x: Array
    """``[x_t; h_(t-1)]``, ``[T, B, F + P]``."""
    gates: Array
    """``[T, B, 4P]``."""
    out: Array
    """``h_t``, ``[T, B, P]``."""


class Working(NamedTuple):
    """The state, changed in place, or the gradient with respect to it: ``[B, P]``."""

    h: Array


@inlined
def gru_cell(gates: Any, h: Any) -> None:
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
def gru_cell_backward(gates: Any, h: Any, gh: Any, g: Any) -> None:
    """Back through :func:`gru_cell`: ``h`` before the step; ``gh``, in: after the step, out: before it, without what goes through
    the gates; ``g``, with respect to the gates, is filled in."""
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


@inlined
def _forward(first: int, last: int, t0: int, t1: int, starts: Any, weights: Any, state: Any, trace: Any) -> None:
    """Steps t0 to t1 of the fours of environments from first to last."""
    h = state.h
    B, P = h.shape
    F = trace.x.shape[2] - P
    zero = h.dtype.type(0)
    for b0 in range(ROWS * first, ROWS * last, ROWS):
        b1 = min(b0 + ROWS, B)
        for t in range(t0, t1):
            for b in range(b0, b1):
                if starts[t, b]:
                    fill_(h[b], zero)
                copy_(trace.x[t, b, F:], h[b])
                copy_(trace.gates[t, b], weights.bias)
            add_product(trace.gates[t, b0:b1], trace.x[t, b0:b1], weights.gates)
            for b in range(b0, b1):
                gru_cell(trace.gates[t, b], h[b])
                copy_(trace.out[t, b], h[b])


@inlined
def _backward(first: int, last: int, starts: Any, weights: Any, trace: Any, g_out: Any, g_gates: Any, g: Any) -> None:
    """Back through :func:`_forward`; ``g`` (:class:`Working`) is after the last step, and before the first in the end."""
    g_h = g.h
    T, B = starts.shape
    P = g_h.shape[1]
    F = trace.x.shape[2] - P
    zero = g_h.dtype.type(0)
    for b0 in range(ROWS * first, ROWS * last, ROWS):
        b1 = min(b0 + ROWS, B)
        for t in range(T - 1, -1, -1):
            for b in range(b0, b1):
                for i in range(P):
                    g_h[b, i] += g_out[t, b, i]
                gru_cell_backward(trace.gates[t, b], trace.x[t, b, F:], g_h[b], g_gates[t, b])
            add_product(g_h[b0:b1], g_gates[t, b0:b1], weights.gates_back)
            for b in range(b0, b1):
                if starts[t, b]:
                    fill_(g_h[b], zero)


class GruTrace(GatedTrace[GruState]):
    """Steps of a GRU core."""

    carried = 1
    working = Working
    keeping = Kept
    forward_kernel = staticmethod(_forward)
    backward_kernel = staticmethod(_backward)

    @staticmethod
    def pack(core: GruCore, parameters: tuple[Tensor, ...]) -> Weights:
        weight_ih, weight_hh, bias_ih, bias_hh = parameters
        D = core.hidden_size
        from_x, from_h = spread_rows(weight_ih, 3, D), spread(weight_hh, 3, D, 1, D)
        b_x, b_h = spread_rows(bias_ih, 3, D), spread_rows(bias_hh, 3, D)
        P = padded(D)
        back = torch.cat([from_h[: N * P], torch.zeros_like(from_h[:P]), from_h[N * P :]])
        gates = torch.cat([torch.cat([from_x, torch.zeros_like(from_x[:P])]), back], dim=1).T.contiguous()
        bias = torch.cat([b_x[: N * P] + b_h[: N * P], b_x[N * P :], b_h[N * P :]])
        return Weights(gates.numpy(), back.numpy(), bias.numpy())

    def unpack(self, weight: Tensor, bias: Tensor) -> tuple[Tensor, ...]:
        D, F, P = self.D, self.F, padded(self.D)

        def of_h(rows: Tensor) -> Tensor:
            return torch.cat([rows[: N * P], rows[U * P :]])

        return (
            gather_rows(weight[: U * P, :F], 3, D),
            gather(of_h(weight[:, F:]), 3, D, 1, D),
            gather_rows(bias[: U * P], 3, D),
            gather_rows(of_h(bias), 3, D),
        )


class Fused(FusedCore[GruState]):
    """GRU by kernels."""

    trace_class = GruTrace

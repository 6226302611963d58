"""A whole sequence of an LSTM core as one differentiable operation, four environments at a time."""

from typing import Any, NamedTuple

import torch
from torch import Tensor

from mnm_rl.cores.lstm import LstmCore, LstmState
from mnm_rl.fused.arena import Array, zeros
from mnm_rl.fused.lstm_cell import lstm_cell, lstm_cell_backward
from mnm_rl.fused.padding import array, gather, gather_rows, spread, spread_rows
from mnm_rl.fused.parallel import run
from mnm_rl.fused.simd import ROWS, add_product, copy_, fill_, fours, inlined, padded
from mnm_rl.fused.trace import FusedCore, FusedTrace


class Weights(NamedTuple):
    gates: Array
    """From ``[x; h]``: ``[F + P, 4P]``."""
    gates_back: Array
    """To ``h``: ``[4P, P]``."""
    bias: Array


class Kept(NamedTuple):
    """What the forward pass leaves for the backward pass, time first."""

    x: Array
    """``[x_t; h_(t-1)]``, ``[T, B, F + P]``."""
    c: Array
    """``c_(t-1)``, ``[T, B, P]``."""
    gates: Array
    """``[T, B, 4P]``."""
    out: Array
    """``h_t``, ``[T, B, P]``."""


class Working(NamedTuple):
    """The state, changed in place, or the gradient with respect to it: ``[B, P]``."""

    h: Array
    c: Array


@inlined
def _forward(first: int, last: int, t0: int, t1: int, starts: Any, weights: Any, state: Any, trace: Any) -> None:
    """Steps t0 to t1 of the fours of environments from first to last."""
    h, c = state.h, state.c
    B, P = starts.shape[1], h.shape[1]
    F = trace.x.shape[2] - P
    zero = h.dtype.type(0)
    for b0 in range(ROWS * first, ROWS * last, ROWS):
        b1 = min(b0 + ROWS, B)
        for t in range(t0, t1):
            for b in range(b0, b1):
                if starts[t, b]:
                    fill_(h[b], zero)
                    fill_(c[b], zero)
                copy_(trace.x[t, b, F:], h[b])
                copy_(trace.c[t, b], c[b])
                copy_(trace.gates[t, b], weights.bias)
            add_product(trace.gates[t, b0:b1], trace.x[t, b0:b1], weights.gates)
            for b in range(b0, b1):
                lstm_cell(trace.gates[t, b], c[b], h[b])
                copy_(trace.out[t, b], h[b])


@inlined
def _backward(first: int, last: int, starts: Any, weights: Any, trace: Any, g_out: Any, g_gates: Any, g: Any) -> None:
    """Back through :func:`_forward`; ``g`` (:class:`Working`) is after the last step, and before the first in the end."""
    T, B = starts.shape
    zero = g.h.dtype.type(0)
    for b0 in range(ROWS * first, ROWS * last, ROWS):
        b1 = min(b0 + ROWS, B)
        for t in range(T - 1, -1, -1):
            for b in range(b0, b1):
                for i in range(g.h.shape[1]):
                    g.h[b, i] += g_out[t, b, i]
                lstm_cell_backward(trace.gates[t, b], trace.c[t, b], g.h[b], g.c[b], g_gates[t, b])
                fill_(g.h[b], zero)
            add_product(g.h[b0:b1], g_gates[t, b0:b1], weights.gates_back)
            for b in range(b0, b1):
                if starts[t, b]:
                    fill_(g.h[b], zero)
                    fill_(g.c[b], zero)


class LstmTrace(FusedTrace[LstmState]):
    """Steps of an LSTM core, see :class:`~mnm_rl.fused.trace.FusedTrace`."""

    carried = 2
    core: LstmCore

    @staticmethod
    def parameters_of(core: LstmCore) -> tuple[Tensor, ...]:
        cell = core.cell
        return cell.weight_ih, cell.weight_hh, cell.bias_ih, cell.bias_hh

    @staticmethod
    def pack(core: LstmCore, parameters: tuple[Tensor, ...]) -> Weights:
        weight_ih, weight_hh, bias_ih, bias_hh = parameters
        D = core.hidden_size
        back = spread(weight_hh, 4, 1, D)
        gates = torch.cat([spread_rows(weight_ih, 4, D), back], dim=1).T.contiguous()
        return Weights(gates.numpy(), back.numpy(), spread_rows(bias_ih + bias_hh, 4, D).numpy())

    def __init__(self, implementation: FusedCore[LstmState], state: LstmState, steps: int) -> None:
        super().__init__(implementation, state, steps)
        B, P, dtype = self.B, padded(self.D), self.dtype
        self.F = self.core.cell.input_size
        self.now = Working(array(state.h, (B, P), dtype), array(state.c, (B, P), dtype))
        self.kept = Kept(
            x=self.room("x", steps, B, self.F + P),
            c=self.room("c", steps, B, P),
            gates=self.room("gates", steps, B, 4 * P),
            out=zeros((steps, B, P), dtype),  # others may have it
        )
        self.x = self.kept.x

    def working_state(self) -> tuple[Tensor, ...]:
        return tuple(torch.from_numpy(row)[:, : self.D] for row in self.now)

    def run_kernels(self, t0: int, t1: int) -> Tensor:
        starts, least = self.episode_starts, 32 // (t1 - t0)
        run(_forward, fours(self.B), t0, t1, starts, self.weights, self.now, self.kept, least=least)
        return torch.from_numpy(self.kept.out[t0:t1])

    def outputs(self, raw: Tensor) -> Tensor:
        return raw[..., : self.D]

    def results(self) -> tuple[Tensor | None, ...]:
        return torch.from_numpy(self.kept.out), None, *self.working_state()

    def gradients(self, inputs: bool, *given: Tensor | None) -> tuple[Tensor | None, ...]:
        g_out, _, g_h, g_c = given
        trace, D, F, dtype = self.kept, self.D, self.F, self.dtype
        g = Working(array(g_h, self.now.h.shape, dtype), array(g_c, self.now.c.shape, dtype))
        g_gates = self.room("g_gates", *trace.gates.shape)
        out = array(g_out, trace.out.shape, dtype)
        run(_backward, fours(self.B), self.episode_starts, self.weights, trace, out, g_gates, g)
        gates = torch.from_numpy(g_gates).flatten(0, 1)
        weight, bias = gates.T @ torch.from_numpy(trace.x).flatten(0, 1), gather_rows(gates.sum(0), 4, D)
        g_inputs = None
        if inputs:
            g_inputs = (gates @ torch.from_numpy(self.weights.gates[:F]).T).view(*trace.x.shape[:2], F)
        state = (torch.from_numpy(row)[:, :D] for row in g)
        return g_inputs, *state, gather_rows(weight[:, :F], 4, D), gather(weight[:, F:], 4, 1, D), bias, bias


class Fused(FusedCore[LstmState]):
    """LSTM by kernels."""

    trace_class = LstmTrace

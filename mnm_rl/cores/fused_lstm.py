"""A whole sequence of an LSTM core as one differentiable operation, four environments at a time."""

from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from mnm_rl.cores.core import Recording
from mnm_rl.cores.fused import (
    Array,
    FusedRecording,
    array,
    gather,
    gather_rows,
    lstm_cell,
    lstm_cell_backward,
    spread,
    spread_rows,
)
from mnm_rl.cores.recurrent import LstmCore, LstmState
from mnm_rl.parallel import run
from mnm_rl.simd import ROWS, add_product, kernel, padded


class Weights(NamedTuple):
    gates: Array
    """From ``[x; h]``: ``[F + P, 4P]``."""
    gates_back: Array
    """To ``h``: ``[4P, P]``."""
    bias: Array


class Trace(NamedTuple):
    """What the forward pass leaves for the backward pass, time first; the batch is padded to a multiple of ``ROWS``."""

    x: Array
    """``[x_t; h_(t-1)]``, ``[T, B, F + P]``."""
    c: Array
    """``c_(t-1)``, ``[T, B, P]``."""
    gates: Array
    """``[T, B, 4P]``."""
    out: Array
    """``h_t``, ``[T, B, P]``."""


@kernel
def _forward(first: int, last: int, t0: int, t1: int, starts: Any, weights: Any, h: Any, c: Any, trace: Any) -> None:
    """Steps t0 to t1 of the fours of environments from first to last."""
    B, P = starts.shape[1], h.shape[1]
    F = trace.x.shape[2] - P
    zero = h.dtype.type(0)
    for four in range(first, last):
        b0, b1 = ROWS * four, ROWS * four + ROWS
        for t in range(t0, t1):
            for b in range(b0, b1):
                if b < B and starts[t, b]:
                    h[b], c[b] = zero, zero
                trace.x[t, b, F:] = h[b]
                trace.c[t, b] = c[b]
                trace.gates[t, b] = weights.bias
            add_product(trace.gates[t, b0:b1], trace.x[t, b0:b1], weights.gates)
            for b in range(b0, b1):
                lstm_cell(trace.gates[t, b], c[b], h[b])
                trace.out[t, b] = h[b]


@kernel
def _backward(first: int, last: int, starts: Any, weights: Any, trace: Any, g_out: Any, g_gates: Any, g_h: Any, g_c: Any) -> None:
    """Back through :func:`_forward`; ``g_h`` and ``g_c`` are after the last step, and before the first in the end."""
    T, B = starts.shape
    zero = g_h.dtype.type(0)
    for four in range(first, last):
        b0, b1 = ROWS * four, ROWS * four + ROWS
        for t in range(T - 1, -1, -1):
            for b in range(b0, b1):
                g_h[b] += g_out[t, b]
                lstm_cell_backward(trace.gates[t, b], trace.c[t, b], g_h[b], g_c[b], g_gates[t, b])
                g_h[b] = zero
            add_product(g_h[b0:b1], g_gates[t, b0:b1], weights.gates_back)
            for b in range(b0, min(b1, B)):
                if starts[t, b]:
                    g_h[b], g_c[b] = zero, zero


class FusedLstm(FusedRecording[LstmState]):
    """Steps of an LSTM core, see :class:`~mnm_rl.cores.fused.FusedRecording`."""

    carried = 2

    def __init__(self, core: LstmCore, state: LstmState, steps: int, reuse: Recording[LstmState] | None = None) -> None:
        cell, D = core.cell, core.hidden_size
        super().__init__(core, state, (cell.weight_ih, cell.weight_hh, cell.bias_ih, cell.bias_hh), steps, reuse)
        B, P, dtype = padded(self.B, ROWS), padded(D), self.dtype
        self.F = cell.input_size
        with torch.no_grad():
            back = spread(cell.weight_hh, 4, 1, D)
            gates = torch.cat([spread_rows(cell.weight_ih, 4, D), back], dim=1).T.contiguous()
            self.weights = Weights(gates.numpy(), back.numpy(), spread_rows(cell.bias_ih + cell.bias_hh, 4, D).numpy())
        self.h, self.c = array(state.h, (B, P), dtype), array(state.c, (B, P), dtype)
        self.trace = Trace(
            x=self.room("x", steps, B, self.F + P),
            c=self.room("c", steps, B, P),
            gates=self.room("gates", steps, B, 4 * P),
            out=np.zeros((steps, B, P), dtype),
        )
        self.x = self.trace.x

    @property
    def state(self) -> LstmState:
        return LstmState(*(torch.from_numpy(row)[: self.B, : self.D] for row in (self.h, self.c)))

    def run(self, t0: int, t1: int) -> Tensor:
        fours, starts = len(self.h) // ROWS, self.episode_starts
        run(_forward, fours, t0, t1, starts, self.weights, self.h, self.c, self.trace, least=32 // (t1 - t0))
        return torch.from_numpy(self.trace.out[t0:t1])

    def outputs(self, raw: Tensor) -> Tensor:
        return raw[:, : self.B, : self.D]

    def results(self) -> tuple[Tensor | None, ...]:
        return torch.from_numpy(self.trace.out), None, *self.state

    def gradients(self, inputs: bool, *given: Tensor | None) -> tuple[Tensor | None, ...]:
        g_out, _, g_h, g_c = given
        trace, D, F, dtype = self.trace, self.D, self.F, self.dtype
        h, c = array(g_h, self.h.shape, dtype), array(g_c, self.c.shape, dtype)
        g = self.room("g_gates", *trace.gates.shape)
        out = array(g_out, trace.out.shape, dtype)
        run(_backward, len(h) // ROWS, self.episode_starts, self.weights, trace, out, g, h, c)
        gates = torch.from_numpy(g).flatten(0, 1)
        weight, bias = gates.T @ torch.from_numpy(trace.x).flatten(0, 1), gather_rows(gates.sum(0), 4, D)
        g_inputs = None
        if inputs:
            g_inputs = (gates @ torch.from_numpy(self.weights.gates[:F]).T).view(*trace.x.shape[:2], F)[:, : self.B]
        state = (torch.from_numpy(row)[: self.B, :D] for row in (h, c))
        return g_inputs, *state, gather_rows(weight[:, :F], 4, D), gather(weight[:, F:], 4, 1, D), bias, bias

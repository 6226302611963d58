"""A whole sequence of an LSTM core as one differentiable operation, four environments at a time."""

from typing import NamedTuple

from mnm_rl.cores.lstm import LstmState
from mnm_rl.kernels.arena import Array
from mnm_rl.kernels.gated import GatedSteps
from mnm_rl.kernels.lstm_cell import lstm_cell, lstm_cell_backward, pack_lstm, unpack_lstm
from mnm_rl.kernels.padding import CellWeights
from mnm_rl.kernels.simd import ROWS, add_product, copy_, fill_, inlined
from mnm_rl.kernels.stepper import KernelImplementation


class Saved(NamedTuple):
    """What the forward pass leaves for the backward pass, time first."""

    x: Array
    """``[x_t; h_(t-1)]``, ``[T, B, F + P]``."""
    c: Array
    """``c_(t-1)``, ``[T, B, P]``."""
    gates: Array
    """The gates of the cell, ``[T, B, 4P]``."""
    out: Array
    """``h_t``, ``[T, B, P]``."""


class Working(NamedTuple):
    """The state, changed in place, or the gradient with respect to it."""

    h: Array
    """``[B, P]``."""
    c: Array
    """``[B, P]``."""


@inlined
def _forward(
    first: int,
    last: int,
    t0: int,
    t1: int,
    starts: Array,
    weights: CellWeights,
    state: Working,
    saved: Saved,
) -> None:
    """Steps t0 to t1 of the fours of environments from first to last."""
    h, c = state.h, state.c
    B, P = starts.shape[1], h.shape[1]
    F = saved.x.shape[2] - P
    zero = h.dtype.type(0)
    for b0 in range(ROWS * first, ROWS * last, ROWS):
        b1 = min(b0 + ROWS, B)
        for t in range(t0, t1):
            for b in range(b0, b1):
                if starts[t, b]:
                    fill_(h[b], zero)
                    fill_(c[b], zero)
                copy_(saved.x[t, b, F:], h[b])
                copy_(saved.c[t, b], c[b])
                copy_(saved.gates[t, b], weights.bias)
            add_product(saved.gates[t, b0:b1], saved.x[t, b0:b1], weights.gates)
            for b in range(b0, b1):
                lstm_cell(saved.gates[t, b], c[b], h[b])
                copy_(saved.out[t, b], h[b])


@inlined
def _backward(
    first: int,
    last: int,
    starts: Array,
    weights: CellWeights,
    saved: Saved,
    g_out: Array,
    g_gates: Array,
    g: Working,
) -> None:
    """Back through :func:`_forward`; ``g`` (:class:`Working`) is after the last step, and before
    the first in the end."""
    T, B = starts.shape
    zero = g.h.dtype.type(0)
    for b0 in range(ROWS * first, ROWS * last, ROWS):
        b1 = min(b0 + ROWS, B)
        for t in range(T - 1, -1, -1):
            for b in range(b0, b1):
                for i in range(g.h.shape[1]):
                    g.h[b, i] += g_out[t, b, i]
                lstm_cell_backward(saved.gates[t, b], saved.c[t, b], g.h[b], g.c[b], g_gates[t, b])
                fill_(g.h[b], zero)
            add_product(g.h[b0:b1], g_gates[t, b0:b1], weights.gates_back)
            for b in range(b0, b1):
                if starts[t, b]:
                    fill_(g.h[b], zero)
                    fill_(g.c[b], zero)


class LstmSteps(GatedSteps[LstmState]):
    """Steps of an LSTM core."""

    carried = 2
    working = Working
    saving = Saved
    forward_kernel = staticmethod(_forward)
    backward_kernel = staticmethod(_backward)

    pack_cell = staticmethod(pack_lstm)
    unpack_cell = staticmethod(unpack_lstm)


class Fused(KernelImplementation[LstmState]):
    """LSTM by kernels."""

    steps_class = LstmSteps

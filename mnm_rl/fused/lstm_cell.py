"""One step of an LSTM cell for one environment, forward and backward, as Numba kernels."""

from typing import Any

from mnm_rl.fused.simd import inlined, sigmoid_, tanh_

I, F, N, O = range(4)
"""The gates in PyTorch's order: input, forget, new cell, output; gate k is at ``[k P : (k + 1) P]``."""


@inlined
def lstm_cell(gates: Any, c: Any, h: Any) -> None:
    """``gates [4P]`` before and after their nonlinearities, ``c`` before and after the step, ``h`` after it."""
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
def lstm_cell_backward(gates: Any, c: Any, gh: Any, gc: Any, g: Any) -> None:
    """Back through :func:`lstm_cell`: ``c`` before the step; ``gc`` with respect to the cell, in: after the step, out: before
    it; ``g``, with respect to the gates, is filled in."""
    P = c.shape[0]
    one = c.dtype.type(1)
    tanh_c = g[:P]
    for k in range(P):
        tanh_c[k] = gates[F * P + k] * c[k] + gates[I * P + k] * gates[N * P + k]
    tanh_(tanh_c)
    for k in range(P):
        i, f, n, o, t = gates[I * P + k], gates[F * P + k], gates[N * P + k], gates[O * P + k], tanh_c[k]
        gc_k = gc[k] + gh[k] * o * (one - t * t)
        g[I * P + k] = gc_k * n * i * (one - i)
        g[F * P + k] = gc_k * c[k] * f * (one - f)
        g[N * P + k] = gc_k * i * (one - n * n)
        g[O * P + k] = gh[k] * t * o * (one - o)
        gc[k] = gc_k * f

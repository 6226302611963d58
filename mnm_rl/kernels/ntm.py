"""A whole sequence of an NTM core as one differentiable operation, four environments at a time.

A write cannot be undone where it has erased everything. So the memory is kept every :data:`KEEP`
steps, and the backward pass makes those between again, forwards, before it goes back through them.
"""

import math
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from mnm_rl.cores.ntm import EMPTY, NtmCore, NtmState
from mnm_rl.kernels.arena import Array, zeros
from mnm_rl.kernels.lstm_cell import lstm_cell, lstm_cell_backward, pack_lstm, unpack_lstm
from mnm_rl.kernels.padding import CellParameters, array
from mnm_rl.kernels.parallel import run
from mnm_rl.kernels.simd import (
    LANES,
    ROWS,
    add_product,
    copy_,
    fill_,
    fma,
    fours,
    inlined,
    kernel,
    load,
    minus,
    padded,
    sigmoid_,
    splat,
    store,
    tanh_,
    times_derivative,
    total,
)
from mnm_rl.kernels.stepper import KernelImplementation
from mnm_rl.kernels.steps import ReadingSteps, Workspace

KEEP = 8
READ, WRITE = range(2)
"""The heads."""
STRENGTH, GATE, SHARPENING, SHIFT = 0, 2, 4, 6
"""Where beta, g, gamma and s are among the last :data:`LANES` numbers of an interaction: those of
the read head, then those of the write head."""


class Weights(NamedTuple):
    """The parameters, padded. The interaction has a width of U = 4K + LANES: ``k`` of both heads,
    ``e``, ``a``, and the numbers of both heads."""

    gates: Array
    """From ``[x; r; h]``: ``[F + K + P, 4P]``."""
    gates_back: Array
    """To ``[r; h]``: ``[4P, K + P]``."""
    bias: Array
    """``[4P]``."""
    A: Array
    """``[P, U]``."""
    A_back: Array
    """``[U, P]``."""
    a: Array
    """``[U]``."""


class Setting(NamedTuple):
    """What stays the same over a sequence."""

    width: int
    """Width of a slot, W."""
    tiny: float
    """The least number that a logarithm is taken of."""
    starts: Array
    """Episode starts, ``[T, B]`` bool."""


class Saved(NamedTuple):
    """What the forward pass leaves for the backward pass, time first."""

    x: Array
    """``[x_t; r_(t-1); h_(t-1)]``, ``[T, B, F + K + P]``."""
    c: Array
    """``c_(t-1)``, ``[T, B, P]``."""
    gates: Array
    """The gates of the cell, ``[T, B, 4P]``."""
    out: Array
    """``[h_t; r_t]``, ``[T, B, P + K]``."""
    u: Array
    """The interaction after its nonlinearities, ``[T, B, U]``."""
    before: Array
    """``w_(t-1)``, ``[T, B, 2, S]``."""
    found: Array
    """``w^c``, ``[T, B, 2, S]``."""
    logs: Array
    """``log w^s``, ``[T, B, 2, S]``."""
    weights: Array
    """``w_t``, ``[T, B, 2, S]``."""
    memory: Array
    """``M_(t-1)`` before every ``KEEP`` steps, ``[T / KEEP, B, S, K]``."""


class Working(NamedTuple):
    """The state, changed in place, or the gradient with respect to it."""

    h: Array
    """``[B, P]``."""
    c: Array
    """``[B, P]``."""
    read: Array
    """``[B, K]``."""
    memory: Array
    """``[B, S, K]``."""
    weights: Array
    """``[B, 2, S]``."""


class Gradients(NamedTuple):
    """What the backward pass makes, time first."""

    gates: Array
    """With respect to the gates before their nonlinearities, ``[T, B, 4P]``."""
    u: Array
    """With respect to the interaction before its nonlinearities, ``[T, B, U]``."""
    state: Working
    """With respect to the state after the last step, made that before the first one."""


@inlined
def _softplus_(x: Array) -> None:
    """``x = log(1 + exp(x))``, for a row."""
    for i in range(x.shape[0]):
        e = math.log1p(math.exp(-abs(x[i])))
        x[i] = x[i] + e if x[i] > 0 else e


@inlined
def _times_softplus_derivative(g: Array, y: Array) -> None:
    """``g *= 1 - exp(-y)``: back through ``y = log(1 + exp(.))``."""
    for i in range(y.shape[0]):
        g[i] *= -math.expm1(-y[i])


@inlined
def _times_sigmoid_derivative(g: Array, y: Array) -> None:
    """``g *= y (1 - y)``: back through ``y = sigmoid(.)``."""
    one = y.dtype.type(1)
    for i in range(y.shape[0]):
        g[i] *= y[i] * (one - y[i])


@inlined
def _softmax_(x: Array) -> None:
    """``x = softmax(x)``, for a row."""
    most, sum_ = x[0], x.dtype.type(0)
    for i in range(x.shape[0]):
        most = max(most, x[i])
    for i in range(x.shape[0]):
        x[i] = math.exp(x[i] - most)
        sum_ += x[i]
    for i in range(x.shape[0]):
        x[i] /= sum_


@inlined
def _softmax_backward_(g: Array, y: Array) -> None:
    """Back through ``y = softmax(.)``: g with respect to y is made that with respect to what y was
    made of."""
    mean = y.dtype.type(0)
    for i in range(y.shape[0]):
        mean += g[i] * y[i]
    for i in range(y.shape[0]):
        g[i] = y[i] * (g[i] - mean)


@kernel
def _activate(u: Array) -> None:
    """An interaction before and after its nonlinearities."""
    K, one = (u.shape[0] - LANES) // 4, u.dtype.type(1)
    tanh_(u[: 2 * K])
    sigmoid_(u[2 * K : 3 * K])
    tanh_(u[3 * K : 4 * K])
    numbers = u[4 * K :]
    _softplus_(numbers[STRENGTH:GATE])
    sigmoid_(numbers[GATE:SHARPENING])
    _softplus_(numbers[SHARPENING:SHIFT])
    for head in (READ, WRITE):
        numbers[SHARPENING + head] += one
        _softmax_(numbers[SHIFT + 3 * head : SHIFT + 3 * head + 3])


@kernel
def _activate_backward(u: Array, g: Array) -> None:
    """Back through :func:`_activate`, u after it."""
    K, one = (u.shape[0] - LANES) // 4, u.dtype.type(1)
    times_derivative(g[: 2 * K], u[: 2 * K])
    _times_sigmoid_derivative(g[2 * K : 3 * K], u[2 * K : 3 * K])
    times_derivative(g[3 * K : 4 * K], u[3 * K : 4 * K])
    numbers, g_numbers = u[4 * K :], g[4 * K :]
    _times_softplus_derivative(g_numbers[STRENGTH:GATE], numbers[STRENGTH:GATE])
    _times_sigmoid_derivative(g_numbers[GATE:SHARPENING], numbers[GATE:SHARPENING])
    for head in (READ, WRITE):
        sharpening = SHARPENING + head
        g_numbers[sharpening] *= -math.expm1(one - numbers[sharpening])
        shift = slice(SHIFT + 3 * head, SHIFT + 3 * head + 3)
        _softmax_backward_(g_numbers[shift], numbers[shift])


@inlined
def _norm(x: Array) -> float:
    """The length of a padded row."""
    y = splat(x.dtype.type(0))
    for j in range(0, x.shape[0], LANES):
        y = fma(load(x, j), load(x, j), y)
    return math.sqrt(total(y))


@kernel
def _gated(before: Array, found: Array, gate: float) -> Array:
    """``w^g = g w^c + (1 - g) w_(t-1)``, with the last slot before the first and the first after
    the last: ``[S + 2]``."""
    S = before.shape[0]
    w = np.empty(S + 2, before.dtype)
    for i in range(S):
        w[i + 1] = before[i] + gate * (found[i] - before[i])
    w[0], w[S + 1] = w[S], w[1]
    return w


@inlined
def _products(row: Array, k_r: Array, k_w: Array) -> tuple[float, float, float]:
    """Of a slot: its products with both keys, and its length."""
    zero = splat(row.dtype.type(0))
    r = w = m = zero
    for j in range(0, row.shape[0], LANES):
        v = load(row, j)
        r, w, m = fma(v, load(k_r, j), r), fma(v, load(k_w, j), w), fma(v, v, m)
    return total(r), total(w), math.sqrt(total(m))


@kernel
def _search(memory: Array, u: Array, found: Array) -> None:
    """Where both heads find their keys, ``[2, S]``."""
    K, dtype = memory.shape[1], memory.dtype
    least = dtype.type(EMPTY)
    k_r, k_w = u[:K], u[K : 2 * K]
    length_r, length_w = _norm(k_r), _norm(k_w)
    beta_r, beta_w = u[4 * K + STRENGTH + READ], u[4 * K + STRENGTH + WRITE]
    for i in range(memory.shape[0]):
        r, w, length = _products(memory[i], k_r, k_w)
        product_r, product_w = length * length_r, length * length_w
        found[READ, i] = beta_r * r / (least if product_r < least else product_r)
        found[WRITE, i] = beta_w * w / (least if product_w < least else product_w)
    _softmax_(found[READ])
    _softmax_(found[WRITE])


@kernel
def _search_backward(memory: Array, u: Array, g: Array, g_u: Array, g_memory: Array) -> None:
    """Back through :func:`_search` before its softmax, given the gradient g, ``[2, S]``; adds to
    the others."""
    K, dtype = memory.shape[1], memory.dtype
    none, least = dtype.type(0), dtype.type(EMPTY)
    k_r, k_w, g_k_r, g_k_w = u[:K], u[K : 2 * K], g_u[:K], g_u[K : 2 * K]
    length_r, length_w = _norm(k_r), _norm(k_w)
    beta_r, beta_w = u[4 * K + STRENGTH + READ], u[4 * K + STRENGTH + WRITE]
    g_beta_r = g_beta_w = g_length_r = g_length_w = none
    for i in range(memory.shape[0]):
        row, g_row = memory[i], g_memory[i]
        r, w, length = _products(row, k_r, k_w)
        product_r, product_w = length * length_r, length * length_w
        over_r = dtype.type(1) / (least if product_r < least else product_r)
        over_w = dtype.type(1) / (least if product_w < least else product_w)
        cosine_r, cosine_w = r * over_r, w * over_w
        g_beta_r += g[READ, i] * cosine_r
        g_beta_w += g[WRITE, i] * cosine_w
        g_r, g_w = g[READ, i] * beta_r * over_r, g[WRITE, i] * beta_w * over_w
        g_length = none
        if product_r >= least:
            g_length_r -= g_r * cosine_r * length
            g_length -= g_r * cosine_r * length_r
        if product_w >= least:
            g_length_w -= g_w * cosine_w * length
            g_length -= g_w * cosine_w * length_w
        a, b, c = splat(g_r), splat(g_w), splat(g_length / length if length > none else none)
        for j in range(0, K, LANES):
            v = load(row, j)
            store(g_row, j, fma(a, load(k_r, j), fma(b, load(k_w, j), fma(c, v, load(g_row, j)))))
            store(g_k_r, j, fma(a, v, load(g_k_r, j)))
            store(g_k_w, j, fma(b, v, load(g_k_w, j)))
    g_u[4 * K + STRENGTH + READ] += g_beta_r
    g_u[4 * K + STRENGTH + WRITE] += g_beta_w
    for k, g_k, length, g_length in (
        (k_r, g_k_r, length_r, g_length_r),
        (k_w, g_k_w, length_w, g_length_w),
    ):
        if length > none:
            for j in range(K):
                g_k[j] += g_length / length * k[j]


@kernel
def _move(
    before: Array, found: Array, numbers: Array, head: int, tiny: float, logs: Array, w: Array
) -> None:
    """The new position w of a head, ``[S]``."""
    s = numbers[SHIFT + 3 * head : SHIFT + 3 * head + 3]
    gated = _gated(before, found, numbers[GATE + head])
    for i in range(w.shape[0]):
        moved = s[0] * gated[i + 2] + s[1] * gated[i + 1] + s[2] * gated[i]
        logs[i] = math.log(tiny if moved < tiny else moved)
    for i in range(w.shape[0]):
        w[i] = numbers[SHARPENING + head] * logs[i]
    _softmax_(w)


@kernel
def _move_backward(
    before: Array,
    found: Array,
    numbers: Array,
    head: int,
    tiny: float,
    logs: Array,
    w: Array,
    g: Array,
    g_numbers: Array,
    g_search: Array,
) -> None:
    """Back through :func:`_move` and the softmax of the search: g with respect to the position
    after it is made that before it, and ``g_search`` is filled in."""
    S, zero, one = w.shape[0], w.dtype.type(0), w.dtype.type(1)
    s = numbers[SHIFT + 3 * head : SHIFT + 3 * head + 3]
    gate, sharpening = numbers[GATE + head], numbers[SHARPENING + head]
    gated = _gated(before, found, gate)
    g_moved = np.empty(S + 2, w.dtype)  # as gated, with neighbours at both ends
    g_sharpening = g_left = g_stay = g_right = g_gate = zero
    _softmax_backward_(g, w)
    for i in range(S):
        left, stay, right = gated[i + 2], gated[i + 1], gated[i]
        moved = s[0] * left + s[1] * stay + s[2] * right
        g_i = zero if moved < tiny else g[i] * sharpening / moved
        g_sharpening += g[i] * logs[i]
        g_left, g_stay, g_right = g_left + g_i * left, g_stay + g_i * stay, g_right + g_i * right
        g_moved[i + 1] = g_i
    g_moved[0], g_moved[S + 1] = g_moved[S], g_moved[1]
    for i in range(S):
        g_gated = s[0] * g_moved[i] + s[1] * g_moved[i + 1] + s[2] * g_moved[i + 2]
        g_gate += g_gated * (found[i] - before[i])
        g_search[i] = gate * g_gated
        g[i] = (one - gate) * g_gated
    _softmax_backward_(g_search, found)
    g_numbers[SHARPENING + head] += g_sharpening
    g_numbers[GATE + head] += g_gate
    for j, g_shift in enumerate((g_left, g_stay, g_right)):
        g_numbers[SHIFT + 3 * head + j] += g_shift


@kernel
def _read(memory: Array, w: Array, read: Array) -> None:
    """``r = sum_i w(i) M(i)``."""
    fill_(read, read.dtype.type(0))
    for i in range(memory.shape[0]):
        share, row = splat(w[i]), memory[i]
        for j in range(0, memory.shape[1], LANES):
            store(read, j, fma(share, load(row, j), load(read, j)))


@kernel
def _write(memory: Array, w: Array, u: Array, new: Array) -> None:
    """``M_t = M (1 - w e) + w a``; M and ``M_t`` may be the same array."""
    K = memory.shape[1]
    erase, add = u[2 * K : 3 * K], u[3 * K : 4 * K]
    for i in range(memory.shape[0]):
        share, row, to = splat(w[i]), memory[i], new[i]
        for j in range(0, K, LANES):
            m = load(row, j)
            store(to, j, fma(share, minus(load(add, j), load(erase, j), m), m))


@kernel
def _read_and_write_backward(
    memory: Array, w: Array, u: Array, g_read: Array, g_memory: Array, g_w: Array, g_u: Array
) -> None:
    """Back through :func:`_read` and :func:`_write`: ``g_memory`` with respect to the memory after
    them is made that before them; adds to the gradients of positions and interaction."""
    K, zero = memory.shape[1], splat(memory.dtype.type(0))
    erase, add, g_erase, g_add = (
        u[2 * K : 3 * K],
        u[3 * K : 4 * K],
        g_u[2 * K : 3 * K],
        g_u[3 * K : 4 * K],
    )
    for i in range(memory.shape[0]):
        row, g_row = memory[i], g_memory[i]
        w_r, w_w, r, s = splat(w[READ, i]), splat(w[WRITE, i]), zero, zero
        for j in range(0, K, LANES):
            m, g, e, g_r = load(row, j), load(g_row, j), load(erase, j), load(g_read, j)
            r = fma(g_r, m, r)
            s = fma(g, minus(load(add, j), e, m), s)
            written = fma(w_w, g, zero)
            store(g_add, j, fma(w_w, g, load(g_add, j)))
            store(g_erase, j, minus(load(g_erase, j), written, m))
            store(g_row, j, fma(w_r, g_r, minus(g, written, e)))
        g_w[READ, i] += total(r)
        g_w[WRITE, i] += total(s)


@inlined
def _start(setting: Setting, memory: Array) -> None:
    """The memory at the start of an episode."""
    memory[:] = memory.dtype.type(0)
    memory[:, : setting.width] = memory.dtype.type(EMPTY)


@kernel
def _forward(
    first: int,
    last: int,
    t0: int,
    t1: int,
    setting: Setting,
    weights: Weights,
    state: Working,
    saved: Saved,
) -> None:
    """Steps t0 to t1 of the fours of environments from first to last."""
    B, P, K = setting.starts.shape[1], state.h.shape[1], state.read.shape[1]
    F = saved.x.shape[2] - K - P
    zero, one = state.h.dtype.type(0), state.h.dtype.type(1)
    h, c, read, memory = state.h, state.c, state.read, state.memory
    for b0 in range(ROWS * first, ROWS * last, ROWS):
        b1 = min(b0 + ROWS, B)
        for t in range(t0, t1):
            for b in range(b0, b1):
                if setting.starts[t, b]:
                    fill_(h[b], zero)
                    fill_(c[b], zero)
                    fill_(read[b], zero)
                    _start(setting, memory[b])
                    state.weights[b] = zero
                    state.weights[b, :, 0] = one
                copy_(saved.x[t, b, F : F + K], read[b])
                copy_(saved.x[t, b, F + K :], h[b])
                copy_(saved.c[t, b], c[b])
                copy_(saved.gates[t, b], weights.bias)
                copy_(saved.u[t, b], weights.a)
                if t % KEEP == 0:
                    saved.memory[t // KEEP, b] = memory[b]
            add_product(saved.gates[t, b0:b1], saved.x[t, b0:b1], weights.gates)
            for b in range(b0, b1):
                lstm_cell(saved.gates[t, b], c[b], h[b])
            add_product(saved.u[t, b0:b1], h[b0:b1], weights.A)
            for b in range(b0, b1):
                u, found, logs, w = (
                    saved.u[t, b],
                    saved.found[t, b],
                    saved.logs[t, b],
                    saved.weights[t, b],
                )
                _activate(u)
                _search(memory[b], u, found)
                for head in (READ, WRITE):
                    before = saved.before[t, b, head]
                    copy_(before, state.weights[b, head])
                    _move(before, found[head], u[4 * K :], head, setting.tiny, logs[head], w[head])
                    copy_(state.weights[b, head], w[head])
                _read(memory[b], w[READ], read[b])
                _write(memory[b], w[WRITE], u, memory[b])
                copy_(saved.out[t, b, :P], h[b])
                copy_(saved.out[t, b, P:], read[b])


@kernel
def _make_again(b: int, t0: int, t1: int, setting: Setting, saved: Saved, memories: Array) -> None:
    """The memories before each of the steps t0 to t1, from that before the first."""
    memories[0] = saved.memory[t0 // KEEP, b]
    for t in range(t0, t1 - 1):
        if setting.starts[t + 1, b]:
            _start(setting, memories[t + 1 - t0])
        else:
            _write(
                memories[t - t0], saved.weights[t, b, WRITE], saved.u[t, b], memories[t + 1 - t0]
            )


@kernel
def _backward(
    first: int,
    last: int,
    setting: Setting,
    weights: Weights,
    saved: Saved,
    g_out: Array,
    g: Gradients,
) -> None:
    """Back through :func:`_forward`."""
    (T, B), (S, K), P = setting.starts.shape, g.state.memory.shape[1:], g.state.h.shape[1]
    dtype = g.state.h.dtype
    zero = dtype.type(0)
    memories = np.empty((ROWS, KEEP, S, K), dtype)
    g_search, g_inputs = np.empty((2, S), dtype), np.empty((ROWS, K + P), dtype)
    for b0 in range(ROWS * first, ROWS * last, ROWS):
        b1 = min(b0 + ROWS, B)
        for part in range(saved.memory.shape[0] - 1, -1, -1):
            t0, t1 = part * KEEP, min(part * KEEP + KEEP, T)
            for b in range(b0, b1):
                _make_again(b, t0, t1, setting, saved, memories[b - b0])
            for t in range(t1 - 1, t0 - 1, -1):
                for b in range(b0, b1):
                    memory, u, g_u = memories[b - b0, t - t0], saved.u[t, b], g.u[t, b]
                    w, g_w, g_read, g_memory = (
                        saved.weights[t, b],
                        g.state.weights[b],
                        g.state.read[b],
                        g.state.memory[b],
                    )
                    fill_(g_u, zero)
                    for j in range(K):
                        g_read[j] += g_out[t, b, P + j]
                    for j in range(P):
                        g.state.h[b, j] += g_out[t, b, j]
                    _read_and_write_backward(memory, w, u, g_read, g_memory, g_w, g_u)
                    for head in (READ, WRITE):
                        _move_backward(
                            saved.before[t, b, head],
                            saved.found[t, b, head],
                            u[4 * K :],
                            head,
                            setting.tiny,
                            saved.logs[t, b, head],
                            w[head],
                            g_w[head],
                            g_u[4 * K :],
                            g_search[head],
                        )
                    _search_backward(memory, u, g_search, g_u, g_memory)
                    _activate_backward(u, g_u)
                add_product(g.state.h[b0:b1], g.u[t, b0:b1], weights.A_back)
                for b in range(b0, b1):
                    lstm_cell_backward(
                        saved.gates[t, b],
                        saved.c[t, b],
                        g.state.h[b],
                        g.state.c[b],
                        g.gates[t, b],
                    )
                    fill_(g_inputs[b - b0], zero)
                add_product(g_inputs[: b1 - b0], g.gates[t, b0:b1], weights.gates_back)
                for b in range(b0, b1):
                    copy_(g.state.read[b], g_inputs[b - b0, :K])
                    copy_(g.state.h[b], g_inputs[b - b0, K:])
                    if setting.starts[t, b]:
                        fill_(g.state.h[b], zero)
                        fill_(g.state.c[b], zero)
                        fill_(g.state.read[b], zero)
                        g.state.memory[b] = zero
                        g.state.weights[b] = zero


class Parameters(NamedTuple):
    """The parameters that the kernels use."""

    weight_ih: Tensor
    """``[4D, F + W]``."""
    weight_hh: Tensor
    """``[4D, D]``."""
    bias_ih: Tensor
    """``[4D]``."""
    bias_hh: Tensor
    """``[4D]``."""
    A: Tensor
    """``[4W + 12, D]``."""
    a: Tensor
    """``[4W + 12]``."""


def _places(width: int) -> Tensor:
    """Where in a padded interaction the core's own has its numbers, in its order."""
    K = padded(width)
    numbers = 4 * K
    of_slots = torch.arange(width)
    return torch.cat(
        [
            of_slots,
            K + of_slots,
            numbers + STRENGTH + torch.arange(2),
            numbers + GATE + torch.arange(2),
            numbers + SHIFT + torch.arange(6),
            numbers + SHARPENING + torch.arange(2),
            2 * K + of_slots,
            3 * K + of_slots,
        ]
    )


class NtmSteps(ReadingSteps[NtmState]):
    """Steps of an NTM core, see :class:`~mnm_rl.kernels.steps.KernelSteps`."""

    carried = 5
    core: NtmCore

    @staticmethod
    def parameters_of(core: NtmCore) -> Parameters:
        cell, interaction = core.controller, core.interaction
        return Parameters(
            *(cell.weight_ih, cell.weight_hh, cell.bias_ih, cell.bias_hh),
            *(interaction.weight, interaction.bias),
        )

    @staticmethod
    def pack(core: NtmCore, parameters: Parameters) -> Weights:
        p = Parameters(*(parameter.detach() for parameter in parameters))
        D, W = core.hidden_size, core.width
        cell: CellParameters = p[:4]
        A = p.A.new_zeros(4 * padded(W) + LANES, padded(D))
        A[_places(W), :D] = p.A
        a = p.a.new_zeros(len(A))
        a[_places(W)] = p.a
        return Weights(
            *pack_lstm(cell, core.controller.input_size - W),
            A=A.T.contiguous().numpy(),
            A_back=A.numpy(),
            a=a.numpy(),
        )

    def __init__(self, workspace: Workspace, state: NtmState, steps: int) -> None:
        super().__init__(workspace, state, steps)
        core, B, P = self.core, self.B, padded(self.D)
        W, S, K = self.M, core.slots, padded(self.M)
        self.F = F = core.controller.input_size - W
        self.setting = Setting(W, self.dtype.type(np.finfo(self.dtype).tiny), self.episode_starts)
        shapes = [(B, P), (B, P), (B, K), (B, S, K), (B, 2, S)]
        self.now = Working(
            *(array(part, shape, self.dtype) for part, shape in zip(state, shapes, strict=True))
        )
        self.saved = Saved(
            x=self.room("x", steps, B, F + K + P),
            c=self.room("c", steps, B, P),
            gates=self.room("gates", steps, B, 4 * P),
            out=zeros((steps, B, P + K), self.dtype),  # others may have it
            u=self.room("u", steps, B, 4 * K + LANES),
            before=self.room("before", steps, B, 2, S),
            found=self.room("found", steps, B, 2, S),
            logs=self.room("logs", steps, B, 2, S),
            weights=self.room("weights", steps, B, 2, S),
            memory=self.room("memory", -(-steps // KEEP), B, S, K),
        )
        self.x = self.saved.x

    def working_state(self) -> tuple[Tensor, ...]:
        h, c, read, memory, weights = map(torch.from_numpy, self.now)
        D, W = self.D, self.M
        return h[:, :D], c[:, :D], read[:, :W], memory[..., :W], weights

    def run_kernels(self, t0: int, t1: int) -> Tensor:
        run(_forward, fours(self.B), t0, t1, self.setting, self.weights, self.now, self.saved)
        return torch.from_numpy(self.saved.out[t0:t1])

    def results(self) -> tuple[Tensor | None, ...]:
        return torch.from_numpy(self.saved.out), None, *self.working_state()

    def gradients(self, inputs: bool, *given: Tensor | None) -> tuple[Tensor | None, ...]:
        g_out, _, *g_state = given
        saved, D, W, F = self.saved, self.D, self.M, self.F
        g = Gradients(
            gates=self.room("g_gates", *saved.gates.shape),
            u=self.room("g_u", *saved.u.shape),
            state=Working(
                *(
                    array(part, now.shape, self.dtype)
                    for part, now in zip(g_state, self.now, strict=True)
                )
            ),
        )
        out = array(g_out, saved.out.shape, self.dtype)
        run(_backward, fours(self.B), self.setting, self.weights, saved, out, g)
        x, h, gates, u = (
            torch.from_numpy(a).flatten(0, 1)
            for a in (saved.x, saved.out[..., : padded(D)], g.gates, g.u)
        )
        cell = unpack_lstm(gates.T @ x, gates.sum(0), D, F, W)
        places = _places(W)
        interaction = (u.T @ h)[places, :D], u.sum(0)[places]
        g_inputs = None
        if inputs:
            g_inputs = (gates @ torch.from_numpy(self.weights.gates[:F]).T).view(
                *saved.x.shape[:2], F
            )
        h, c, read, memory, positions = map(torch.from_numpy, g.state)
        state = h[:, :D], c[:, :D], read[:, :W], memory[..., :W], positions
        return g_inputs, *state, *cell, *interaction


class Fused(KernelImplementation[NtmState]):
    """NTM by kernels."""

    steps_class = NtmSteps

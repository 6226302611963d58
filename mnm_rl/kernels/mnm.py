"""A whole sequence of an MNM core as one differentiable operation, with the same results as
:mod:`mnm_rl.cores.mnm`.

Four environments at a time (:data:`~mnm_rl.kernels.simd.ROWS`) go through all time steps, so that
their fast weights stay in the cache. Kept for the backward pass are vectors only (:class:`Saved`):
it undoes the writes one by one, from the last fast weights back to the first, and where an episode
started in the middle of the sequence, makes those of the episode before by writing again. To undo
the gated delta rule is to divide, and so the fast weights are kept wherever its gate has left less
than half of them since they were last kept.
"""

from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from mnm_rl.cores.mnm import MnmCore, MnmState, Written, memory_diagnostics, sampled
from mnm_rl.kernels.arena import Array, zeros
from mnm_rl.kernels.gru_cell import gru_cell, gru_cell_backward, pack_gru, unpack_gru
from mnm_rl.kernels.lstm_cell import lstm_cell, lstm_cell_backward, pack_lstm, unpack_lstm
from mnm_rl.kernels.memory import (
    CHECKED,
    LOCAL,
    READ,
    RULES,
    WRITTEN,
    DeferredUpdate,
    Step,
    StepGradient,
    add_deferred,
    set_key,
    set_key_backward,
    write,
    write_and_read,
    write_and_read_backward,
)
from mnm_rl.kernels.padding import (
    array,
    gather,
    gather_rows,
    pad_memory,
    spread,
    spread_rows,
)
from mnm_rl.kernels.parallel import run
from mnm_rl.kernels.simd import (
    ROWS,
    add_product,
    copy_,
    fill_,
    fours,
    inlined,
    kernel,
    padded,
    sigmoid_,
    tanh_,
)
from mnm_rl.kernels.stepper import KernelImplementation
from mnm_rl.kernels.steps import ReadingSteps, Workspace
from mnm_rl.memory import NeuralMemory
from mnm_rl.memory.function import write_size

KEY, VALUE, READ_KEY = 0, 1, 2
"""The slots of a head in the interaction vector."""

HALF = 0.5
"""The share of the fast weights below which they are kept."""


class Setting(NamedTuple):
    """What stays the same over a sequence."""

    rule: int
    """The number of the write rule, see :data:`~mnm_rl.kernels.memory.RULES`."""
    gru: bool
    """Whether the controller is a GRU, and not an LSTM."""
    M: int
    """Width of the memory."""
    bounded: bool
    """Whether beta is a share of the error."""
    gated: bool
    """Whether what is read passes a gate."""
    forgets: bool
    """Whether a step leaves the share alpha of the fast weights."""
    step_size: float
    """What beta is multiplied by: 1 if it is a share, 0 if nothing is to be written."""
    starts: Array
    """Episode starts, ``[T, B]`` bool."""


class Weights(NamedTuple):
    """The slow weights, padded, transposed for the forward pass (``x M``) and as they are for the
    backward pass."""

    gates: Array
    """Controller, from ``[x; v^r; h]``: ``[F + K + P, 4P]``."""
    gates_back: Array
    """To ``[v^r; h]``: ``[4P, K + P]``."""
    gates_bias: Array
    """``[4P]``."""
    A: Array
    """``[P, U]``, ``U = P + 3 H K``."""
    A_back: Array
    """``[U, P]``."""
    a: Array
    """``[U]``."""
    b: Array
    """Of the write strength, ``[P]``."""
    b_0: Array
    """``[1]``."""
    w: Array
    """Of the gate, ``[P]``; empty if there is none."""
    g_0: Array
    """``[1]``; empty if there is no gate."""
    f: Array
    """Of what stays, ``[P]``; empty unless the rule forgets."""
    f_0: Array
    """``[1]``; empty unless the rule forgets."""
    Q: Array
    """Feedback maps of rule p, ``[K, L K]`` (``[2K, L K]`` for keys and values); empty for the
    other rules."""
    Q_back: Array
    """``[L K, K]``, or ``[L K, 2K]``."""
    q: Array
    """``[L K]``."""
    theta_0: Array
    """Initial fast weights, ``[L, R, K]``."""


class Saved(NamedTuple):
    """What the forward pass leaves for the backward pass, time first."""

    x: Array
    """``[x_t; v^r_(t-1); h_(t-1)]``, ``[T, B, F + K + P]``."""
    c: Array
    """``c_(t-1)``, ``[T, B, P]``; of no use to a GRU."""
    gates: Array
    """The gates of the controller, ``[T, B, 4P]``."""
    out: Array
    """``[h_t; v^r_t]``, ``[T, B, P + K]``."""
    u: Array
    """Interaction vectors, ``[T, B, U]``."""
    beta: Array
    """Write strengths, ``[T, B]``."""
    gate: Array
    """Gates of what is read, ``[T, B]``; 1 if there are none."""
    alpha: Array
    """Shares of the fast weights that stay, ``[T, B]``; 1 unless the rule forgets."""
    since: Array
    """Product of ``alpha`` since the fast weights were last kept, or the sequence or the episode
    began, ``[T, B]``; of no use unless the rule forgets."""
    kept: Array
    """Fast weights after the write, before ``alpha``, where ``since`` is below :data:`HALF`, ``[T,
    B, L, R, K]``; nothing unless the rule forgets."""
    z: Array
    """Activations, ``[T, B, 3, H, L + 1, K]``, see :class:`~mnm_rl.kernels.memory.Step`; the last
    ones without ``alpha``."""
    q: Array
    """``[T, B, H, L - 1, K]`` for rule g, nothing for the others."""
    delta: Array
    """Error signals, ``[T, B, H, L, K]``."""
    scales: Array
    """Step sizes, ``[T, B, L]``."""
    meta_loss: Array
    """``[T, B]``."""


class OutputGradients(NamedTuple):
    """The gradients that the backward pass starts from."""

    out: Array
    """With respect to ``[h_t; v^r_t]``, ``[T, B, P + K]``."""
    meta_loss: Array
    """With respect to the meta-loss, ``[T, B]``."""


class Gradients(NamedTuple):
    """What the backward pass makes, time first."""

    gates: Array
    """With respect to the gates before their nonlinearities, ``[T, B, 4P]``."""
    u: Array
    """With respect to ``A h + a``, ``[T, B, U]``."""
    strength: Array
    """With respect to ``b . u + b_0``, ``[T, B]``."""
    gate: Array
    """With respect to ``w . u + g_0``, ``[T, B]``."""
    alpha: Array
    """With respect to ``f . u + f_0``, ``[T, B]``."""
    targets: Array
    """With respect to the feedback targets of rule p, ``[T, B, H, L K]``."""
    h: Array
    """With respect to ``h`` after the last step, made that before the first one, ``[B, P]``."""
    c: Array
    """The same for ``c``, ``[B, P]``."""
    read: Array
    """The same for ``v^r``, ``[B, K]``."""
    theta: Array
    """The same for the fast weights, ``[B, L, R, K]``."""
    theta_0: Array
    """A sum for every four environments, ``[fours(B), L, R, K]``."""


class Working(NamedTuple):
    """The state, changed in place."""

    h: Array
    """``[B, P]``."""
    c: Array
    """``[B, P]``."""
    read: Array
    """``v^r``, ``[B, K]``."""
    theta: Array
    """Fast weights, ``[B, L, R, K]``."""


class FastWeights(NamedTuple):
    """Fast weights of the backward pass, ``[B, L, R, K]``."""

    theta: Array
    """Those after the step that is gone back through; changed in place."""
    first: Array
    """Those before the first step."""


@inlined
def _controller(
    b0: int, t: int, setting: Setting, weights: Weights, state: Working, saved: Saved
) -> None:
    """``h_t`` from ``[x_t; v^r_(t-1)]``, and ``u_t = tanh(A h_t + a)``, of four environments, the
    last of them perhaps fewer."""
    b1, P, K = min(b0 + ROWS, state.h.shape[0]), state.h.shape[1], state.read.shape[1]
    F = saved.x.shape[2] - K - P
    for b in range(b0, b1):
        copy_(saved.x[t, b, F : F + K], state.read[b])
        copy_(saved.x[t, b, F + K :], state.h[b])
        copy_(saved.c[t, b], state.c[b])
        copy_(saved.gates[t, b], weights.gates_bias)
        copy_(saved.u[t, b], weights.a)
    add_product(saved.gates[t, b0:b1], saved.x[t, b0:b1], weights.gates)
    for b in range(b0, b1):
        if setting.gru:
            gru_cell(saved.gates[t, b], state.h[b])
        else:
            lstm_cell(saved.gates[t, b], state.c[b], state.h[b])
    add_product(saved.u[t, b0:b1], state.h[b0:b1], weights.A)
    for b in range(b0, b1):
        tanh_(saved.u[t, b])


@inlined
def _feedback(
    b0: int, t: int, setting: Setting, weights: Weights, u: Array, seen: Array, targets: Array
) -> None:
    """The feedback targets of rule p, ``[ROWS H, L K]``, of what the maps see, ``[ROWS H, K or
    2K]``, which is filled in too."""
    P, K, H = weights.A.shape[0], weights.theta_0.shape[2], targets.shape[0] // ROWS
    b1 = min(b0 + ROWS, u.shape[1])
    for b in range(b0, b1):
        heads = u[t, b, P:].reshape(H, 3, K)
        for h in range(H):
            row = (b - b0) * H + h
            copy_(seen[row, :K], heads[h, VALUE])
            set_key(setting.bounded, seen[row, K:], heads[h, KEY])
            copy_(targets[row], weights.q)
    rows = (b1 - b0) * H
    add_product(targets[:rows], seen[:rows], weights.Q)
    hidden = targets.shape[1] - K
    if setting.bounded and hidden > 0:
        for row in range(rows):
            tanh_(targets[row, :hidden])


@inlined
def _gate(out: Array, u: Array, w: Array, bias: Array) -> None:
    """``out = sigmoid(w . u[:P] + bias)``, of one environment."""
    total = bias[0]
    for i in range(w.shape[0]):
        total += w[i] * u[i]
    out[0] = total
    sigmoid_(out)


@inlined
def _forget(b: int, t: int, setting: Setting, W: Array, saved: Saved) -> None:
    """Leave the share alpha of the fast weights of one environment, ``[R, K]``."""
    alpha, half = saved.alpha[t, b], W.dtype.type(HALF)
    since = alpha
    if t > 0 and not setting.starts[t, b] and not saved.since[t - 1, b] < half:
        since *= saved.since[t - 1, b]
    saved.since[t, b] = since
    for i in range(W.shape[0]):
        if since < half:
            copy_(saved.kept[t, b, 0, i], W[i])
        for j in range(W.shape[1]):
            W[i, j] *= alpha


@inlined
def _forget_backward(b: int, t: int, W: Array, G: Array, saved: Saved) -> float:
    """Back through :func:`_forget`, which is undone; G is the gradient with respect to W. Returns
    that with respect to alpha."""
    alpha, half = saved.alpha[t, b], W.dtype.type(HALF)
    g_alpha: float = W.dtype.type(0)
    kept = saved.since[t, b] < half
    for i in range(W.shape[0]):
        if kept:
            copy_(W[i], saved.kept[t, b, 0, i])
        else:
            for j in range(W.shape[1]):
                W[i, j] /= alpha
        for j in range(W.shape[1]):
            g_alpha += G[i, j] * W[i, j]
            G[i, j] *= alpha
    return g_alpha


@inlined
def _memory(
    b: int, t: int, setting: Setting, weights: Weights, state: Working, saved: Saved, targets: Array
) -> None:
    """``beta_t``, the write, ``v^r_t`` and the meta-loss of one environment.

    A rule that forgets has one layer, which is linear: what it gives is scaled as its weights are.
    """
    P, K, L, H = state.h.shape[1], state.read.shape[1], saved.delta.shape[3], saved.delta.shape[2]
    dtype = saved.x.dtype
    zero, per = dtype.type(0), dtype.type(1 / (H * setting.M))
    u, z = saved.u[t, b], saved.z[t, b]
    beta, gate, alpha = (
        saved.beta[t, b : b + 1],
        saved.gate[t, b : b + 1],
        saved.alpha[t, b : b + 1],
    )
    _gate(beta, u, weights.b, weights.b_0)
    gate[0] = alpha[0] = dtype.type(1)
    if setting.gated:
        _gate(gate, u, weights.w, weights.g_0)
    if setting.forgets:
        _gate(alpha, u, weights.f, weights.f_0)
    heads = u[P:].reshape(H, 3, K)
    for h in range(H):
        set_key(setting.bounded, z[WRITTEN, h, 0], heads[h, KEY])
        copy_(z[CHECKED, h, 0], z[WRITTEN, h, 0])
        set_key(setting.bounded, z[READ, h, 0], heads[h, READ_KEY])
    strength = dtype.type(setting.step_size) * beta[0]
    step = Step(z, saved.q[t, b], saved.delta[t, b], saved.scales[t, b])
    write_and_read(
        state.theta[b], setting.rule, setting.bounded, strength, heads[:, VALUE], targets, step
    )
    if setting.forgets:
        _forget(b, t, setting, state.theta[b, 0], saved)
    fill_(state.read[b], zero)
    loss, share = zero, gate[0] * dtype.type(1 / H)
    for h in range(H):
        for i in range(K):
            state.read[b, i] += alpha[0] * z[READ, h, L, i] * share
            miss = alpha[0] * z[CHECKED, h, L, i] - heads[h, VALUE, i]
            loss += miss * miss
    saved.meta_loss[t, b] = loss * per


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
    B, L, _, K = state.theta.shape
    P, H = state.h.shape[1], saved.delta.shape[2]
    dtype = saved.x.dtype
    seen = np.zeros((ROWS * H, weights.Q.shape[0]), dtype)
    targets = np.zeros((ROWS * H, L * K), dtype)
    for b0 in range(ROWS * first, ROWS * last, ROWS):
        b1 = min(b0 + ROWS, B)
        for t in range(t0, t1):
            for b in range(b0, b1):
                if setting.starts[t, b]:
                    state.h[b], state.c[b], state.read[b] = (
                        dtype.type(0),
                        dtype.type(0),
                        dtype.type(0),
                    )
                    state.theta[b] = weights.theta_0
            _controller(b0, t, setting, weights, state, saved)
            if setting.rule == LOCAL:
                _feedback(b0, t, setting, weights, saved.u, seen, targets)
            for b in range(b0, b1):
                own = targets[(b - b0) * H : (b - b0 + 1) * H].reshape(H, L, K)
                _memory(b, t, setting, weights, state, saved, own)
            for b in range(b0, b1):
                copy_(saved.out[t, b, :P], state.h[b])
                copy_(saved.out[t, b, P:], state.read[b])


@inlined
def _memory_backward(
    b: int,
    t: int,
    setting: Setting,
    theta: Array,
    saved: Saved,
    given: OutputGradients,
    g: Gradients,
    gstep: StepGradient,
) -> None:
    """Back through :func:`_memory`, to the interaction vector and, in ``gstep.delta``, the feedback
    targets; undoes the write."""
    P, K, L, H = g.h.shape[1], g.read.shape[1], saved.delta.shape[3], saved.delta.shape[2]
    dtype = saved.x.dtype
    two, per = dtype.type(2), dtype.type(1 / (H * setting.M))
    z, gz = saved.z[t, b], gstep.z
    heads, g_heads = saved.u[t, b, P:].reshape(H, 3, K), g.u[t, b, P:].reshape(H, 3, K)
    for group in range(3):
        for h in range(H):
            for l in range(L + 1):
                fill_(gz[group, h, l], dtype.type(0))
    miss, gate, g_gate = two * per * given.meta_loss[t, b], saved.gate[t, b], dtype.type(0)
    alpha, g_alpha = saved.alpha[t, b], dtype.type(0)
    if setting.forgets:
        add_deferred(g.theta[b], gstep.deferred)
        g_alpha = _forget_backward(b, t, theta[b, 0], g.theta[b, 0], saved)
    for h in range(H):
        for i in range(K):
            g_read = (g.read[b, i] + given.out[t, b, P + i]) * dtype.type(1 / H)
            read, checked = alpha * z[READ, h, L, i], alpha * z[CHECKED, h, L, i]
            g_checked = miss * (checked - heads[h, VALUE, i])
            gz[READ, h, L, i] = alpha * gate * g_read
            gz[CHECKED, h, L, i] = alpha * g_checked
            g_gate += g_read * read
            g_alpha += gate * g_read * z[READ, h, L, i] + g_checked * z[CHECKED, h, L, i]
            g_heads[h, VALUE, i] = -g_checked
    beta = saved.beta[t, b]
    step = Step(z, saved.q[t, b], saved.delta[t, b], saved.scales[t, b])
    s, one = dtype.type(setting.step_size), dtype.type(1)
    g_strength = write_and_read_backward(
        theta[b], g.theta[b], setting.rule, setting.bounded, s * beta, step, gstep
    )
    g.strength[t, b] = g_strength * s * beta * (one - beta)
    g.gate[t, b] = g_gate * gate * (one - gate)
    g.alpha[t, b] = g_alpha * alpha * (one - alpha)
    for h in range(H):
        for i in range(K):
            g_heads[h, KEY, i] = gz[WRITTEN, h, 0, i] + gz[CHECKED, h, 0, i]
            g_heads[h, READ_KEY, i] = gz[READ, h, 0, i]
            if setting.rule != LOCAL:
                g_heads[h, VALUE, i] -= gstep.delta[h, L - 1, i]
        set_key_backward(setting.bounded, g_heads[h, KEY], heads[h, KEY])
        set_key_backward(setting.bounded, g_heads[h, READ_KEY], heads[h, READ_KEY])


@inlined
def _feedback_backward(
    b0: int, t: int, setting: Setting, weights: Weights, u: Array, g: Gradients, g_seen: Array
) -> None:
    """Back through :func:`_feedback`, to values and keys; ``g_seen`` is scratch."""
    P, K, H = weights.A.shape[0], weights.theta_0.shape[2], g_seen.shape[0] // ROWS
    b1 = min(b0 + ROWS, g.u.shape[1])
    rows = (b1 - b0) * H
    for row in range(rows):
        fill_(g_seen[row], g_seen.dtype.type(0))
    add_product(
        g_seen[:rows], g.targets[t, b0:b1].reshape(rows, g.targets.shape[3]), weights.Q_back
    )
    for b in range(b0, b1):
        heads, g_heads = u[t, b, P:].reshape(H, 3, K), g.u[t, b, P:].reshape(H, 3, K)
        for h in range(H):
            row = (b - b0) * H + h
            for i in range(K):
                g_heads[h, VALUE, i] += g_seen[row, i]
            if g_seen.shape[1] > K:
                set_key_backward(setting.bounded, g_seen[row, K:], heads[h, KEY])
                for i in range(K):
                    g_heads[h, KEY, i] += g_seen[row, K + i]


@inlined
def _controller_backward(
    b0: int,
    t: int,
    setting: Setting,
    weights: Weights,
    saved: Saved,
    given: OutputGradients,
    g: Gradients,
    g_before: Array,
) -> None:
    """Back through :func:`_controller`, to the state before the step; ``g_before`` is scratch."""
    b1, P, K = min(b0 + ROWS, g.h.shape[0]), g.h.shape[1], g.read.shape[1]
    F, dtype = saved.x.shape[2] - K - P, saved.x.dtype
    for b in range(b0, b1):
        for i in range(g.u.shape[2]):
            g.u[t, b, i] *= dtype.type(1) - saved.u[t, b, i] * saved.u[t, b, i]
        for i in range(P):
            g.h[b, i] += given.out[t, b, i]
    add_product(g.h[b0:b1], g.u[t, b0:b1], weights.A_back)
    for b in range(b0, b1):
        if setting.gru:
            gru_cell_backward(saved.gates[t, b], saved.x[t, b, F + K :], g.h[b], g.gates[t, b])
        else:
            lstm_cell_backward(saved.gates[t, b], saved.c[t, b], g.h[b], g.c[b], g.gates[t, b])
            fill_(g.h[b], dtype.type(0))
        fill_(g_before[b - b0, :K], dtype.type(0))
        copy_(g_before[b - b0, K:], g.h[b])
    add_product(g_before[: b1 - b0], g.gates[t, b0:b1], weights.gates_back)
    for b in range(b0, b1):
        copy_(g.read[b], g_before[b - b0, :K])
        copy_(g.h[b], g_before[b - b0, K:])


@kernel
def _start_backward(
    b: int,
    t: int,
    setting: Setting,
    weights: Weights,
    undone: FastWeights,
    saved: Saved,
    g: Gradients,
) -> None:
    """Back through an episode start: to ``theta_0``, and to the fast weights that the episode
    before ended with."""
    dtype = saved.x.dtype
    zero, starts, theta = dtype.type(0), setting.starts, undone.theta
    g.read[b], g.h[b], g.c[b] = zero, zero, zero
    g.theta_0[b // ROWS] += g.theta[b]
    g.theta[b] = zero
    if t > 0:
        s = t - 1
        while s > 0 and not starts[s, b]:
            s -= 1
        theta[b] = weights.theta_0 if starts[s, b] else undone.first[b]
        for k in range(s, t):
            write(theta[b], saved.scales[k, b], saved.z[k, b], saved.delta[k, b])
            if setting.forgets:
                for i in range(theta.shape[2]):
                    for j in range(theta.shape[3]):
                        theta[b, 0, i, j] *= saved.alpha[k, b]


@kernel
def _backward(
    first: int,
    last: int,
    setting: Setting,
    weights: Weights,
    undone: FastWeights,
    saved: Saved,
    given: OutputGradients,
    g: Gradients,
) -> None:
    """Back through :func:`_forward`; ``g`` (:class:`Gradients`) is filled in."""
    B, L, _, K = undone.theta.shape
    T, P, H = saved.x.shape[0], g.h.shape[1], saved.delta.shape[2]
    dtype = saved.x.dtype
    gz, gq, gdelta = (
        np.zeros((3, H, L + 1, K), dtype),
        np.zeros((H, L - 1, K), dtype),
        np.zeros((H, L, K), dtype),
    )
    g_seen = np.zeros((ROWS * H, weights.Q.shape[0]), dtype)
    g_before = np.zeros((ROWS, K + P), dtype)
    deferred_g, deferred_x = np.zeros((ROWS, 2, L, K), dtype), np.zeros((ROWS, 2, L, K), dtype)
    for b0 in range(ROWS * first, ROWS * last, ROWS):
        b1 = min(b0 + ROWS, B)
        for t in range(T - 1, -1, -1):
            for b in range(b0, b1):
                gstep = StepGradient(
                    gz, gq, gdelta, DeferredUpdate(deferred_g[b - b0], deferred_x[b - b0])
                )
                _memory_backward(b, t, setting, undone.theta, saved, given, g, gstep)
                for i in range(P):
                    g.u[t, b, i] = g.strength[t, b] * weights.b[i]
                for i in range(weights.w.shape[0]):
                    g.u[t, b, i] += g.gate[t, b] * weights.w[i]
                for i in range(weights.f.shape[0]):
                    g.u[t, b, i] += g.alpha[t, b] * weights.f[i]
                if setting.rule == LOCAL:
                    for h in range(H):
                        for l in range(L):
                            own = g.targets[t, b, h, l * K : (l + 1) * K]
                            for i in range(K):
                                own[i] = -gdelta[h, l, i]
                            if setting.bounded and l < L - 1:
                                for i in range(K):
                                    z = saved.z[t, b, WRITTEN, h, l + 1, i]
                                    target = z - saved.delta[t, b, h, l, i]
                                    own[i] *= dtype.type(1) - target * target
            if setting.rule == LOCAL:
                _feedback_backward(b0, t, setting, weights, saved.u, g, g_seen)
            _controller_backward(b0, t, setting, weights, saved, given, g, g_before)
            for b in range(b0, b1):
                if setting.starts[t, b] or t == 0:
                    add_deferred(g.theta[b], DeferredUpdate(deferred_g[b - b0], deferred_x[b - b0]))
                if setting.starts[t, b]:
                    _start_backward(b, t, setting, weights, undone, saved, g)


class Parameters(NamedTuple):
    """The parameters of an MNM core, as it has them. Those of the feedback maps are empty but for
    rule p, those of a gate if there is none."""

    weight_ih: Tensor
    """Of the controller, ``[4D, F + M]``, of a GRU ``[3D, F + M]``."""
    weight_hh: Tensor
    """``[4D, D]``, of a GRU ``[3D, D]``."""
    bias_ih: Tensor
    """``[4D]``, of a GRU ``[3D]``."""
    bias_hh: Tensor
    """The same."""
    A: Tensor
    """``[D + 3 H M, D]``."""
    a: Tensor
    """``[D + 3 H M]``."""
    b: Tensor
    """``[1, D]``."""
    b_0: Tensor
    """``[1]``."""
    w: Tensor
    """``[1, D]``."""
    g_0: Tensor
    """``[1]``."""
    f: Tensor
    """``[1, D]``."""
    f_0: Tensor
    """``[1]``."""
    Q: Tensor
    """``[L M, M]``, or ``[L M, 2M]`` for values and keys."""
    q: Tensor
    """``[L M]``."""
    theta_0: Tensor
    """``[L, M, M]``."""


class MnmSteps(ReadingSteps[MnmState]):
    """Steps of an MNM core, see :class:`~mnm_rl.kernels.steps.KernelSteps`."""

    carried = 4
    core: MnmCore

    @staticmethod
    def parameters_of(core: MnmCore) -> Parameters:
        feedback, gate = getattr(core.memory.rule, "feedback", None), core.read_gate
        retention = core.retention
        none = core.output.weight.new_zeros(0, 0)
        return Parameters(
            weight_ih=core.controller.weight_ih,
            weight_hh=core.controller.weight_hh,
            bias_ih=core.controller.bias_ih,
            bias_hh=core.controller.bias_hh,
            A=core.interaction.weight,
            a=core.interaction.bias,
            b=core.write_strength.weight,
            b_0=core.write_strength.bias,
            w=none if gate is None else gate.weight,
            g_0=none.flatten() if gate is None else gate.bias,
            f=none if retention is None else retention.weight,
            f_0=none.flatten() if retention is None else retention.bias,
            Q=none if feedback is None else feedback.weight,
            q=none.flatten() if feedback is None else feedback.bias,
            theta_0=core.memory.theta_0,
        )

    @staticmethod
    def pack(core: MnmCore, parameters: Parameters) -> Weights:
        p = Parameters(*(parameter.detach() for parameter in parameters))
        D, M, n = core.hidden_size, core.memory_size, 3 * core.heads
        pack_cell = pack_gru if isinstance(core.controller, nn.GRUCell) else pack_lstm
        gates, gates_back, gates_bias = pack_cell(p[:4], core.controller.input_size - M)
        A = torch.cat([spread(p.A[:D], 1, D, 1, D), spread(p.A[D:], n, M, 1, D)])
        a = torch.cat([spread_rows(p.a[:D], 1, D), spread_rows(p.a[D:], n, M)])
        Q = spread(p.Q, len(p.Q) // M, M, p.Q.shape[1] // M, M)
        packed = [A.T, A, a]
        w, f = (
            spread_rows(weight[0], 1, D) if len(weight) else weight.flatten()
            for weight in (p.w, p.f)
        )
        packed += [
            spread_rows(p.b[0], 1, D),
            p.b_0.clone(),
            w,
            p.g_0.clone(),
            f,
            p.f_0.clone(),
            Q.T,
            Q,
            spread_rows(p.q, len(p.q) // M, M),
        ]
        arrays = [tensor.contiguous().numpy() for tensor in packed]
        return Weights(gates, gates_back, gates_bias, *arrays, theta_0=pad_memory(p.theta_0))  # type: ignore[misc]

    def __init__(self, workspace: Workspace, state: MnmState, steps: int) -> None:
        super().__init__(workspace, state, steps)
        core, D = self.core, self.D
        M, H = self.M, core.heads
        self.heads = H
        self.F = F = core.controller.input_size - M
        rule = core.memory.rule
        self.setting = Setting(
            rule=RULES[type(rule)],
            gru=isinstance(core.controller, nn.GRUCell),
            M=M,
            bounded=rule.bounded,
            gated=core.read_gate is not None,
            forgets=rule.gated and core.memory.writes,
            step_size=core.memory.writes * (1.0 if rule.bounded else 2 / (H * M)),
            starts=self.episode_starts,
        )
        B, P, K, L = self.B, padded(D), padded(M), core.memory.layers
        self.now = Working(
            h=array(state.h, (B, P), self.dtype),
            c=array(state.c, (B, P), self.dtype),
            read=array(state.read, (B, K), self.dtype),
            theta=pad_memory(state.theta),
        )
        kept = self.now.theta.shape[1:] if self.setting.forgets else (0, 0, 0)
        self.saved = Saved(
            x=self.room("x", steps, B, F + K + P),
            c=self.room("c", steps, B, P),
            gates=self.room("gates", steps, B, 4 * P),
            out=zeros((steps, B, P + K), self.dtype),  # others may have it
            u=self.room("u", steps, B, P + 3 * H * K),
            beta=self.room("beta", steps, B),
            gate=self.room("gate", steps, B),
            alpha=self.room("alpha", steps, B),
            since=self.room("since", steps, B),
            kept=self.room("kept", steps, B, *kept),
            z=self.room("z", steps, B, 3, H, L + 1, K),
            q=self.room("q", steps, B, H, 0 if self.setting.rule == LOCAL else L - 1, K),
            delta=self.room("delta", steps, B, H, L, K),
            scales=self.room("scales", steps, B, L),
            meta_loss=zeros((steps, B), self.dtype),
        )
        self.x = self.saved.x

    def working_state(self) -> tuple[Tensor, ...]:
        h, c, read, theta = map(torch.from_numpy, self.now)
        D, M = self.D, self.M
        return h[:, :D], c[:, : self.initial_state.c.shape[1]], read[:, :M], theta[..., :M, :M]

    def run_kernels(self, t0: int, t1: int) -> Tensor:
        run(_forward, fours(self.B), t0, t1, self.setting, self.weights, self.now, self.saved)
        return torch.from_numpy(self.saved.out[t0:t1])

    def results(self) -> tuple[Tensor | None, ...]:
        return (
            torch.from_numpy(self.saved.out),
            torch.from_numpy(self.saved.meta_loss),
            *self.working_state(),
        )

    def diagnostics(self) -> dict[str, Tensor]:
        T, H, M, L = len(self.saved.x), self.heads, self.M, self.core.memory.layers
        some = slice((T - 1) % sampled(T), None, sampled(T))
        u, z, out, beta = (
            torch.from_numpy(a[some])
            for a in (self.saved.u, self.saved.z, self.saved.out, self.saved.beta)
        )
        P = padded(self.D)
        heads, recalled = u[..., P:].reshape(*u.shape[:2], H, 3, padded(M))[..., :M], z[..., L, :M]
        alpha = torch.from_numpy(self.saved.alpha[some])[..., None, None]
        written = Written(
            keys=z[:, :, WRITTEN, :, 0, :M],
            values=heads[..., VALUE, :],
            read=out[..., P : P + M],
            before=recalled[:, :, WRITTEN],
            after=alpha * recalled[:, :, CHECKED],
            beta=beta,
        )
        last_z, last_delta = (
            z[-1, :, WRITTEN].unbind(2),
            torch.from_numpy(self.saved.delta[-1]).unbind(2),
        )
        change = write_size([*last_z], [*last_delta], torch.from_numpy(self.saved.scales[-1]))
        return memory_diagnostics(written, change, self.working_state()[3])

    def gradients(self, inputs: bool, *given: Tensor | None) -> tuple[Tensor | None, ...]:
        g_out, g_meta_loss, g_h, g_c, g_read, g_theta = given
        weights, saved, D, M, F, H = self.weights, self.saved, self.D, self.M, self.F, self.heads
        T, B, L, P, K, dtype = (
            *saved.x.shape[:2],
            len(weights.theta_0),
            padded(D),
            padded(M),
            self.dtype,
        )
        g = Gradients(
            gates=self.room("g_gates", *saved.gates.shape),
            u=self.room("g_u", *saved.u.shape),
            strength=self.room("g_strength", *saved.beta.shape),
            gate=self.room("g_gate", *saved.gate.shape),
            alpha=self.room("g_alpha", *saved.alpha.shape),
            targets=self.room("g_targets", T, B, H, weights.Q.shape[1]),
            h=array(g_h, (B, P), dtype),
            c=array(g_c, (B, P), dtype),
            read=array(g_read, (B, K), dtype),
            theta=array(g_theta, self.now.theta.shape, dtype),
            theta_0=zeros((fours(B), *weights.theta_0.shape), dtype),
        )
        undone = FastWeights(
            array(torch.from_numpy(self.now.theta), self.now.theta.shape, dtype),
            pad_memory(self.initial_state.theta),
        )
        from_outside = OutputGradients(
            array(g_out, saved.out.shape, dtype), array(g_meta_loss, saved.meta_loss.shape, dtype)
        )
        run(_backward, fours(B), self.setting, weights, undone, saved, from_outside, g)

        # The weights' gradients are a few large products over all steps.
        x, out, u, g_gates, g_u, g_targets = (
            torch.from_numpy(a).flatten(0, 1)
            for a in (saved.x, saved.out, saved.u, g.gates, g.u, g.targets)
        )
        g_targets = g_targets.flatten(0, 1)
        g_strength, g_gate, g_alpha = (
            torch.from_numpy(a).flatten() for a in (g.strength, g.gate, g.alpha)
        )
        unpack_cell = unpack_gru if self.setting.gru else unpack_lstm
        weight_ih, weight_hh, bias_ih, bias_hh = unpack_cell(g_gates.T @ x, g_gates.sum(0), D, F, M)
        g_A, g_a = g_u.T @ out[:, :P], g_u.sum(0)
        # the feedback maps see values, or values and keys; there are none but in rule p
        n, m = 3 * H, weights.Q.shape[0] // K
        values, keys = (
            u[:, P:].reshape(-1, 3, K)[:, VALUE],
            torch.from_numpy(saved.z[:, :, WRITTEN, :, 0]).reshape(-1, K),
        )
        seen = torch.cat([values, keys], dim=1)[:, : m * K]
        parameters = Parameters(
            weight_ih=weight_ih,
            weight_hh=weight_hh,
            bias_ih=bias_ih,
            bias_hh=bias_hh,
            A=torch.cat([gather(g_A[:P], 1, D, 1, D), gather(g_A[P:], n, M, 1, D)]),
            a=torch.cat([gather_rows(g_a[:P], 1, D), gather_rows(g_a[P:], n, M)]),
            b=gather_rows(g_strength @ u[:, :P], 1, D).unsqueeze(0),
            b_0=g_strength.sum().view(1),
            w=gather_rows(g_gate @ u[:, :P], 1, D).unsqueeze(0),
            g_0=g_gate.sum().view(1),
            f=gather_rows(g_alpha @ u[:, :P], 1, D).unsqueeze(0),
            f_0=g_alpha.sum().view(1),
            Q=gather(g_targets.T @ seen, L if m else 0, M, m, M),
            q=gather_rows(g_targets.sum(0), L if m else 0, M),
            theta_0=torch.from_numpy(g.theta_0).sum(0)[:, :M, :M],
        )
        g_inputs = (
            (g_gates @ torch.from_numpy(weights.gates[:F]).T).view(T, B, F) if inputs else None
        )
        widths = D, self.initial_state.c.shape[1], M
        state = (
            torch.from_numpy(row)[:, :width]
            for row, width in zip((g.h, g.c, g.read), widths, strict=True)
        )
        return g_inputs, *state, torch.from_numpy(g.theta)[..., :M, :M], *parameters


class Fused(KernelImplementation[MnmState]):
    """MNM by kernels."""

    steps_class = MnmSteps

    @classmethod
    def refusal(cls, core: Any) -> str | None:
        if type(core.memory) is not NeuralMemory or type(core.memory.rule) not in RULES:
            return (
                f"there is no fused path for the memory {type(core.memory).__name__} with "
                f"{type(core.memory.rule).__name__}"
            )
        if core.variant.read_gate == "vector":
            return "there is no fused path for a gate of its own for every number that is read"
        return super().refusal(core) or (
            "there is no fused path for replay" if core.replay else None
        )

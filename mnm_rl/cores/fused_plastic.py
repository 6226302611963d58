"""A whole sequence of a plastic core as one differentiable operation, environment by environment.

What a clipped trace was before cannot be told from what it is after. So the Hebbian trace is kept every :data:`KEEP` steps, and the
backward pass makes those between again, forwards, before it goes back through them.

Every rule is, row by row of the trace (and, of ``retroactive``, of the eligibility trace E):

    Hebb' = clip(f_i Hebb_ij + c_i h_j),    clipped or not,

with ``h`` the activity before the step and f and c as in :func:`_factors`; ``retroactive`` has ``Hebb' = clip(Hebb_ij + m_i E_ij)``
and ``E' = f_i E_ij + c_i h_j``.
"""

from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from mnm_rl.cores.core import Recording
from mnm_rl.cores.fused import Array, FusedRecording, array, gather_rows, spread, spread_rows
from mnm_rl.cores.plastic import PlasticCore, PlasticState
from mnm_rl.parallel import run
from mnm_rl.simd import (
    LANES,
    ROWS,
    add_matvec,
    add_matvec_transposed,
    clip,
    fma,
    kernel,
    load,
    padded,
    splat,
    store,
    tanh_,
    times_derivative,
    total,
    where_inside,
)

KEEP = 16
HEBB, DECAY, OJA, MODULATED, RETROACTIVE = range(5)
RULES = ("hebb", "decay", "oja", "modulated", "retroactive")


class Weights(NamedTuple):
    """Padded: ``[R, P]`` and ``[P]``, R a multiple of ``ROWS``; those that a rule lacks are zero."""

    w: Array
    alpha: Array
    eta: Array
    """``[1]``."""
    M: Array
    M_bias: Array
    """``[1]``."""
    fan: Array
    fan_bias: Array


class Trace(NamedTuple):
    """What the forward pass leaves for the backward pass, time first."""

    x: Array
    """Inputs, ``[T, B, F]``."""
    before: Array
    """``h_(t-1)``, ``[T, B, P]``."""
    out: Array
    """``U x_t + u``, then ``h_t``, ``[T, B, P]``."""
    q: Array
    """``tanh(M h_t)``, ``[T, B]``."""
    hebb: Array
    """The Hebbian trace before every ``KEEP`` steps, and the eligibility trace, ``[T / KEEP, B, 1 or 2, R, P]``."""


class Gradients(NamedTuple):
    a: Array
    """With respect to ``h_t`` before tanh, ``[T, B, P]``."""
    fan: Array
    """With respect to ``m_t``, ``[T, B, P]``."""
    M: Array
    """With respect to ``M h_t``, ``[T, B]``."""
    eta: Array
    """``[B]``."""
    alpha: Array
    """``[B, R, P]``."""
    h: Array
    """With respect to the state, ``[B, P]`` and ``[B, 1 or 2, R, P]``, after the last step and before the first in the end."""
    hebb: Array


@kernel
def _modulation(weights: Any, h: Any) -> Any:
    """``tanh(M h)``, as an array of one number."""
    q = np.empty(1, h.dtype)
    q[0] = weights.M_bias[0]
    for i in range(h.shape[0]):
        q[0] += weights.M[i] * h[i]
    tanh_(q)
    return q


@kernel
def _factors(rule: int, weights: Any, h: Any, q: Any, f: Any, c: Any, m: Any) -> None:
    """``f``, ``c`` and ``m``, one number a row, after a step that gave h."""
    one, eta = h.dtype.type(1), weights.eta[0]
    for i in range(h.shape[0]):
        m[i] = weights.fan[i] * q + weights.fan_bias[i]
        c[i] = (m[i] if rule == MODULATED else eta) * h[i]
        f[i] = one
        if rule == OJA:
            f[i] -= eta * h[i] * h[i]
        elif rule in (DECAY, RETROACTIVE):
            f[i] -= eta


@kernel
def _update(rule: int, hebb: Any, new: Any, f: Any, c: Any, m: Any, before: Any) -> None:
    """The traces ``new`` after a step, of those before it, ``[1 or 2, R, P]``; they may be the same array."""
    last = hebb.shape[0] - 1  # what is written to: the trace, or the eligibility trace
    for i in range(hebb.shape[1]):
        if rule == RETROACTIVE:
            row, E, to, m_i = hebb[0, i], hebb[1, i], new[0, i], splat(m[i])
            for j in range(0, hebb.shape[2], LANES):
                store(to, j, clip(fma(m_i, load(E, j), load(row, j))))
        row, to, f_i, c_i, zero = hebb[last, i], new[last, i], splat(f[i]), splat(c[i]), splat(f.dtype.type(0))
        if rule in (HEBB, MODULATED):
            for j in range(0, hebb.shape[2], LANES):
                store(to, j, clip(fma(c_i, load(before, j), load(row, j))))
        else:
            for j in range(0, hebb.shape[2], LANES):
                store(to, j, fma(c_i, load(before, j), fma(f_i, load(row, j), zero)))


@kernel
def _forward(first: int, last: int, t0: int, t1: int, rule: int, starts: Any, weights: Any, h: Any, hebb: Any, trace: Any) -> None:
    """Steps t0 to t1 of the environments from first to last; ``h [B, P]`` and ``hebb [B, 1 or 2, R, P]`` are changed in place."""
    P = h.shape[1]
    zero = h.dtype.type(0)
    f, c, m = np.empty(P, h.dtype), np.empty(P, h.dtype), np.empty(P, h.dtype)
    for b in range(first, last):
        for t in range(t0, t1):
            if starts[t, b]:
                h[b], hebb[b] = zero, zero
            if t % KEEP == 0:
                trace.hebb[t // KEEP, b] = hebb[b]
            before, out = trace.before[t, b], trace.out[t, b]
            before[:] = h[b]
            add_matvec(weights.w, before, out)
            for i in range(hebb.shape[2]):
                alpha, row, y = weights.alpha[i], hebb[b, 0, i], splat(zero)
                for j in range(0, P, LANES):
                    y = fma(fma(load(alpha, j), load(row, j), splat(zero)), load(before, j), y)
                out[i] += total(y)
            tanh_(out)
            h[b] = out
            if rule >= MODULATED:
                trace.q[t, b] = _modulation(weights, out)[0]
            _factors(rule, weights, out, trace.q[t, b], f, c, m)
            _update(rule, hebb[b], hebb[b], f, c, m, before)


@kernel
def _update_backward(
    rule: int, hebb: Any, G: Any, f: Any, c: Any, m: Any, before: Any, g_before: Any, g_f: Any, g_c: Any, g_m: Any
) -> None:
    """Back through :func:`_update`, given the traces before it: G, with respect to those after it, is made that with respect
    to those before it; ``g_before`` is added to; ``g_f``, ``g_c`` and ``g_m`` are filled in."""
    last, P = hebb.shape[0] - 1, hebb.shape[2]
    zero = splat(f.dtype.type(0))
    for i in range(hebb.shape[1]):
        f_i, c_i, m_i = splat(f[i]), splat(c[i]), splat(m[i])
        row, G_row, E, G_E = hebb[0, i], G[0, i], hebb[last, i], G[last, i]
        r = s = k = zero
        if rule == RETROACTIVE:
            for j in range(0, P, LANES):
                e, v, g_e = load(E, j), load(before, j), load(G_E, j)
                g = where_inside(fma(m_i, e, load(row, j)), load(G_row, j))
                store(G_row, j, g)
                store(g_before, j, fma(c_i, g_e, load(g_before, j)))
                store(G_E, j, fma(m_i, g, fma(f_i, g_e, zero)))
                k, r, s = fma(g, e, k), fma(g_e, e, r), fma(g_e, v, s)
        elif rule in (HEBB, MODULATED):
            for j in range(0, P, LANES):
                v = load(before, j)
                g = where_inside(fma(c_i, v, load(row, j)), load(G_row, j))
                store(G_row, j, g)
                store(g_before, j, fma(c_i, g, load(g_before, j)))
                s = fma(g, v, s)
        else:
            for j in range(0, P, LANES):
                v, g = load(before, j), load(G_row, j)
                store(G_row, j, fma(f_i, g, zero))
                store(g_before, j, fma(c_i, g, load(g_before, j)))
                r, s = fma(g, load(row, j), r), fma(g, v, s)
        g_f[i], g_c[i], g_m[i] = total(r), total(s), total(k)


@kernel
def _backward(first: int, last: int, rule: int, starts: Any, weights: Any, trace: Any, g_out: Any, g: Any) -> None:
    """Back through :func:`_forward`."""
    T, P = starts.shape[0], g.h.shape[1]
    dtype = g.h.dtype
    zero, one, two, eta = dtype.type(0), dtype.type(1), dtype.type(2), weights.eta[0]
    states = np.empty((KEEP, *trace.hebb.shape[2:]), dtype)
    f, c, m = np.empty(P, dtype), np.empty(P, dtype), np.empty(P, dtype)
    g_f, g_c, g_m, g_before = np.zeros(P, dtype), np.zeros(P, dtype), np.zeros(P, dtype), np.zeros(P, dtype)
    for b in range(first, last):
        for part in range(trace.hebb.shape[0] - 1, -1, -1):
            t0, t1 = part * KEEP, min(part * KEEP + KEEP, T)
            states[0] = trace.hebb[part, b]
            for t in range(t0, t1 - 1):
                if starts[t + 1, b]:
                    states[t + 1 - t0] = zero
                else:
                    _factors(rule, weights, trace.out[t, b], trace.q[t, b], f, c, m)
                    _update(rule, states[t - t0], states[t + 1 - t0], f, c, m, trace.before[t, b])
            for t in range(t1 - 1, t0 - 1, -1):
                h, before, hebb, a = trace.out[t, b], trace.before[t, b], states[t - t0], g.a[t, b]
                q = trace.q[t, b]
                _factors(rule, weights, h, q, f, c, m)
                g_before[:] = zero
                _update_backward(rule, hebb, g.hebb[b], f, c, m, before, g_before, g_f, g_c, g_m)
                g_eta = g_q = zero
                for i in range(P):
                    a[i] = g.h[b, i] + g_out[t, b, i]
                    if rule == MODULATED:
                        a[i] += g_c[i] * m[i]
                        g_m[i] = g_c[i] * h[i]
                    else:
                        a[i] += g_c[i] * eta
                        g_eta += g_c[i] * h[i]
                    if rule == OJA:
                        a[i] -= two * g_f[i] * eta * h[i]
                        g_eta -= g_f[i] * h[i] * h[i]
                    elif rule in (DECAY, RETROACTIVE):
                        g_eta -= g_f[i]
                    g_q += g_m[i] * weights.fan[i]
                g.eta[b] += g_eta
                if rule >= MODULATED:
                    g.fan[t, b] = g_m
                    g.M[t, b] = g_q * (one - q * q)
                    for i in range(P):
                        a[i] += g.M[t, b] * weights.M[i]
                times_derivative(a, h)
                add_matvec_transposed(weights.w, a, g_before)
                for i in range(hebb.shape[1]):
                    a_i, alpha, row, G_row, G_alpha = splat(a[i]), weights.alpha[i], hebb[0, i], g.hebb[b, 0, i], g.alpha[b, i]
                    for j in range(0, P, LANES):
                        v, w, trace_j = load(before, j), load(alpha, j), load(row, j)
                        a_v = fma(a_i, v, splat(zero))
                        store(G_alpha, j, fma(a_v, trace_j, load(G_alpha, j)))
                        store(G_row, j, fma(a_v, w, load(G_row, j)))
                        store(g_before, j, fma(fma(a_i, w, splat(zero)), trace_j, load(g_before, j)))
                g.h[b] = g_before
                if starts[t, b]:
                    g.h[b], g.hebb[b] = zero, zero


class FusedPlastic(FusedRecording[PlasticState]):
    """Steps of a plastic core, see :class:`~mnm_rl.cores.fused.FusedRecording`."""

    carried = 3

    def __init__(self, core: PlasticCore, state: PlasticState, steps: int, reuse: Recording[PlasticState] | None = None) -> None:
        super().__init__(core, state, tuple(core.parameters()), steps, reuse)
        D, B, dtype = self.D, self.B, self.dtype
        P, R = padded(D), padded(D, ROWS)
        self.rule = RULES.index(core.rule)
        none = torch.zeros(1, dtype=core.w.dtype)
        has_eta, modulated = hasattr(core, "eta"), hasattr(core, "modulator")
        with torch.no_grad():
            self.weights = Weights(
                w=spread(core.w, 1, 1, D)[:R].numpy(),
                alpha=spread(core.alpha, 1, 1, D)[:R].numpy(),
                eta=(core.eta.view(1) if has_eta else none).numpy(),
                M=array(core.modulator.weight[0] if modulated else None, (P,), dtype),
                M_bias=(core.modulator.bias if modulated else none).numpy(),
                fan=array(core.fan_out.weight[:, 0] if modulated else None, (P,), dtype),
                fan_bias=array(core.fan_out.bias if modulated else None, (P,), dtype),
            )
            self.U, self.u = spread_rows(core.input.weight, 1, D).T, spread_rows(core.input.bias, 1, D)
        traces = 2 if core.rule == "retroactive" else 1
        self.h, self.hebb = array(state.h, (B, P), dtype), np.zeros((B, traces, R, P), dtype)
        self.hebb[:, 0, :D, :D] = state.hebb.detach().numpy()
        if traces == 2:
            self.hebb[:, 1, :D, :D] = state.eligibility.detach().numpy()
        self.trace = Trace(
            x=self.room("x", steps, B, core.input.in_features),
            before=self.room("before", steps, B, P),
            out=np.zeros((steps, B, P), dtype),
            q=self.room("q", steps, B),
            hebb=self.room("hebb", -(-steps // KEEP), B, traces, R, P),
        )
        self.F = core.input.in_features
        self.names = [name for name, _ in core.named_parameters()]
        self.x = self.trace.x

    @property
    def state(self) -> PlasticState:
        D = self.D
        hebb = torch.from_numpy(self.hebb)[..., :D, :D]
        eligibility = hebb[:, 1] if hebb.shape[1] == 2 else self.initial_state.eligibility
        return PlasticState(torch.from_numpy(self.h)[:, :D], hebb[:, 0], eligibility)

    def run(self, t0: int, t1: int) -> Tensor:
        out = torch.from_numpy(self.trace.out[t0:t1])
        torch.addmm(self.u, torch.from_numpy(self.trace.x[t0:t1]).flatten(0, 1), self.U, out=out.view(-1, out.shape[-1]))
        run(_forward, self.B, t0, t1, self.rule, self.episode_starts, self.weights, self.h, self.hebb, self.trace)
        return out

    def outputs(self, raw: Tensor) -> Tensor:
        return raw[..., : self.D]

    def results(self) -> tuple[Tensor | None, ...]:
        return torch.from_numpy(self.trace.out), None, *self.state

    def gradients(self, inputs: bool, *given: Tensor | None) -> tuple[Tensor | None, ...]:
        g_out, _, g_h, g_hebb, g_eligibility = given
        trace, D, B, dtype = self.trace, self.D, self.B, self.dtype
        g = Gradients(
            a=self.room("g_a", *trace.out.shape),
            fan=self.room("g_fan", *trace.out.shape),
            M=self.room("g_M", *trace.q.shape),
            eta=np.zeros(B, dtype),
            alpha=np.zeros((B, *self.weights.alpha.shape), dtype),
            h=array(g_h, self.h.shape, dtype),
            hebb=np.zeros_like(self.hebb),
        )
        for G, g_given in zip(np.moveaxis(g.hebb, 1, 0), (g_hebb, g_eligibility), strict=False):
            if g_given is not None:
                G[:, :D, :D] = g_given.numpy()
        out = array(g_out, trace.out.shape, dtype)
        run(_backward, B, self.rule, self.episode_starts, self.weights, trace, out, g)
        a, x, before, h, fan = (torch.from_numpy(v).flatten(0, 1) for v in (g.a, trace.x, trace.before, trace.out, g.fan))
        g_M, q = torch.from_numpy(g.M).flatten(), torch.from_numpy(trace.q).flatten()
        parameters = {
            "input.weight": gather_rows(a.T @ x, 1, D),
            "input.bias": a.sum(0)[:D],
            "w": (a.T @ before)[:D, :D],
            "alpha": torch.from_numpy(g.alpha).sum(0)[:D, :D],
            "eta": torch.from_numpy(g.eta).sum(),
            "modulator.weight": (g_M @ h)[None, :D],
            "modulator.bias": g_M.sum().view(1),
            "fan_out.weight": (q @ fan)[:D, None],
            "fan_out.bias": fan.sum(0)[:D],
        }
        g_inputs = (a @ self.U.T).view(trace.x.shape) if inputs else None
        hebb = torch.from_numpy(g.hebb)[..., :D, :D]
        state = (torch.from_numpy(g.h)[:, :D], hebb[:, 0], hebb[:, 1] if hebb.shape[1] == 2 else None)
        return g_inputs, *state, *(parameters[name] for name in self.names)

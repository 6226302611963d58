"""A whole sequence of a plastic core as one differentiable operation, environment by environment.

What a clipped trace was before cannot be told from what it is after. So the Hebbian trace is kept
every :data:`KEEP` steps, and the backward pass makes those between again, forwards, before it goes
back through them.

Every rule is, row by row of the trace (and, of ``retroactive``, of the eligibility trace E):

    Hebb' = clip(f_i Hebb_ij + c_i h_j),    clipped or not,

with ``h`` the activity before the step and f and c as in :func:`_factors`; ``retroactive`` has
``Hebb' = clip(Hebb_ij + m_i E_ij)`` and ``E' = f_i E_ij + c_i h_j``.
"""

from typing import NamedTuple, get_args

import numpy as np
import torch
from torch import Tensor

from mnm_rl.cores.plastic import PlasticCore, PlasticRule, PlasticState
from mnm_rl.kernels.arena import Array, zeros
from mnm_rl.kernels.padding import array, gather_rows, spread, spread_rows
from mnm_rl.kernels.parallel import run
from mnm_rl.kernels.simd import (
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
from mnm_rl.kernels.stepper import KernelImplementation
from mnm_rl.kernels.steps import KernelSteps, Workspace

KEEP = 16
HEBB, DECAY, OJA, MODULATED, RETROACTIVE = range(5)
RULES = get_args(PlasticRule)


class Weights(NamedTuple):
    """The parameters, padded, R a multiple of ``ROWS``; those that a rule lacks are zero."""

    U: Array
    """``[F, P]``."""
    u: Array
    """``[P]``."""
    w: Array
    """``[R, P]``."""
    alpha: Array
    """``[R, P]``."""
    eta: Array
    """``[1]``."""
    M: Array
    """``[P]``."""
    M_bias: Array
    """``[1]``."""
    fan: Array
    """``[P]``."""
    fan_bias: Array
    """``[P]``."""


class Saved(NamedTuple):
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
    """The Hebbian trace before every ``KEEP`` steps, and the eligibility trace, ``[T / KEEP, B, 1
    or 2, R, P]``."""


class Setting(NamedTuple):
    """What stays the same over a sequence."""

    rule: int
    """The number of the rule, in ``RULES``."""
    starts: Array
    """Episode starts, ``[T, B]`` bool."""


class Working(NamedTuple):
    """The state, changed in place."""

    h: Array
    """``[B, P]``."""
    hebb: Array
    """The Hebbian trace and the eligibility trace, ``[B, 1 or 2, R, P]``."""


class Factors(NamedTuple):
    """The factors of a step (see the equation above), or the gradients with respect to them: one
    number per row."""

    f: Array
    """``[P]``."""
    c: Array
    """``[P]``."""
    m: Array
    """``[P]``."""


class Gradients(NamedTuple):
    """What the backward pass makes, time first."""

    a: Array
    """With respect to ``h_t`` before tanh, ``[T, B, P]``."""
    fan: Array
    """With respect to ``m_t``, ``[T, B, P]``."""
    M: Array
    """With respect to ``M h_t``, ``[T, B]``."""
    eta: Array
    """With respect to eta, ``[B]``."""
    alpha: Array
    """With respect to alpha, ``[B, R, P]``."""
    h: Array
    """With respect to ``h`` after the last step, made that before the first one, ``[B, P]``."""
    hebb: Array
    """The same for both traces, ``[B, 1 or 2, R, P]``."""


@kernel
def _modulation(weights: Weights, h: Array) -> Array:
    """``tanh(M h)``, as an array of one number."""
    q = np.empty(1, h.dtype)
    q[0] = weights.M_bias[0]
    for i in range(h.shape[0]):
        q[0] += weights.M[i] * h[i]
    tanh_(q)
    return q


@kernel
def _factors(rule: int, weights: Weights, h: Array, q: float, factors: Factors) -> None:
    """The factors after a step that gave h."""
    f, c, m = factors.f, factors.c, factors.m
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
def _update(rule: int, hebb: Array, new: Array, factors: Factors, before: Array) -> None:
    """The traces ``new`` after a step, of those before it, ``[1 or 2, R, P]``; they may be the same
    array."""
    f, c, m = factors.f, factors.c, factors.m
    last = hebb.shape[0] - 1  # what is written to: the trace, or the eligibility trace
    for i in range(hebb.shape[1]):
        if rule == RETROACTIVE:
            row, E, to, m_i = hebb[0, i], hebb[1, i], new[0, i], splat(m[i])
            for j in range(0, hebb.shape[2], LANES):
                store(to, j, clip(fma(m_i, load(E, j), load(row, j))))
        row, to, f_i, c_i, zero = (
            hebb[last, i],
            new[last, i],
            splat(f[i]),
            splat(c[i]),
            splat(f.dtype.type(0)),
        )
        if rule in (HEBB, MODULATED):
            for j in range(0, hebb.shape[2], LANES):
                store(to, j, clip(fma(c_i, load(before, j), load(row, j))))
        else:
            for j in range(0, hebb.shape[2], LANES):
                store(to, j, fma(c_i, load(before, j), fma(f_i, load(row, j), zero)))


@kernel
def _activity(weights: Weights, before: Array, hebb: Array, out: Array) -> None:
    """``out = tanh(out + (w + alpha * Hebb) before)``."""
    zero = splat(out.dtype.type(0))
    add_matvec(weights.w, before, out)
    for i in range(hebb.shape[0]):
        alpha, row, y = weights.alpha[i], hebb[i], zero
        for j in range(0, hebb.shape[1], LANES):
            y = fma(fma(load(alpha, j), load(row, j), zero), load(before, j), y)
        out[i] += total(y)
    tanh_(out)


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
    """Steps t0 to t1 of the environments from first to last."""
    h, hebb, rule = state.h, state.hebb, setting.rule
    P = h.shape[1]
    zero = h.dtype.type(0)
    factors = Factors(np.empty(P, h.dtype), np.empty(P, h.dtype), np.empty(P, h.dtype))
    for b in range(first, last):
        for t in range(t0, t1):
            if setting.starts[t, b]:
                h[b], hebb[b] = zero, zero
            if t % KEEP == 0:
                saved.hebb[t // KEEP, b] = hebb[b]
            before, out = saved.before[t, b], saved.out[t, b]
            before[:] = h[b]
            _activity(weights, before, hebb[b, 0], out)
            h[b] = out
            if rule >= MODULATED:
                saved.q[t, b] = _modulation(weights, out)[0]
            _factors(rule, weights, out, saved.q[t, b], factors)
            _update(rule, hebb[b], hebb[b], factors, before)


@kernel
def _update_backward(
    rule: int,
    hebb: Array,
    G: Array,
    factors: Factors,
    before: Array,
    g_before: Array,
    g_factors: Factors,
) -> None:
    """Back through :func:`_update`, given the traces before it: G, with respect to those after it,
    is made that with respect to those before it; ``g_before`` is added to; ``g_factors`` is filled
    in."""
    last, P = hebb.shape[0] - 1, hebb.shape[2]
    zero = splat(factors.f.dtype.type(0))
    for i in range(hebb.shape[1]):
        f_i, c_i, m_i = splat(factors.f[i]), splat(factors.c[i]), splat(factors.m[i])
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
        g_factors.f[i], g_factors.c[i], g_factors.m[i] = total(r), total(s), total(k)


@kernel
def _factors_backward(
    b: int,
    t: int,
    rule: int,
    weights: Weights,
    saved: Saved,
    factors: Factors,
    g_factors: Factors,
    g: Gradients,
) -> None:
    """Back through :func:`_factors` and the modulation: adds to ``g.a``, the gradient with respect
    to ``h_t``."""
    h, a, q = saved.out[t, b], g.a[t, b], saved.q[t, b]
    dtype = h.dtype
    eta, g_eta, g_q = weights.eta[0], dtype.type(0), dtype.type(0)
    for i in range(h.shape[0]):
        g_f, g_c = g_factors.f[i], g_factors.c[i]
        if rule == MODULATED:
            a[i] += g_c * factors.m[i]
            g_factors.m[i] = g_c * h[i]
        else:
            a[i] += g_c * eta
            g_eta += g_c * h[i]
        if rule == OJA:
            a[i] -= dtype.type(2) * g_f * eta * h[i]
            g_eta -= g_f * h[i] * h[i]
        elif rule in (DECAY, RETROACTIVE):
            g_eta -= g_f
        g_q += g_factors.m[i] * weights.fan[i]
    g.eta[b] += g_eta
    if rule >= MODULATED:
        g.fan[t, b] = g_factors.m
        g.M[t, b] = g_q * (dtype.type(1) - q * q)
        for i in range(h.shape[0]):
            a[i] += g.M[t, b] * weights.M[i]


@kernel
def _activity_backward(
    weights: Weights,
    before: Array,
    hebb: Array,
    a: Array,
    g_before: Array,
    G: Array,
    g_alpha: Array,
) -> None:
    """Back through :func:`_activity` before its tanh, given the gradient a: adds to that of the
    state, the trace and alpha."""
    zero = splat(a.dtype.type(0))
    add_matvec_transposed(weights.w, a, g_before)
    for i in range(hebb.shape[0]):
        a_i, alpha, row, G_row, g_alpha_row = (
            splat(a[i]),
            weights.alpha[i],
            hebb[i],
            G[i],
            g_alpha[i],
        )
        for j in range(0, hebb.shape[1], LANES):
            v, w, trace_j = load(before, j), load(alpha, j), load(row, j)
            a_v = fma(a_i, v, zero)
            store(g_alpha_row, j, fma(a_v, trace_j, load(g_alpha_row, j)))
            store(G_row, j, fma(a_v, w, load(G_row, j)))
            store(g_before, j, fma(fma(a_i, w, zero), trace_j, load(g_before, j)))


@kernel
def _make_again(
    b: int,
    t0: int,
    t1: int,
    setting: Setting,
    weights: Weights,
    saved: Saved,
    states: Array,
    factors: Factors,
) -> None:
    """The traces before each of the steps t0 to t1, from that before the first."""
    states[0] = saved.hebb[t0 // KEEP, b]
    for t in range(t0, t1 - 1):
        if setting.starts[t + 1, b]:
            states[t + 1 - t0] = states.dtype.type(0)
        else:
            _factors(setting.rule, weights, saved.out[t, b], saved.q[t, b], factors)
            _update(setting.rule, states[t - t0], states[t + 1 - t0], factors, saved.before[t, b])


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
    T, P, rule = setting.starts.shape[0], g.h.shape[1], setting.rule
    dtype = g.h.dtype
    zero = dtype.type(0)
    states = np.empty((KEEP, *saved.hebb.shape[2:]), dtype)
    factors = Factors(np.empty(P, dtype), np.empty(P, dtype), np.empty(P, dtype))
    g_factors, g_before = (
        Factors(np.zeros(P, dtype), np.zeros(P, dtype), np.zeros(P, dtype)),
        np.zeros(P, dtype),
    )
    for b in range(first, last):
        for part in range(saved.hebb.shape[0] - 1, -1, -1):
            t0, t1 = part * KEEP, min(part * KEEP + KEEP, T)
            _make_again(b, t0, t1, setting, weights, saved, states, factors)
            for t in range(t1 - 1, t0 - 1, -1):
                h, before, hebb, a = saved.out[t, b], saved.before[t, b], states[t - t0], g.a[t, b]
                _factors(rule, weights, h, saved.q[t, b], factors)
                g_before[:] = zero
                _update_backward(rule, hebb, g.hebb[b], factors, before, g_before, g_factors)
                for i in range(P):
                    a[i] = g.h[b, i] + g_out[t, b, i]
                _factors_backward(b, t, rule, weights, saved, factors, g_factors, g)
                times_derivative(a, h)
                _activity_backward(weights, before, hebb[0], a, g_before, g.hebb[b, 0], g.alpha[b])
                g.h[b] = g_before
                if setting.starts[t, b]:
                    g.h[b], g.hebb[b] = zero, zero


class Parameters(NamedTuple):
    """The parameters of a plastic core; those that a rule lacks are empty."""

    U: Tensor
    """``[D, F]``."""
    u: Tensor
    """``[D]``."""
    w: Tensor
    """``[D, D]``."""
    alpha: Tensor
    """``[D, D]``."""
    eta: Tensor
    """A scalar."""
    M: Tensor
    """``[1, D]``."""
    M_bias: Tensor
    """``[1]``."""
    fan: Tensor
    """``[D, 1]``."""
    fan_bias: Tensor
    """``[D]``."""


class PlasticSteps(KernelSteps[PlasticState]):
    """Steps of a plastic core, see :class:`~mnm_rl.kernels.steps.KernelSteps`."""

    carried = 3
    core: PlasticCore

    @staticmethod
    def parameters_of(core: PlasticCore) -> Parameters:
        none = core.w.new_zeros(0)
        M, fan = getattr(core, "modulator", None), getattr(core, "fan_out", None)
        return Parameters(
            *(core.input.weight, core.input.bias, core.w, core.alpha, getattr(core, "eta", none)),
            *((none, none) if M is None else (M.weight, M.bias)),
            *((none, none) if fan is None else (fan.weight, fan.bias)),
        )

    @staticmethod
    def pack(core: PlasticCore, parameters: Parameters) -> "Weights":
        p = Parameters(*(parameter.detach() for parameter in parameters))
        D = core.hidden_size
        P, R, dtype = padded(D), padded(D, ROWS), p.w.numpy().dtype
        return Weights(
            U=spread_rows(p.U, 1, D).T.contiguous().numpy(),
            u=array(p.u, (P,), dtype),
            w=spread(p.w, 1, D, 1, D)[:R].contiguous().numpy(),
            alpha=spread(p.alpha, 1, D, 1, D)[:R].contiguous().numpy(),
            eta=array(p.eta.view(-1), (1,), dtype),
            M=array(p.M.view(-1), (P,), dtype),
            M_bias=array(p.M_bias, (1,), dtype),
            fan=array(p.fan.view(-1), (P,), dtype),
            fan_bias=array(p.fan_bias, (P,), dtype),
        )

    def __init__(self, workspace: Workspace, state: PlasticState, steps: int) -> None:
        super().__init__(workspace, state, steps)
        D, B, dtype = self.D, self.B, self.dtype
        P, R = padded(D), padded(D, ROWS)
        traces = 2 if self.core.rule == "retroactive" else 1
        self.setting = Setting(RULES.index(self.core.rule), self.episode_starts)
        self.F = self.core.input.in_features
        self.now = Working(array(state.h, (B, P), dtype), zeros((B, traces, R, P), dtype))
        for i, trace in enumerate((state.hebb, state.eligibility)[:traces]):
            torch.from_numpy(self.now.hebb)[:, i, :D, :D] = trace.detach()
        self.saved = Saved(
            x=self.room("x", steps, B, self.F),
            before=self.room("before", steps, B, P),
            out=zeros((steps, B, P), dtype),  # others may have it
            q=self.room("q", steps, B),
            hebb=self.room("hebb", -(-steps // KEEP), B, traces, R, P),
        )
        self.x = self.saved.x

    def working_state(self) -> tuple[Tensor, ...]:
        D = self.D
        hebb = torch.from_numpy(self.now.hebb)[..., :D, :D]
        eligibility = hebb[:, 1] if hebb.shape[1] == 2 else self.initial_state.eligibility
        return torch.from_numpy(self.now.h)[:, :D], hebb[:, 0], eligibility

    def run_kernels(self, t0: int, t1: int) -> Tensor:
        out = torch.from_numpy(self.saved.out[t0:t1])
        x, U, u = (
            torch.from_numpy(a) for a in (self.saved.x[t0:t1], self.weights.U, self.weights.u)
        )
        torch.addmm(u, x.flatten(0, 1), U, out=out.view(-1, out.shape[-1]))
        run(_forward, self.B, t0, t1, self.setting, self.weights, self.now, self.saved)
        return out

    def outputs(self, raw: Tensor) -> Tensor:
        return raw[..., : self.D]

    def results(self) -> tuple[Tensor | None, ...]:
        return torch.from_numpy(self.saved.out), None, *self.working_state()

    def gradients(self, inputs: bool, *given: Tensor | None) -> tuple[Tensor | None, ...]:
        g_out, _, g_h, g_hebb, g_eligibility = given
        saved, D, B, dtype = self.saved, self.D, self.B, self.dtype
        g = Gradients(
            a=self.room("g_a", *saved.out.shape),
            fan=self.room("g_fan", *saved.out.shape),
            M=self.room("g_M", *saved.q.shape),
            eta=zeros((B,), dtype),
            alpha=zeros((B, *self.weights.alpha.shape), dtype),
            h=array(g_h, self.now.h.shape, dtype),
            hebb=zeros(self.now.hebb.shape, dtype),
        )
        for i, g_given in enumerate((g_hebb, g_eligibility)[: g.hebb.shape[1]]):
            if g_given is not None:
                torch.from_numpy(g.hebb)[:, i, :D, :D] = g_given
        out = array(g_out, saved.out.shape, dtype)
        run(_backward, B, self.setting, self.weights, saved, out, g)
        a, x, before, h, fan = (
            torch.from_numpy(v).flatten(0, 1)
            for v in (g.a, saved.x, saved.before, saved.out, g.fan)
        )
        g_M, q = torch.from_numpy(g.M).flatten(), torch.from_numpy(saved.q).flatten()
        parameters = Parameters(
            U=gather_rows(a.T @ x, 1, D),
            u=a.sum(0)[:D],
            w=(a.T @ before)[:D, :D],
            alpha=torch.from_numpy(g.alpha).sum(0)[:D, :D],
            eta=torch.from_numpy(g.eta).sum(),
            M=(g_M @ h)[None, :D],
            M_bias=g_M.sum().view(1),
            fan=(q @ fan)[:D, None],
            fan_bias=fan.sum(0)[:D],
        )
        present = (
            gradient if own.numel() else None
            for gradient, own in zip(parameters, self.parameters, strict=True)
        )
        g_inputs = (a @ torch.from_numpy(self.weights.U).T).view(saved.x.shape) if inputs else None
        hebb = torch.from_numpy(g.hebb)[..., :D, :D]
        state = (
            torch.from_numpy(g.h)[:, :D],
            hebb[:, 0],
            hebb[:, 1] if hebb.shape[1] == 2 else None,
        )
        return g_inputs, *state, *present


class Fused(KernelImplementation[PlasticState]):
    """Plastic RNN by kernels."""

    steps_class = PlasticSteps

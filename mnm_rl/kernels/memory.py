"""The step of the neural memory for one environment, forward and backward, as Numba kernels.

The equations are those of :mod:`mnm_rl.memory`, in the same symbols, and the adjoint is that of
``docs/mathematics.md``; the rows of every array are padded with zeros to ``K`` numbers (and those
of the fast weights to ``R`` rows, a multiple of 4), see :mod:`mnm_rl.kernels.simd`.

``theta``: fast weights ``W^1 ... W^L``, ``[L, R, K]``, changed in place. ``G``: the gradient with
respect to them, likewise. ``scales``: the step sizes ``s^1 ... s^L`` of the write, ``scale`` that
of a layer. ``strength``: what they are computed of, ``beta``, or unless writes are ``bounded`` the
step size of all layers.

A write is undone in the backward pass by adding what it subtracted, so no fast weights are kept
from the forward pass.
"""

from typing import NamedTuple

import numpy as np

from mnm_rl.kernels.arena import Array
from mnm_rl.kernels.simd import (
    LANES,
    add_matvec,
    add_matvec_transposed,
    add_totals,
    fma,
    inlined,
    load,
    minus,
    splat,
    store,
    tanh_,
    times_derivative,
)
from mnm_rl.memory.rules import (
    DeltaRule,
    GatedDeltaRule,
    GradientRule,
    LocalRule,
    WriteRule,
)

WRITTEN, READ, CHECKED = 0, 1, 2
"""The groups of keys: the written keys before the write, the read keys after it, and the written
keys after it."""

GRADIENT, LOCAL, DELTA = 0, 1, 2
RULES: dict[type[WriteRule], int] = {
    GradientRule: GRADIENT,
    LocalRule: LOCAL,
    DeltaRule: DELTA,
    GatedDeltaRule: DELTA,  # what it leaves of the fast weights is up to the caller
}
"""The write rules that these kernels know; not their subclasses."""


LEAST_TOTAL = 1e-19
"""What the step of rule g is divided by is not less: where there is no error, nothing is
written."""

BLOCK = LANES
"""Rows of a layer that all is done with, as far as the rule allows, before the next: they stay in
the nearest cache, and to fetch and write back fast weights takes longer than the arithmetic."""


class Step(NamedTuple):
    """What a step of the memory computes."""

    z: Array
    """Activations ``z^0 ... z^L`` of the three groups of H keys, ``[3, H, L + 1, K]``."""
    q: Array
    """Of rule g: ``q^l = (W^(l+1))^T delta^(l+1)`` for l = 1 ... L-1, ``[H, L - 1, K]``."""
    delta: Array
    """Error signals ``delta^1 ... delta^L``, ``[H, L, K]``."""
    scales: Array
    """Step sizes ``s^1 ... s^L``, ``[L]``."""


class DeferredUpdate(NamedTuple):
    """What the gradient with respect to the fast weights still lacks, of head 0: ``G^l += sum_k
    g^l_k (x^l_k)^T``.

    It is added in the pass over G that the step before needs anyway: to fetch and write back G once
    more would take longer.
    """

    g: Array
    """``[2, L, K]``: of what the written keys gave, and of the error signals of rule g."""
    x: Array
    """``[2, L, K]``."""


class StepGradient(NamedTuple):
    """The gradient with respect to a :class:`Step`."""

    z: Array
    """``[3, H, L + 1, K]``."""
    q: Array
    """``[H, L - 1, K]``."""
    delta: Array
    """``[H, L, K]``."""
    deferred: DeferredUpdate
    """What the gradient with respect to the fast weights lacks."""


@inlined
def set_key(bounded: bool, z: Array, key: Array) -> None:
    """``z^0``, of a key: for bounded writes, scaled to norm one."""
    scale = z.dtype.type(1) / _norm(key) if bounded else z.dtype.type(1)
    for i in range(z.shape[0]):
        z[i] = scale * key[i]


@inlined
def set_key_backward(bounded: bool, g: Array, key: Array) -> None:
    """Back through :func:`set_key`; g is made the gradient with respect to the key."""
    if bounded:
        norm, along = _norm(key), g.dtype.type(0)
        for i in range(key.shape[0]):
            along += g[i] * key[i]
        for i in range(key.shape[0]):
            g[i] = (g[i] - along * key[i] / (norm * norm)) / norm


@inlined
def _norm(x: Array) -> float:
    square: float = x.dtype.type(0)
    for i in range(x.shape[0]):
        square += x[i] * x[i]
    norm: float = np.sqrt(square)
    least: float = x.dtype.type(1e-12)  # the least that PyTorch's normalize divides by
    return max(norm, least)


@inlined
def _add_outer_product(W: Array, factor: float, x: Array, y: Array) -> None:
    """``W += factor * x y^T``."""
    for i in range(0, W.shape[0], 4):
        a, b, c, d = (
            splat(factor * x[i]),
            splat(factor * x[i + 1]),
            splat(factor * x[i + 2]),
            splat(factor * x[i + 3]),
        )
        for j in range(0, W.shape[1], LANES):
            v = load(y, j)
            store(W[i], j, fma(a, v, load(W[i], j)))
            store(W[i + 1], j, fma(b, v, load(W[i + 1], j)))
            store(W[i + 2], j, fma(c, v, load(W[i + 2], j)))
            store(W[i + 3], j, fma(d, v, load(W[i + 3], j)))


@inlined
def write(theta: Array, scales: Array, z: Array, delta: Array) -> None:
    """``W^l -= s^l * sum_h delta^l_h (z^(l-1)_h)^T`` for every layer: a write whose factors are
    known."""
    for l in range(theta.shape[0]):
        for h in range(z.shape[1]):
            _add_outer_product(theta[l], -scales[l], delta[h, l], z[WRITTEN, h, l])


@inlined
def _write_and_run(W: Array, i: int, l: int, scale: float, z: Array, delta: Array) -> None:
    """Write a block of layer l, the rows W from row i, and run it on the read keys and the written
    keys."""
    H = z.shape[1]
    for h in range(H - 1):
        _add_outer_product(W, -scale, delta[h, l, i:], z[WRITTEN, h, l])
    _write_and_run_last(
        W,
        scale,
        delta[H - 1, l, i:],
        z[:, H - 1, l],
        z[READ, H - 1, l + 1, i:],
        z[CHECKED, H - 1, l + 1, i:],
    )
    for h in range(H - 1):
        add_matvec(W, z[READ, h, l], z[READ, h, l + 1, i:])
        add_matvec(W, z[CHECKED, h, l], z[CHECKED, h, l + 1, i:])


@inlined
def _write_and_run_last(
    W: Array, scale: float, d: Array, x: Array, read: Array, checked: Array
) -> None:
    """The write of the last head, ``W -= scale * d x^T``, and its products, in one pass; x of the
    three groups, ``[3, K]``."""
    x_w, x_r, x_c = x[WRITTEN], x[READ], x[CHECKED]
    for i in range(0, W.shape[0], 4):
        W0, W1, W2, W3 = W[i], W[i + 1], W[i + 2], W[i + 3]
        d0, d1, d2, d3 = (
            splat(-scale * d[i]),
            splat(-scale * d[i + 1]),
            splat(-scale * d[i + 2]),
            splat(-scale * d[i + 3]),
        )
        r0 = r1 = r2 = r3 = c0 = c1 = c2 = c3 = splat(W.dtype.type(0))
        for j in range(0, W.shape[1], LANES):
            v, v_r, v_c = load(x_w, j), load(x_r, j), load(x_c, j)
            w0, w1, w2, w3 = (
                fma(d0, v, load(W0, j)),
                fma(d1, v, load(W1, j)),
                fma(d2, v, load(W2, j)),
                fma(d3, v, load(W3, j)),
            )
            store(W0, j, w0)
            store(W1, j, w1)
            store(W2, j, w2)
            store(W3, j, w3)
            r0, r1, r2, r3 = fma(w0, v_r, r0), fma(w1, v_r, r1), fma(w2, v_r, r2), fma(w3, v_r, r3)
            c0, c1, c2, c3 = fma(w0, v_c, c0), fma(w1, v_c, c1), fma(w2, v_c, c2), fma(w3, v_c, c3)
        add_totals(read, i, r0, r1, r2, r3)
        add_totals(checked, i, c0, c1, c2, c3)


@inlined
def _gradient_deltas(theta: Array, h: int, step: Step, values: Array) -> None:
    """Run head h, and go back to the error signals of rule g; the delta rule is rule g of a single
    layer."""
    z, q, delta = step.z[WRITTEN, h], step.q[h], step.delta[h]
    L, one = theta.shape[0], theta.dtype.type(1)
    for l in range(L):
        add_matvec(theta[l], z[l], z[l + 1])
        if l < L - 1:
            tanh_(z[l + 1])
    for i in range(z.shape[1]):
        delta[L - 1, i] = z[L, i] - values[h, i]
    for l in range(L - 2, -1, -1):
        q[l] = theta.dtype.type(0)
        add_matvec_transposed(theta[l + 1], delta[l + 1], q[l])
        for i in range(z.shape[1]):
            delta[l, i] = q[l, i] * (one - z[l + 1, i] * z[l + 1, i])


@inlined
def _local_deltas(W: Array, i: int, l: int, step: Step, targets: Array) -> None:
    """Run a block of layer l, the rows W from row i, and take its error signals by rule p, which
    need no other rows."""
    z, last = step.z[WRITTEN], l == step.delta.shape[1] - 1
    for h in range(z.shape[0]):
        row, delta, target = (
            z[h, l + 1, i : i + BLOCK],
            step.delta[h, l, i : i + BLOCK],
            targets[h, l, i : i + BLOCK],
        )
        add_matvec(W, z[h, l], row)
        if not last:
            tanh_(row)
        for k in range(row.shape[0]):
            delta[k] = row[k] - target[k]


@inlined
def _power(z: Array, l: int) -> float:
    """``N = max(H, sum_h |z_h|^2)`` of what goes into layer l; z is of the written keys, ``[H, L +
    1, K]``."""
    square: float = z.dtype.type(0)
    least: float = z.dtype.type(z.shape[0])
    if l == 0:  # keys have norm one
        return least
    for h in range(z.shape[0]):
        for i in range(z.shape[2]):
            square += z[h, l, i] * z[h, l, i]
    return max(square, least)


@inlined
def _energy(delta: Array, l: int) -> float:
    """``E = sum_h |delta_h|^2`` of layer l."""
    square: float = delta.dtype.type(0)
    for h in range(delta.shape[0]):
        for i in range(delta.shape[2]):
            square += delta[h, l, i] * delta[h, l, i]
    return square


@inlined
def _total(step: Step) -> float:
    """``sum_l E^l N^l``, what a bounded step of rule g is divided by."""
    total: float = step.delta.dtype.type(0)
    least: float = step.delta.dtype.type(LEAST_TOTAL)
    for l in range(step.delta.shape[1]):
        total += _energy(step.delta, l) * _power(step.z[WRITTEN], l)
    return max(total, least)


@inlined
def _power_backward(g_N: float, l: int, z: Array, g_z: Array) -> None:
    """Back through :func:`_power`."""
    if _power(z, l) > z.dtype.type(z.shape[0]):
        for h in range(z.shape[0]):
            for i in range(z.shape[2]):
                g_z[h, l, i] += z.dtype.type(2) * g_N * z[h, l, i]


@inlined
def _share_of_gradient_backward(g_share: float, step: Step, g: StepGradient) -> None:
    """Back through ``E^L / sum_l E^l N^l``, to the error signals and what went into the layers."""
    z, delta, L = step.z[WRITTEN], step.delta, step.delta.shape[1]
    total = _total(step)
    g_total = -g_share * _energy(delta, L - 1) / (total * total)
    for l in range(L):
        g_E = g_total * _power(z, l)
        if l == L - 1:
            g_E += g_share / total
        for h in range(z.shape[0]):
            for i in range(z.shape[2]):
                g.delta[h, l, i] += delta.dtype.type(2) * g_E * delta[h, l, i]
        _power_backward(g_total * _energy(delta, l), l, z, g.z[WRITTEN])


@inlined
def write_and_read(
    theta: Array,
    rule: int,
    bounded: bool,
    strength: float,
    values: Array,
    targets: Array,
    step: Step,
) -> None:
    """One step: ``f_theta`` of the written keys, the write, and ``f_theta`` of the read keys and
    the written keys after it.

    Args:
        theta: changed in place.
        rule: one of :data:`RULES`.
        bounded: whether the strength is a share of the error, or a step size.
        strength: of the write.
        values: ``v^w``, ``[H, K]``, for rules g and delta.
        targets: ``zhat^1 ... zhat^L``, ``[H, L, K]``, for rule p.
        step: a :class:`Step` with ``z^0`` set; the rest is filled in.
    """
    z, delta = step.z, step.delta
    L, H = theta.shape[0], z.shape[1]
    for group in range(3):
        for h in range(H):
            for l in range(L):
                z[group, h, l + 1] = theta.dtype.type(0)
    if rule != LOCAL:
        for h in range(H):
            _gradient_deltas(theta, h, step, values)
    share = theta.dtype.type(1)
    if bounded and rule == GRADIENT:
        share = _energy(delta, L - 1) / _total(step)
    for l in range(L):
        if bounded and rule != GRADIENT:
            share = theta.dtype.type(1) / _power(z[WRITTEN], l)
        step.scales[l] = strength * share
        for i in range(0, theta.shape[1], BLOCK):
            W = theta[l, i : i + BLOCK]
            if rule == LOCAL:
                _local_deltas(W, i, l, step, targets)
            _write_and_run(W, i, l, step.scales[l], z, delta)
        if l < L - 1:
            for h in range(H):
                tanh_(z[READ, h, l + 1])
                tanh_(z[CHECKED, h, l + 1])


@inlined
def _read_and_write_backward(
    W: Array, G: Array, i: int, l: int, rule: int, scale: float, step: Step, g: StepGradient
) -> None:
    """Back through the reads and the write of a block of layer l, the rows W and G from row i,
    undoing the write.

    The deferred update is added. ``gz^l`` of the reads is the gradient before tanh here;
    ``gdelta^l`` is made ``G^l z^(l-1)``.
    """
    z, gz, deferred, H = step.z, g.z, g.deferred, step.z.shape[1]
    if rule != LOCAL and l > 0:
        _add_outer_product(G, W.dtype.type(1), deferred.g[1, l, i:], deferred.x[1, l])
    for h in range(1, H):
        for group in (READ, CHECKED):
            _run_backward(W, G, gz[group, h, l + 1, i:], z[group, h, l], gz[group, h, l])
    rows = RowGradients(
        step.delta[0, l, i:],
        gz[READ, 0, l + 1, i:],
        gz[CHECKED, 0, l + 1, i:],
        deferred.g[0, l, i:],
        g.delta[0, l, i:],
    )
    _read_and_write_backward_first(W, G, scale, rows, deferred.x[0, l], z[:, 0, l], gz[:, 0, l])
    for h in range(1, H):
        add_matvec(G, z[WRITTEN, h, l], g.delta[h, l, i:])
        _add_scaled_matvec_transposed(G, -scale, step.delta[h, l, i:], gz[WRITTEN, h, l])
        _add_outer_product(W, scale, step.delta[h, l, i:], z[WRITTEN, h, l])


class RowGradients(NamedTuple):
    """Numbers of the rows of a block of a layer, of head 0, ``[rows]`` each."""

    delta: Array
    """The error signal."""
    read: Array
    """The gradient with respect to what the read key gave."""
    checked: Array
    """The gradient with respect to what the written key gave after the write."""
    deferred: Array
    """The factor ``g`` of the :class:`DeferredUpdate`."""
    product: Array
    """``G z``, to be made."""


@inlined
def _read_and_write_backward_first(
    W: Array, G: Array, scale: float, rows: RowGradients, deferred: Array, x: Array, gx: Array
) -> None:
    """The reads and the write of head 0, and what is deferred, in one pass; x and gx have three
    groups."""
    d, r, c, p = rows.delta, rows.read, rows.checked, rows.deferred
    x_w, x_r, x_c, gx_w, gx_r, gx_c = (
        x[WRITTEN],
        x[READ],
        x[CHECKED],
        gx[WRITTEN],
        gx[READ],
        gx[CHECKED],
    )
    for i in range(0, W.shape[0], 4):
        W0, W1, W2, W3, G0, G1, G2, G3 = (
            W[i],
            W[i + 1],
            W[i + 2],
            W[i + 3],
            G[i],
            G[i + 1],
            G[i + 2],
            G[i + 3],
        )
        d0, d1, d2, d3 = (
            splat(-scale * d[i]),
            splat(-scale * d[i + 1]),
            splat(-scale * d[i + 2]),
            splat(-scale * d[i + 3]),
        )
        r0, r1, r2, r3 = splat(r[i]), splat(r[i + 1]), splat(r[i + 2]), splat(r[i + 3])
        c0, c1, c2, c3 = splat(c[i]), splat(c[i + 1]), splat(c[i + 2]), splat(c[i + 3])
        p0, p1, p2, p3 = splat(p[i]), splat(p[i + 1]), splat(p[i + 2]), splat(p[i + 3])
        a0 = a1 = a2 = a3 = splat(W.dtype.type(0))
        for j in range(0, W.shape[1], LANES):
            v, v_r, v_c, v_p = load(x_w, j), load(x_r, j), load(x_c, j), load(deferred, j)
            w0, w1, w2, w3 = load(W0, j), load(W1, j), load(W2, j), load(W3, j)
            store(gx_r, j, fma(r0, w0, fma(r1, w1, fma(r2, w2, fma(r3, w3, load(gx_r, j))))))
            store(gx_c, j, fma(c0, w0, fma(c1, w1, fma(c2, w2, fma(c3, w3, load(gx_c, j))))))
            g0, g1 = fma(p0, v_p, load(G0, j)), fma(p1, v_p, load(G1, j))
            g2, g3 = fma(p2, v_p, load(G2, j)), fma(p3, v_p, load(G3, j))
            g0, g1 = fma(r0, v_r, fma(c0, v_c, g0)), fma(r1, v_r, fma(c1, v_c, g1))
            g2, g3 = fma(r2, v_r, fma(c2, v_c, g2)), fma(r3, v_r, fma(c3, v_c, g3))
            store(G0, j, g0)
            store(G1, j, g1)
            store(G2, j, g2)
            store(G3, j, g3)
            a0, a1, a2, a3 = fma(g0, v, a0), fma(g1, v, a1), fma(g2, v, a2), fma(g3, v, a3)
            store(gx_w, j, fma(d0, g0, fma(d1, g1, fma(d2, g2, fma(d3, g3, load(gx_w, j))))))
            store(W0, j, minus(w0, d0, v))
            store(W1, j, minus(w1, d1, v))
            store(W2, j, minus(w2, d2, v))
            store(W3, j, minus(w3, d3, v))
        add_totals(rows.product, i, a0, a1, a2, a3)


@inlined
def _add_scaled_matvec_transposed(W: Array, scale: float, x: Array, y: Array) -> None:
    """``y += scale * W^T x``."""
    for i in range(0, W.shape[0], 4):
        W0, W1, W2, W3 = W[i], W[i + 1], W[i + 2], W[i + 3]
        a, b, c, d = (
            splat(scale * x[i]),
            splat(scale * x[i + 1]),
            splat(scale * x[i + 2]),
            splat(scale * x[i + 3]),
        )
        for j in range(0, W.shape[1], LANES):
            store(
                y,
                j,
                fma(
                    a,
                    load(W0, j),
                    fma(b, load(W1, j), fma(c, load(W2, j), fma(d, load(W3, j), load(y, j)))),
                ),
            )


@inlined
def _finish_deltas(i: int, l: int, scale: float, step: Step, g: StepGradient) -> float:
    """Make ``gdelta^l`` of a block the gradient, of ``G^l z^(l-1)``; returns the gradient with
    respect to ``scale``."""
    gscale: float = g.delta.dtype.type(0)
    for h in range(g.delta.shape[0]):
        delta, a = step.delta[h, l, i : i + BLOCK], g.delta[h, l, i : i + BLOCK]
        for k in range(a.shape[0]):
            gscale -= delta[k] * a[k]
            a[k] *= -scale
    return gscale


@inlined
def _run_backward(W: Array, G: Array, g: Array, x: Array, gx: Array) -> None:
    """Back through ``W x``, given the gradient g with respect to it: ``gx += W^T g``, ``G += g
    x^T``."""
    for i in range(0, W.shape[0], 4):
        W0, W1, W2, W3, G0, G1, G2, G3 = (
            W[i],
            W[i + 1],
            W[i + 2],
            W[i + 3],
            G[i],
            G[i + 1],
            G[i + 2],
            G[i + 3],
        )
        a, b, c, d = splat(g[i]), splat(g[i + 1]), splat(g[i + 2]), splat(g[i + 3])
        for j in range(0, W.shape[1], LANES):
            v = load(x, j)
            store(
                gx,
                j,
                fma(
                    a,
                    load(W0, j),
                    fma(b, load(W1, j), fma(c, load(W2, j), fma(d, load(W3, j), load(gx, j)))),
                ),
            )
            store(G0, j, fma(a, v, load(G0, j)))
            store(G1, j, fma(b, v, load(G1, j)))
            store(G2, j, fma(c, v, load(G2, j)))
            store(G3, j, fma(d, v, load(G3, j)))


@inlined
def _run_head_backward(W: Array, G: Array, h: int, g: Array, x: Array, gx: Array) -> None:
    """:func:`_run_backward`, but that G is deferred in head 0."""
    if h == 0:
        add_matvec_transposed(W, g, gx)
    else:
        _run_backward(W, G, g, x, gx)


@inlined
def _defer_update(rule: int, z: Array, delta: Array, g: StepGradient) -> None:
    """Leave to the step before what head 0 did not add to G; z is of the written keys."""
    gz, deferred = g.z[WRITTEN, 0], g.deferred
    for l in range(delta.shape[0]):
        for i in range(z.shape[1]):
            deferred.g[0, l, i], deferred.x[0, l, i] = gz[l + 1, i], z[l, i]
            if rule != LOCAL and l > 0:
                deferred.g[1, l, i], deferred.x[1, l, i] = delta[l, i], g.q[0, l - 1, i]


@inlined
def add_deferred(G: Array, deferred: DeferredUpdate) -> None:
    """Add to G what it lacks, after which it lacks nothing."""
    for l in range(G.shape[0]):
        for k in range(2):
            _add_outer_product(G[l], G.dtype.type(1), deferred.g[k, l], deferred.x[k, l])
            for i in range(deferred.g.shape[2]):
                deferred.g[k, l, i] = G.dtype.type(0)


@inlined
def _gradient_deltas_backward(theta: Array, G: Array, h: int, step: Step, g: StepGradient) -> None:
    """Back through :func:`_gradient_deltas`, to the activations and the fast weights."""
    z, q, delta, gz, gq, gdelta = (
        step.z[WRITTEN, h],
        step.q[h],
        step.delta[h],
        g.z[WRITTEN, h],
        g.q[h],
        g.delta[h],
    )
    L, one, two = theta.shape[0], theta.dtype.type(1), theta.dtype.type(2)
    for l in range(L - 1):  # delta^l = q^l * (1 - z^l^2), q^l = W^(l+1)^T delta^(l+1)
        for i in range(z.shape[1]):
            gz[l + 1, i] -= two * gdelta[l, i] * q[l, i] * z[l + 1, i]
            gq[l, i] = gdelta[l, i] * (one - z[l + 1, i] * z[l + 1, i])
        add_matvec(theta[l + 1], gq[l], gdelta[l + 1])
        if h > 0:
            _add_outer_product(G[l + 1], one, delta[l + 1], gq[l])
    for i in range(z.shape[1]):
        gz[L, i] += gdelta[L - 1, i]
    for l in range(L - 1, -1, -1):
        if l < L - 1:
            times_derivative(gz[l + 1], z[l + 1])
        _run_head_backward(theta[l], G[l], h, gz[l + 1], z[l], gz[l])


@inlined
def _local_deltas_backward(W: Array, G: Array, i: int, l: int, step: Step, g: StepGradient) -> None:
    """Back through :func:`_local_deltas`."""
    z, gz, last = step.z[WRITTEN], g.z[WRITTEN], l == step.delta.shape[1] - 1
    for h in range(z.shape[0]):
        gradient = gz[h, l + 1, i : i + BLOCK]
        for k in range(gradient.shape[0]):
            gradient[k] += g.delta[h, l, i + k]
        if not last:
            times_derivative(gradient, z[h, l + 1, i : i + BLOCK])
        _run_head_backward(W, G, h, gradient, z[h, l], gz[h, l])


@inlined
def write_and_read_backward(
    theta: Array, G: Array, rule: int, bounded: bool, strength: float, step: Step, g: StepGradient
) -> float:
    """Back through :func:`write_and_read`.

    Args:
        theta: ``theta_t``, made ``theta_(t-1)``.
        G: the gradient with respect to ``theta_t``, made that with respect to ``theta_(t-1)``, but
            for what is deferred.
        rule, bounded, strength, step: as they were.
        g: a :class:`StepGradient`: ``z`` holds those with respect to the outputs ``z^L`` of the
            reads, zeros elsewhere, and those with respect to the keys ``z^0`` are filled in; of
            rules g and delta, ``delta^L`` becomes minus the gradient with respect to the values, of
            rule p, ``delta`` minus that with respect to the targets; ``q`` is scratch; ``deferred``
            is what G lacks, before and after.

    Returns:
        The gradient with respect to ``strength``.
    """
    z, gz = step.z, g.z
    L, H = theta.shape[0], z.shape[1]
    g_strength: float = theta.dtype.type(0)
    g_share: float = theta.dtype.type(0)
    for h in range(H):
        for l in range(L):
            g.delta[h, l] = theta.dtype.type(0)
    for l in range(L - 1, -1, -1):
        if l < L - 1:
            for h in range(H):
                times_derivative(gz[READ, h, l + 1], z[READ, h, l + 1])
                times_derivative(gz[CHECKED, h, l + 1], z[CHECKED, h, l + 1])
        g_scale, scale = theta.dtype.type(0), step.scales[l]
        for i in range(0, theta.shape[1], BLOCK):
            W, own_G = theta[l, i : i + BLOCK], G[l, i : i + BLOCK]
            _read_and_write_backward(W, own_G, i, l, rule, scale, step, g)
            g_scale += _finish_deltas(i, l, scale, step, g)
            if rule == LOCAL:
                _local_deltas_backward(W, own_G, i, l, step, g)
        if bounded and rule == GRADIENT:
            g_share += g_scale
        elif bounded:
            N = _power(z[WRITTEN], l)
            g_strength += g_scale / N
            _power_backward(-g_scale * strength / (N * N), l, z[WRITTEN], gz[WRITTEN])
        else:
            g_strength += g_scale
    if bounded and rule == GRADIENT:
        g_strength = g_share * _energy(step.delta, L - 1) / _total(step)
        _share_of_gradient_backward(g_share * strength, step, g)
    if rule != LOCAL:
        for h in range(H):
            _gradient_deltas_backward(theta, G, h, step, g)
    _defer_update(rule, z[WRITTEN, 0], step.delta[0], g)
    return g_strength

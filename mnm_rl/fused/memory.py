"""The step of the neural memory for one environment, forward and backward, as Numba kernels.

The equations are those of :mod:`mnm_rl.memory`, in the same symbols, and the adjoint is that of ``docs/mathematics.md``; the
rows of every array are padded with zeros to ``P`` numbers (and those of the fast weights to ``R`` rows, a multiple of 4), see
:mod:`mnm_rl.fused.simd`.

``theta``: fast weights ``W^1 ... W^L``, ``[L, R, P]``, changed in place. ``G``: the gradient with respect to them, likewise.
``scale``: the step size ``s`` of the write.

A write is undone in the backward pass by adding what it subtracted, so no fast weights are kept from the forward pass.
"""

from typing import Any, NamedTuple

import numpy as np

from mnm_rl.fused.simd import (
    LANES,
    add_matvec,
    add_matvec_transposed,
    fma,
    kernel,
    load,
    splat,
    store,
    tanh_,
    times_derivative,
    total,
)
from mnm_rl.memory.rules import DeltaRule, GradientRule, LocalRule, WriteRule

WRITTEN, READ, CHECKED = 0, 1, 2
"""The groups of keys: the written keys before the write, the read keys after it, and the written keys after it."""

GRADIENT, LOCAL, DELTA = 0, 1, 2
RULES: dict[type[WriteRule], int] = {GradientRule: GRADIENT, LocalRule: LOCAL, DeltaRule: DELTA}
"""The write rules that these kernels know; not their subclasses."""


class Step(NamedTuple):
    """What a step of the memory computes, or the gradient with respect to that."""

    z: Any
    """Activations ``z^0 ... z^L`` of the three groups of H keys, ``[3, H, L + 1, P]``."""
    q: Any
    """Of rule g: ``q^l = (W^(l+1))^T delta^(l+1)`` for l = 1 ... L-1, ``[H, L - 1, P]``."""
    delta: Any
    """Error signals ``delta^1 ... delta^L``, ``[H, L, P]``."""


@kernel
def set_key(rule: int, z: Any, key: Any) -> None:
    """``z^0``, of a key: of the delta rule, scaled to norm one."""
    z[:] = key
    if rule == DELTA:
        z /= _norm(key)


@kernel
def set_key_backward(rule: int, g: Any, key: Any) -> None:
    """Back through :func:`set_key`; g is made the gradient with respect to the key."""
    if rule == DELTA:
        norm, along = _norm(key), g.dtype.type(0)
        for i in range(key.shape[0]):
            along += g[i] * key[i]
        for i in range(key.shape[0]):
            g[i] = (g[i] - along * key[i] / (norm * norm)) / norm


@kernel
def _norm(x: Any) -> Any:
    square = x.dtype.type(0)
    for i in range(x.shape[0]):
        square += x[i] * x[i]
    return max(np.sqrt(square), x.dtype.type(1e-12))  # the least that PyTorch's normalize divides by


@kernel
def _add_outer_product(W: Any, factor: Any, x: Any, y: Any) -> None:
    """``W += factor * x y^T``."""
    for i in range(0, W.shape[0], 4):
        a, b, c, d = splat(factor * x[i]), splat(factor * x[i + 1]), splat(factor * x[i + 2]), splat(factor * x[i + 3])
        for j in range(0, W.shape[1], LANES):
            v = load(y, j)
            store(W[i], j, fma(a, v, load(W[i], j)))
            store(W[i + 1], j, fma(b, v, load(W[i + 1], j)))
            store(W[i + 2], j, fma(c, v, load(W[i + 2], j)))
            store(W[i + 3], j, fma(d, v, load(W[i + 3], j)))


@kernel
def write(theta: Any, scale: Any, z: Any, delta: Any) -> None:
    """``W^l -= scale * sum_h delta^l_h (z^(l-1)_h)^T`` for every layer: a write whose factors are known."""
    for l in range(theta.shape[0]):
        for h in range(z.shape[1]):
            _add_outer_product(theta[l], -scale, delta[h, l], z[WRITTEN, h, l])


@kernel
def _write_and_run(W: Any, scale: Any, l: int, z: Any, delta: Any) -> None:
    """Write layer l, and run it on the read keys and the written keys, in one pass over its weights."""
    H = z.shape[1]
    zero = splat(W.dtype.type(0))
    for i in range(0, W.shape[0], 2):
        W0, W1 = W[i], W[i + 1]
        for h in range(H - 1):
            x = z[WRITTEN, h, l]
            d0, d1 = splat(-scale * delta[h, l, i]), splat(-scale * delta[h, l, i + 1])
            for j in range(0, W.shape[1], LANES):
                v = load(x, j)
                store(W0, j, fma(d0, v, load(W0, j)))
                store(W1, j, fma(d1, v, load(W1, j)))
        h = H - 1  # the last update and the first products, so that one head takes one pass
        x, x_r, x_c = z[WRITTEN, h, l], z[READ, h, l], z[CHECKED, h, l]
        d0, d1 = splat(-scale * delta[h, l, i]), splat(-scale * delta[h, l, i + 1])
        r0 = r1 = c0 = c1 = zero
        for j in range(0, W.shape[1], LANES):
            v, v_r, v_c = load(x, j), load(x_r, j), load(x_c, j)
            w0, w1 = fma(d0, v, load(W0, j)), fma(d1, v, load(W1, j))
            store(W0, j, w0)
            store(W1, j, w1)
            r0, r1, c0, c1 = fma(w0, v_r, r0), fma(w1, v_r, r1), fma(w0, v_c, c0), fma(w1, v_c, c1)
        z[READ, h, l + 1, i], z[READ, h, l + 1, i + 1] = total(r0), total(r1)
        z[CHECKED, h, l + 1, i], z[CHECKED, h, l + 1, i + 1] = total(c0), total(c1)
        for h in range(H - 1):
            x_r, x_c = z[READ, h, l], z[CHECKED, h, l]
            r0 = r1 = c0 = c1 = zero
            for j in range(0, W.shape[1], LANES):
                w0, w1, v_r, v_c = load(W0, j), load(W1, j), load(x_r, j), load(x_c, j)
                r0, r1, c0, c1 = fma(w0, v_r, r0), fma(w1, v_r, r1), fma(w0, v_c, c0), fma(w1, v_c, c1)
            z[READ, h, l + 1, i], z[READ, h, l + 1, i + 1] = total(r0), total(r1)
            z[CHECKED, h, l + 1, i], z[CHECKED, h, l + 1, i + 1] = total(c0), total(c1)


@kernel
def _deltas(rule: int, theta: Any, h: int, step: Any, values: Any, targets: Any) -> None:
    """The error signals of head h, by the write rule."""
    z, q, delta = step.z[WRITTEN, h], step.q[h], step.delta[h]
    L = theta.shape[0]
    if rule != LOCAL:  # the delta rule is rule g of a single layer
        delta[L - 1] = z[L] - values[h]
        for l in range(L - 2, -1, -1):
            q[l] = theta.dtype.type(0)
            add_matvec_transposed(theta[l + 1], delta[l + 1], q[l])
            delta[l] = q[l]
            times_derivative(delta[l], z[l + 1])
    else:
        delta[:] = z[1:] - targets[h]


@kernel
def write_and_read(theta: Any, rule: int, scale: Any, values: Any, targets: Any, step: Any) -> None:
    """One step: ``f_theta`` of the written keys, the write, and ``f_theta`` of the read keys and the written keys after it.

    Args:
        theta: changed in place.
        rule: one of :data:`RULES`.
        scale: step size.
        values: ``v^w``, ``[H, P]``, for rules g and delta.
        targets: ``zhat^1 ... zhat^L``, ``[H, L, P]``, for rule p.
        step: a :class:`Step` with ``z^0`` set; the rest is filled in.
    """
    z, delta = step.z, step.delta
    L, H = theta.shape[0], z.shape[1]
    for h in range(H):
        for l in range(L):
            z[WRITTEN, h, l + 1] = theta.dtype.type(0)
            add_matvec(theta[l], z[WRITTEN, h, l], z[WRITTEN, h, l + 1])
            if l < L - 1:
                tanh_(z[WRITTEN, h, l + 1])
        _deltas(rule, theta, h, step, values, targets)
    for l in range(L):
        _write_and_run(theta[l], scale, l, z, delta)
        if l < L - 1:
            for h in range(H):
                tanh_(z[READ, h, l + 1])
                tanh_(z[CHECKED, h, l + 1])


@kernel
def _read_backward(W: Any, G: Any, i: int, h: int, l: int, z: Any, gz: Any) -> None:
    """Back through what head h reads in rows i and i + 1 of layer l."""
    W0, W1, G0, G1 = W[i], W[i + 1], G[i], G[i + 1]
    x_r, x_c, gx_r, gx_c = z[READ, h, l], z[CHECKED, h, l], gz[READ, h, l], gz[CHECKED, h, l]
    r0, r1 = splat(gz[READ, h, l + 1, i]), splat(gz[READ, h, l + 1, i + 1])
    c0, c1 = splat(gz[CHECKED, h, l + 1, i]), splat(gz[CHECKED, h, l + 1, i + 1])
    for j in range(0, W.shape[1], LANES):
        v_r, v_c, w0, w1 = load(x_r, j), load(x_c, j), load(W0, j), load(W1, j)
        store(G0, j, fma(r0, v_r, fma(c0, v_c, load(G0, j))))
        store(G1, j, fma(r1, v_r, fma(c1, v_c, load(G1, j))))
        store(gx_r, j, fma(r0, w0, fma(r1, w1, load(gx_r, j))))
        store(gx_c, j, fma(c0, w0, fma(c1, w1, load(gx_c, j))))


@kernel
def _write_backward(W: Any, G: Any, i: int, h: int, l: int, scale: Any, step: Any, g: Any) -> Any:
    """Back through what head h writes to rows i and i + 1 of layer l, undoing it; returns the gradient of ``scale``."""
    W0, W1, G0, G1 = W[i], W[i + 1], G[i], G[i + 1]
    x, gx, delta = step.z[WRITTEN, h, l], g.z[WRITTEN, h, l], step.delta
    s0, s1 = scale * delta[h, l, i], scale * delta[h, l, i + 1]
    d0, d1, n0, n1 = splat(s0), splat(s1), splat(-s0), splat(-s1)
    a0 = a1 = splat(W.dtype.type(0))
    for j in range(0, W.shape[1], LANES):
        v, g0, g1 = load(x, j), load(G0, j), load(G1, j)
        store(gx, j, fma(n0, g0, fma(n1, g1, load(gx, j))))
        a0, a1 = fma(g0, v, a0), fma(g1, v, a1)
        store(W0, j, fma(d0, v, load(W0, j)))
        store(W1, j, fma(d1, v, load(W1, j)))
    t0, t1 = total(a0), total(a1)
    g.delta[h, l, i], g.delta[h, l, i + 1] = -scale * t0, -scale * t1
    return -delta[h, l, i] * t0 - delta[h, l, i + 1] * t1


@kernel
def _read_and_write_backward(W: Any, G: Any, i: int, l: int, scale: Any, step: Any, g: Any) -> Any:
    """:func:`_read_backward` and then :func:`_write_backward` of head 0, in one pass over the weights."""
    z, gz, delta = step.z, g.z, step.delta
    W0, W1, G0, G1 = W[i], W[i + 1], G[i], G[i + 1]
    x_r, x_c, gx_r, gx_c = z[READ, 0, l], z[CHECKED, 0, l], gz[READ, 0, l], gz[CHECKED, 0, l]
    r0, r1 = splat(gz[READ, 0, l + 1, i]), splat(gz[READ, 0, l + 1, i + 1])
    c0, c1 = splat(gz[CHECKED, 0, l + 1, i]), splat(gz[CHECKED, 0, l + 1, i + 1])
    x, gx = z[WRITTEN, 0, l], gz[WRITTEN, 0, l]
    s0, s1 = scale * delta[0, l, i], scale * delta[0, l, i + 1]
    d0, d1, n0, n1 = splat(s0), splat(s1), splat(-s0), splat(-s1)
    a0 = a1 = splat(W.dtype.type(0))
    for j in range(0, W.shape[1], LANES):
        v, v_r, v_c, w0, w1 = load(x, j), load(x_r, j), load(x_c, j), load(W0, j), load(W1, j)
        g0, g1 = fma(r0, v_r, fma(c0, v_c, load(G0, j))), fma(r1, v_r, fma(c1, v_c, load(G1, j)))
        store(G0, j, g0)
        store(G1, j, g1)
        store(gx_r, j, fma(r0, w0, fma(r1, w1, load(gx_r, j))))
        store(gx_c, j, fma(c0, w0, fma(c1, w1, load(gx_c, j))))
        store(gx, j, fma(n0, g0, fma(n1, g1, load(gx, j))))
        a0, a1 = fma(g0, v, a0), fma(g1, v, a1)
        store(W0, j, fma(d0, v, w0))
        store(W1, j, fma(d1, v, w1))
    t0, t1 = total(a0), total(a1)
    g.delta[0, l, i], g.delta[0, l, i + 1] = -scale * t0, -scale * t1
    return -delta[0, l, i] * t0 - delta[0, l, i + 1] * t1


@kernel
def _unwrite_backward(W: Any, G: Any, l: int, scale: Any, step: Any, g: Any) -> Any:
    """Back through the reads and the write of layer l, undoing the write; returns the gradient with respect to ``scale``.

    ``gz^l`` of the reads is the gradient before tanh here. What the write itself read comes later, in :func:`_run_backward`.
    """
    H = step.z.shape[1]
    gscale = W.dtype.type(0)
    for i in range(0, W.shape[0], 2):
        for h in range(1, H):
            _read_backward(W, G, i, h, l, step.z, g.z)
        gscale += _read_and_write_backward(W, G, i, l, scale, step, g)
        for h in range(1, H):
            gscale += _write_backward(W, G, i, h, l, scale, step, g)
    return gscale


@kernel
def _run_backward(W: Any, G: Any, g: Any, x: Any, gx: Any) -> None:
    """Back through ``W x``, given the gradient g with respect to it: ``gx += W^T g``, ``G += g x^T``."""
    for i in range(0, W.shape[0], 4):
        W0, W1, W2, W3, G0, G1, G2, G3 = W[i], W[i + 1], W[i + 2], W[i + 3], G[i], G[i + 1], G[i + 2], G[i + 3]
        a, b, c, d = splat(g[i]), splat(g[i + 1]), splat(g[i + 2]), splat(g[i + 3])
        for j in range(0, W.shape[1], LANES):
            v = load(x, j)
            store(gx, j, fma(a, load(W0, j), fma(b, load(W1, j), fma(c, load(W2, j), fma(d, load(W3, j), load(gx, j))))))
            store(G0, j, fma(a, v, load(G0, j)))
            store(G1, j, fma(b, v, load(G1, j)))
            store(G2, j, fma(c, v, load(G2, j)))
            store(G3, j, fma(d, v, load(G3, j)))


@kernel
def _deltas_backward(rule: int, theta: Any, G: Any, h: int, step: Any, g: Any) -> None:
    """Back through :func:`_deltas`, to the activations and the fast weights."""
    z, q, delta, gz, gq, gdelta = step.z[WRITTEN, h], step.q[h], step.delta[h], g.z[WRITTEN, h], g.q[h], g.delta[h]
    L = theta.shape[0]
    if rule != LOCAL:
        two = theta.dtype.type(2)
        for l in range(L - 1):  # delta^l = q^l * (1 - z^l^2), q^l = W^(l+1)^T delta^(l+1)
            for i in range(z.shape[1]):
                gz[l + 1, i] -= two * gdelta[l, i] * q[l, i] * z[l + 1, i]
            gq[l] = gdelta[l]
            times_derivative(gq[l], z[l + 1])
            add_matvec(theta[l + 1], gq[l], gdelta[l + 1])
            _add_outer_product(G[l + 1], theta.dtype.type(1), delta[l + 1], gq[l])
        gz[L] += gdelta[L - 1]
    else:
        gz[1:] += gdelta


@kernel
def write_and_read_backward(theta: Any, G: Any, rule: int, scale: Any, step: Any, g: Any) -> Any:
    """Back through :func:`write_and_read`.

    Args:
        theta: ``theta_t``, made ``theta_(t-1)``.
        G: the gradient with respect to ``theta_t``, made that with respect to ``theta_(t-1)``.
        rule, scale, step: as they were.
        g: the gradients, a :class:`Step`: ``z`` holds those with respect to the outputs ``z^L`` of the reads, zeros elsewhere, and
            those with respect to the keys ``z^0`` are filled in; of rules g and delta, ``delta^L`` becomes minus the gradient with
            respect to the values, of rule p, ``delta`` minus that with respect to the targets; ``q`` is scratch.

    Returns:
        The gradient with respect to ``scale``.
    """
    z, gz = step.z, g.z
    L, H = theta.shape[0], z.shape[1]
    gscale = theta.dtype.type(0)
    for l in range(L - 1, -1, -1):
        if l < L - 1:
            for h in range(H):
                times_derivative(gz[READ, h, l + 1], z[READ, h, l + 1])
                times_derivative(gz[CHECKED, h, l + 1], z[CHECKED, h, l + 1])
        gscale += _unwrite_backward(theta[l], G[l], l, scale, step, g)
    for h in range(H):
        _deltas_backward(rule, theta, G, h, step, g)
    for l in range(L - 1, -1, -1):
        for h in range(H):
            if l < L - 1:
                times_derivative(gz[WRITTEN, h, l + 1], z[WRITTEN, h, l + 1])
            _run_backward(theta[l], G[l], gz[WRITTEN, h, l + 1], z[WRITTEN, h, l], gz[WRITTEN, h, l])
    return gscale

"""A whole sequence of an MNM core as one differentiable operation, with the same results as the plain path of :mod:`.mnm`.

Four environments at a time (:data:`~mnm_rl.simd.ROWS`) go through all time steps, so that their fast weights stay in the cache.
Kept for the backward pass are vectors only (:class:`Trace`): it undoes the writes one by one, from the last fast weights back to
the first, and where an episode started in the middle of the sequence, makes those of the episode before by writing again.
"""

from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

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
from mnm_rl.cores.mnm import MnmCore, MnmState
from mnm_rl.memory.kernels import CHECKED, READ, WRITTEN, write, write_and_read, write_and_read_backward
from mnm_rl.memory.rules import LocalRule
from mnm_rl.parallel import run
from mnm_rl.simd import ROWS, add_product, kernel, padded, sigmoid_, tanh_


class Weights(NamedTuple):
    """The slow weights, padded, transposed for the forward pass (``x M``) and as they are for the backward pass."""

    gates: Array
    """Controller, from ``[x; v^r; h]``: ``[F + 2P, 4P]``."""
    gates_back: Array
    """To ``[v^r; h]``: ``[4P, 2P]``."""
    gates_bias: Array
    A: Array
    """``[P, U]``, ``U = (3H + 1) P``."""
    A_back: Array
    a: Array
    b: Array
    b_0: Array
    Q: Array
    """Feedback maps of rule p, ``[P, L P]`` (``[2P, L P]`` for keys and values); empty for rule g."""
    Q_back: Array
    q: Array
    theta_0: Array
    """``[L, R, P]``."""


class Trace(NamedTuple):
    """What the forward pass leaves for the backward pass, time first; batches are padded to a multiple of ``ROWS``."""

    x: Array
    """``[x_t; v^r_(t-1); h_(t-1)]``, ``[T, B, F + 2P]``."""
    c: Array
    """``c_(t-1)``, ``[T, B, P]``."""
    gates: Array
    """i, f, g and o of the LSTM, ``[T, B, 4P]``."""
    out: Array
    """``[h_t; v^r_t]``, ``[T, B, 2P]``."""
    u: Array
    """Interaction vectors, ``[T, B, U]``."""
    beta: Array
    """``[T, B]``."""
    z: Array
    """``[T, B, 3, H, L + 1, P]``, see :mod:`mnm_rl.memory.kernels`."""
    q: Array
    """``[T, B, H, L - 1, P]`` for rule g, nothing for rule p."""
    delta: Array
    """``[T, B, H, L, P]``."""
    meta_loss: Array
    """``[T, B]``."""


class Gradients(NamedTuple):
    """What the backward pass makes, time first."""

    gates: Array
    """With respect to the gates before their nonlinearities, ``[T, B, 4P]``."""
    u: Array
    """With respect to ``A h + a``, ``[T, B, U]``."""
    strength: Array
    """With respect to ``b . u + b_0``, ``[T, B]``."""
    targets: Array
    """With respect to the feedback targets of rule p, ``[T, B, H, L P]``."""
    h: Array
    """With respect to the state before the first step, ``[B, P]``, in and out."""
    c: Array
    read: Array
    theta: Array
    """``[B, L, R, P]``, in and out."""
    theta_0: Array
    """A sum for every four environments, ``[B / ROWS, L, R, P]``."""


class Working(NamedTuple):
    """The state, changed in place: ``[B, P]``, and ``[B, L, R, P]`` without padded environments."""

    h: Array
    c: Array
    read: Array
    theta: Array


@kernel
def _forward(
    first: int, last: int, t0: int, t1: int, D: int, gradient_rule: bool, starts: Any, weights: Any, state: Any, trace: Any
) -> None:
    """Steps t0 to t1 of the fours of environments from first to last."""
    B, L, _, P = state.theta.shape
    H = trace.delta.shape[2]
    F = trace.x.shape[2] - 2 * P
    dtype = trace.x.dtype
    zero, per = dtype.type(0), dtype.type(1 / (H * D))
    values = np.zeros((ROWS * H, weights.Q.shape[0]), dtype)
    targets = np.zeros((ROWS * H, weights.Q.shape[1]), dtype)
    no_targets = np.zeros((H, L, P), dtype)
    for four in range(first, last):
        b0, b1 = ROWS * four, ROWS * four + ROWS
        for t in range(t0, t1):
            for b in range(b0, min(b1, B)):
                if starts[t, b]:
                    state.h[b], state.c[b], state.read[b] = zero, zero, zero
                    state.theta[b] = weights.theta_0
            for b in range(b0, b1):
                trace.x[t, b, F : F + P] = state.read[b]
                trace.x[t, b, F + P :] = state.h[b]
                trace.c[t, b] = state.c[b]
                trace.gates[t, b] = weights.gates_bias
                trace.u[t, b] = weights.a
            add_product(trace.gates[t, b0:b1], trace.x[t, b0:b1], weights.gates)
            for b in range(b0, b1):
                lstm_cell(trace.gates[t, b], state.c[b], state.h[b])
            add_product(trace.u[t, b0:b1], state.h[b0:b1], weights.A)
            for b in range(b0, b1):
                tanh_(trace.u[t, b])
            if not gradient_rule:
                for b in range(b0, b1):
                    for h in range(H):
                        row = (b - b0) * H + h
                        head = trace.u[t, b, (1 + 3 * h) * P : (4 + 3 * h) * P]
                        values[row, :P] = head[P : 2 * P]
                        values[row, P:] = head[: values.shape[1] - P]
                        targets[row] = weights.q
                add_product(targets, values, weights.Q)
            for b in range(b0, min(b1, B)):
                u, z = trace.u[t, b], trace.z[t, b]
                strength = trace.beta[t, b : b + 1]
                strength[0] = weights.b_0[0]
                for i in range(P):
                    strength[0] += weights.b[i] * u[i]
                sigmoid_(strength)
                heads = u[P:].reshape(H, 3, P)
                for h in range(H):
                    z[WRITTEN, h, 0] = heads[h, 0]
                    z[CHECKED, h, 0] = heads[h, 0]
                    z[READ, h, 0] = heads[h, 2]
                to = no_targets if gradient_rule else targets[(b - b0) * H : (b - b0 + 1) * H].reshape(H, L, P)
                scale = dtype.type(2) * per * strength[0]
                write_and_read(state.theta[b], gradient_rule, scale, heads[:, 1], to, z, trace.q[t, b], trace.delta[t, b])
                state.read[b] = zero
                loss = zero
                for h in range(H):
                    for i in range(P):
                        state.read[b, i] += z[READ, h, L, i] * dtype.type(1 / H)
                        miss = z[CHECKED, h, L, i] - heads[h, 1, i]
                        loss += miss * miss
                trace.meta_loss[t, b] = loss * per
            for b in range(b0, b1):
                trace.out[t, b, :P] = state.h[b]
                trace.out[t, b, P:] = state.read[b]


@kernel
def _backward(
    first: int,
    last: int,
    D: int,
    gradient_rule: bool,
    starts: Any,
    weights: Any,
    theta: Any,
    theta_first: Any,
    trace: Any,
    g_out: Any,
    g_meta_loss: Any,
    g: Any,
) -> None:
    """Back through :func:`_forward`. ``theta`` is that after the last step (changed in place), ``theta_first`` that before the
    first; ``g_out`` ``[T, B, 2P]`` and ``g_meta_loss`` ``[T, B]`` are given, ``g`` (:class:`Gradients`) is filled in."""
    B, L, _, P = theta.shape
    T = trace.x.shape[0]
    H = trace.delta.shape[2]
    dtype = trace.x.dtype
    zero, per = dtype.type(0), dtype.type(1 / (H * D))
    gz, gq = np.zeros((3, H, L + 1, P), dtype), np.zeros((H, L - 1, P), dtype)
    gdelta = np.zeros((ROWS, H, L, P), dtype)
    g_values = np.zeros((ROWS * H, weights.Q.shape[0]), dtype)
    g_before = np.zeros((ROWS, 2 * P), dtype)
    for four in range(first, last):
        b0, b1 = ROWS * four, ROWS * four + ROWS
        for t in range(T - 1, -1, -1):
            for b in range(b0, min(b1, B)):
                u, z, G, g_u = trace.u[t, b], trace.z[t, b], g.theta[b], g.u[t, b]
                heads, g_heads = u[P:].reshape(H, 3, P), g_u[P:].reshape(H, 3, P)
                gz[:] = zero
                miss = dtype.type(2) * per * g_meta_loss[t, b]
                for h in range(H):
                    for i in range(P):
                        gz[READ, h, L, i] = (g.read[b, i] + g_out[t, b, P + i]) * dtype.type(1 / H)
                        gz[CHECKED, h, L, i] = miss * (z[CHECKED, h, L, i] - heads[h, 1, i])
                        g_heads[h, 1, i] = -gz[CHECKED, h, L, i]
                beta = trace.beta[t, b]
                scale = dtype.type(2) * per * beta
                g_scale = write_and_read_backward(
                    theta[b], G, gradient_rule, scale, z, trace.q[t, b], trace.delta[t, b], gz, gq, gdelta[b - b0]
                )
                for h in range(H):
                    for i in range(P):
                        g_heads[h, 0, i] = gz[WRITTEN, h, 0, i] + gz[CHECKED, h, 0, i]
                        g_heads[h, 2, i] = gz[READ, h, 0, i]
                        if gradient_rule:
                            g_heads[h, 1, i] -= gdelta[b - b0, h, L - 1, i]
                g.strength[t, b] = g_scale * dtype.type(2) * per * beta * (dtype.type(1) - beta)
                for i in range(P):
                    g_u[i] = g.strength[t, b] * weights.b[i]
            if not gradient_rule:
                for b in range(b0, min(b1, B)):
                    g.targets[t, b] = -gdelta[b - b0].reshape(H, L * P)
                g_values[:] = zero
                add_product(g_values, g.targets[t, b0:b1].reshape(ROWS * H, L * P), weights.Q_back)
                for b in range(b0, b1):
                    g_heads = g.u[t, b, P:].reshape(H, 3, P)
                    for h in range(H):
                        row = (b - b0) * H + h
                        g_heads[h, 1] += g_values[row, :P]
                        if g_values.shape[1] > P:
                            g_heads[h, 0] += g_values[row, P:]
            for b in range(b0, b1):
                for i in range(g.u.shape[2]):
                    g.u[t, b, i] *= dtype.type(1) - trace.u[t, b, i] * trace.u[t, b, i]
                for i in range(P):
                    g.h[b, i] += g_out[t, b, i]
            add_product(g.h[b0:b1], g.u[t, b0:b1], weights.A_back)
            for b in range(b0, b1):
                lstm_cell_backward(trace.gates[t, b], trace.c[t, b], g.h[b], g.c[b], g.gates[t, b])
            g_before[:] = zero
            add_product(g_before, g.gates[t, b0:b1], weights.gates_back)
            for b in range(b0, b1):
                g.read[b] = g_before[b - b0, :P]
                g.h[b] = g_before[b - b0, P:]
            for b in range(b0, min(b1, B)):
                if starts[t, b]:
                    g.read[b], g.h[b], g.c[b] = zero, zero, zero
                    g.theta_0[four] += g.theta[b]
                    g.theta[b] = zero
                    if t > 0:  # the fast weights that the episode before ended with: write it again
                        s = t - 1
                        while s > 0 and not starts[s, b]:
                            s -= 1
                        theta[b] = weights.theta_0 if starts[s, b] else theta_first[b]
                        for k in range(s, t):
                            write(theta[b], dtype.type(2) * per * trace.beta[k, b], trace.z[k, b], trace.delta[k, b])


class Parameters(NamedTuple):
    """The parameters of an MNM core, as it has them. Those of the feedback maps are empty for rule g."""

    weight_ih: Tensor
    weight_hh: Tensor
    bias_ih: Tensor
    bias_hh: Tensor
    A: Tensor
    a: Tensor
    b: Tensor
    b_0: Tensor
    Q: Tensor
    q: Tensor
    theta_0: Tensor


def _pad_memory(theta: Tensor) -> Tensor:
    """Fast weights ``[..., D, D]`` with rows and columns of zeros, ``[..., R, P]``."""
    D = theta.shape[-1]
    out = theta.new_zeros(*theta.shape[:-2], padded(D, ROWS), padded(D))
    out[..., :D, :D] = theta
    return out


def pack(parameters: Parameters) -> Weights:
    """The weights in the layout of the kernels."""
    p = Parameters(*(parameter.detach() for parameter in parameters))
    D = p.weight_hh.shape[1]
    F = p.weight_ih.shape[1] - D
    before = spread(torch.cat([p.weight_ih[:, F:], p.weight_hh], dim=1), 4, 2, D)
    gates = torch.cat([spread_rows(p.weight_ih[:, :F], 4, D), before], dim=1)
    A = spread(p.A, len(p.A) // D, 1, D)
    Q = spread(p.Q, len(p.Q) // D, p.Q.shape[1] // D, D)
    packed = [gates.T, before, spread_rows(p.bias_ih + p.bias_hh, 4, D), A.T, A, spread_rows(p.a, len(p.a) // D, D)]
    packed += [spread_rows(p.b[0], 1, D), p.b_0, Q.T, Q, spread_rows(p.q, len(p.q) // D, D), _pad_memory(p.theta_0)]
    return Weights(*(tensor.contiguous().numpy() for tensor in packed))


class FusedMnm(FusedRecording[MnmState]):
    """Steps of an MNM core, see :class:`~mnm_rl.cores.fused.FusedRecording`."""

    carried = 4

    def __init__(self, core: MnmCore, state: MnmState, steps: int, reuse: Recording[MnmState] | None = None) -> None:
        memory, controller, D = core.memory, core.controller, core.hidden_size
        self.gradient_rule = memory.write_rule == "g"
        rule = memory.rule
        none = core.output.weight.new_zeros(0, 0)
        parameters = Parameters(
            weight_ih=controller.weight_ih,
            weight_hh=controller.weight_hh,
            bias_ih=controller.bias_ih,
            bias_hh=controller.bias_hh,
            A=core.interaction.weight,
            a=core.interaction.bias,
            b=core.write_strength.weight,
            b_0=core.write_strength.bias,
            Q=rule.feedback.weight if isinstance(rule, LocalRule) else none,
            q=rule.feedback.bias if isinstance(rule, LocalRule) else none.flatten(),
            theta_0=memory.theta_0,
        )
        super().__init__(core, state, parameters, steps, reuse)
        self.output = core.output
        self.heads = H = core.heads
        self.F = F = controller.input_size - D
        self.weights = pack(parameters)
        B, P, L = padded(self.B, ROWS), padded(D), memory.layers
        self.trace = Trace(
            x=self.room("x", steps, B, F + 2 * P),
            c=self.room("c", steps, B, P),
            gates=self.room("gates", steps, B, 4 * P),
            out=np.zeros((steps, B, 2 * P), self.dtype),  # others may have it
            u=self.room("u", steps, B, (3 * H + 1) * P),
            beta=self.room("beta", steps, B),
            z=self.room("z", steps, B, 3, H, L + 1, P),
            q=self.room("q", steps, B, H, L - 1 if self.gradient_rule else 0, P),
            delta=self.room("delta", steps, B, H, L, P),
            meta_loss=np.zeros((steps, B), self.dtype),
        )
        self.x = self.trace.x
        self.now = Working(
            h=array(state.h, (B, P), self.dtype),
            c=array(state.c, (B, P), self.dtype),
            read=array(state.read, (B, P), self.dtype),
            theta=_pad_memory(state.theta.detach()).numpy(),
        )
        with torch.no_grad():
            self._padded_output = self._pad_output()

    @property
    def state(self) -> MnmState:
        B, D = self.B, self.D
        h, c, read, theta = map(torch.from_numpy, self.now)
        return self.initial_state._replace(h=h[:B, :D], c=c[:B, :D], read=read[:B, :D], theta=theta[..., :D, :D])

    def run(self, t0: int, t1: int) -> Tensor:
        fours = len(self.now.h) // ROWS
        rule, starts = self.gradient_rule, self.episode_starts
        run(_forward, fours, t0, t1, self.D, rule, starts, self.weights, self.now, self.trace)
        return torch.from_numpy(self.trace.out[t0:t1])

    def _pad_output(self) -> Tensor:
        """``C``, for padded rows ``[h; v^r]``: ``[D, 2P]``."""
        D, C = self.D, self.output.weight
        return torch.cat([nn.functional.pad(half, (0, padded(D) - D)) for half in (C[:, :D], C[:, D:])], dim=1)

    def outputs(self, raw: Tensor) -> Tensor:
        C = self._pad_output() if torch.is_grad_enabled() else self._padded_output
        return nn.functional.linear(raw, C, self.output.bias)[:, : self.B]

    def results(self) -> tuple[Tensor | None, ...]:
        trace = self.trace
        self.core.diagnostics = {"beta": torch.tensor(trace.beta[:, : self.B].mean())}
        return torch.from_numpy(trace.out), torch.from_numpy(trace.meta_loss)[:, : self.B], *self.state[:4]

    def gradients(self, inputs: bool, *given: Tensor | None) -> tuple[Tensor | None, ...]:
        g_out, g_meta_loss, g_h, g_c, g_read, g_theta = given
        weights, trace, D, F, H = self.weights, self.trace, self.D, self.F, self.heads
        T, B, L, P, dtype = *trace.x.shape[:2], len(weights.theta_0), padded(D), self.dtype
        theta = self.now.theta.copy()
        g = Gradients(
            gates=self.room("g_gates", *trace.gates.shape),
            u=self.room("g_u", *trace.u.shape),
            strength=self.room("g_strength", *trace.beta.shape),
            targets=self.room("g_targets", T, B, H, weights.Q.shape[1]),
            h=array(g_h, (B, P), dtype),
            c=array(g_c, (B, P), dtype),
            read=array(g_read, (B, P), dtype),
            theta=array(g_theta, theta.shape, dtype),
            theta_0=np.zeros((B // ROWS, *weights.theta_0.shape), dtype),
        )
        run(
            _backward,
            B // ROWS,
            D,
            self.gradient_rule,
            self.episode_starts,
            weights,
            theta,
            _pad_memory(self.initial_state.theta.detach()).numpy(),
            trace,
            array(g_out, trace.out.shape, dtype),
            array(g_meta_loss, trace.meta_loss.shape, dtype),
            g,
        )

        # The weights' gradients are a few large products over all steps.
        x, out, u, g_gates, g_u, g_targets = (
            torch.from_numpy(a).flatten(0, 1) for a in (trace.x, trace.out, trace.u, g.gates, g.u, g.targets)
        )
        g_targets, g_strength = g_targets.flatten(0, 1), torch.from_numpy(g.strength).flatten()
        weight, bias = g_gates.T @ x, gather_rows(g_gates.sum(0), 4, D)
        recurrent = gather(weight[:, F:], 4, 2, D)
        n, m = 3 * H + 1, weights.Q.shape[0] // P  # the feedback maps see values, or values and keys; there are none in rule g
        heads = u[:, P:].reshape(-1, 3, P)
        seen = torch.cat([heads[:, 1], heads[:, 0]], dim=1)[:, : m * P]
        parameters = Parameters(
            weight_ih=torch.cat([gather_rows(weight[:, :F], 4, D), recurrent[:, :D]], dim=1),
            weight_hh=recurrent[:, D:],
            bias_ih=bias,
            bias_hh=bias,
            A=gather(g_u.T @ out[:, :P], n, 1, D),
            a=gather_rows(g_u.sum(0), n, D),
            b=gather_rows(g_strength @ u[:, :P], 1, D).unsqueeze(0),
            b_0=g_strength.sum().view(1),
            Q=gather(g_targets.T @ seen, L if m else 0, m, D),
            q=gather_rows(g_targets.sum(0), L if m else 0, D),
            theta_0=torch.from_numpy(g.theta_0).sum(0)[:, :D, :D],
        )
        g_inputs = (g_gates @ torch.from_numpy(weights.gates[:F]).T).view(T, B, F)[:, : self.B] if inputs else None
        state = (torch.from_numpy(row)[: self.B, :D] for row in (g.h, g.c, g.read))
        return g_inputs, *state, torch.from_numpy(g.theta)[..., :D, :D], *parameters

"""A whole sequence of an MNM core as one differentiable operation, with the same results as the plain path of :mod:`.mnm`.

Four environments at a time (:data:`~mnm_rl.simd.ROWS`) go through all time steps, so that their fast weights stay in the cache.
Kept for the backward pass are vectors only (:class:`Trace`): it undoes the writes one by one, from the last fast weights back to
the first, and where an episode started in the middle of the sequence, makes those of the episode before by writing again.
"""

from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from mnm_rl.cores.core import Recording
from mnm_rl.cores.mnm import MnmCore, MnmState
from mnm_rl.memory.kernels import CHECKED, READ, WRITTEN, write, write_and_read, write_and_read_backward
from mnm_rl.parallel import run
from mnm_rl.simd import ROWS, add_product, kernel, padded, sigmoid_, tanh_

Array = NDArray[Any]


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
def _cell(gates: Any, c: Any, h: Any) -> None:
    """LSTM: gates ``[4P]`` before and after their nonlinearities, ``c`` before and after the step, ``h`` after it."""
    P = c.shape[0]
    sigmoid_(gates[: 2 * P])
    tanh_(gates[2 * P : 3 * P])
    sigmoid_(gates[3 * P :])
    for i in range(P):
        c[i] = gates[P + i] * c[i] + gates[i] * gates[2 * P + i]
        h[i] = c[i]
    tanh_(h)
    for i in range(P):
        h[i] *= gates[3 * P + i]


@kernel
def _cell_backward(gates: Any, c: Any, gh: Any, gc: Any, g: Any) -> None:
    """Back through :func:`_cell`: c before the step, gh; gc after and before it; g, with respect to the gates, filled in."""
    P = c.shape[0]
    one = c.dtype.type(1)
    tanh_c = g[:P]
    for k in range(P):
        tanh_c[k] = gates[P + k] * c[k] + gates[k] * gates[2 * P + k]
    tanh_(tanh_c)
    for k in range(P):
        i, f, n, o, t = gates[k], gates[P + k], gates[2 * P + k], gates[3 * P + k], g[k]
        gc_k = gc[k] + gh[k] * o * (one - t * t)
        g[k] = gc_k * n * i * (one - i)
        g[P + k] = gc_k * c[k] * f * (one - f)
        g[2 * P + k] = gc_k * i * (one - n * n)
        g[3 * P + k] = gh[k] * t * o * (one - o)
        gc[k] = gc_k * f


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
                _cell(trace.gates[t, b], state.c[b], state.h[b])
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
                _cell_backward(trace.gates[t, b], trace.c[t, b], g.h[b], g.c[b], g.gates[t, b])
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


def _spread(matrix: Tensor, n: int, m: int, D: int) -> Tensor:
    """Pad a matrix ``[n D, m D]`` of n times m blocks to ``[n P, m P]``."""
    P = padded(D)
    out = matrix.new_zeros(n, P, m, P)
    out[:, :D, :, :D] = matrix.view(n, D, m, D)
    return out.view(n * P, m * P)


def _gather(matrix: Tensor, n: int, m: int, D: int) -> Tensor:
    """The inverse of :func:`_spread`."""
    P = padded(D)
    return matrix.view(n, P, m, P)[:, :D, :, :D].reshape(n * D, m * D)


def _spread_rows(matrix: Tensor, n: int, D: int) -> Tensor:
    """Pad a matrix ``[n D, k]`` of n blocks to ``[n P, k]``; a vector likewise."""
    out = matrix.new_zeros(n, padded(D), *matrix.shape[1:])
    out[:, :D] = matrix.view(n, D, *matrix.shape[1:])
    return out.flatten(0, 1)


def _gather_rows(matrix: Tensor, n: int, D: int) -> Tensor:
    """The inverse of :func:`_spread_rows`."""
    return matrix.view(n, padded(D), *matrix.shape[1:])[:, :D].flatten(0, 1)


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
    before = _spread(torch.cat([p.weight_ih[:, F:], p.weight_hh], dim=1), 4, 2, D)
    gates = torch.cat([_spread_rows(p.weight_ih[:, :F], 4, D), before], dim=1)
    A = _spread(p.A, len(p.A) // D, 1, D)
    Q = _spread(p.Q, len(p.Q) // D, p.Q.shape[1] // D, D)
    packed = [gates.T, before, _spread_rows(p.bias_ih + p.bias_hh, 4, D), A.T, A, _spread_rows(p.a, len(p.a) // D, D)]
    packed += [_spread_rows(p.b[0], 1, D), p.b_0, Q.T, Q, _spread_rows(p.q, len(p.q) // D, D), _pad_memory(p.theta_0)]
    return Weights(*(tensor.contiguous().numpy() for tensor in packed))


def working_state(h: Tensor, c: Tensor, read: Tensor, theta: Tensor) -> Working:
    """A copy of a state that the kernels may change."""
    B, D = h.shape
    rows = np.zeros((3, padded(B, ROWS), padded(D)), h.detach().numpy().dtype)
    for row, tensor in zip(rows, (h, c, read), strict=True):
        row[:B, :D] = tensor.detach().numpy()
    return Working(h=rows[0], c=rows[1], read=rows[2], theta=_pad_memory(theta.detach()).numpy())


def new_trace(T: int, B: int, F: int, D: int, L: int, H: int, gradient_rule: bool, dtype: np.dtype[Any]) -> Trace:
    """An empty trace for T steps of B environments."""
    B, P = padded(B, ROWS), padded(D)
    return Trace(
        x=np.zeros((T, B, F + 2 * P), dtype),
        c=np.zeros((T, B, P), dtype),
        gates=np.zeros((T, B, 4 * P), dtype),
        out=np.zeros((T, B, 2 * P), dtype),
        u=np.zeros((T, B, (3 * H + 1) * P), dtype),
        beta=np.zeros((T, B), dtype),
        z=np.zeros((T, B, 3, H, L + 1, P), dtype),
        q=np.zeros((T, B, H, L - 1 if gradient_rule else 0, P), dtype),
        delta=np.zeros((T, B, H, L, P), dtype),
        meta_loss=np.zeros((T, B), dtype),
    )


class FusedMnm(Recording[MnmState]):
    """Steps of an MNM core and their backward pass, by the kernels.

    Args:
        core: must not change until the last step.
        state: the state before the first step.
        steps: how many steps there is room for.
    """

    core: MnmCore

    def __init__(self, core: MnmCore, state: MnmState, steps: int) -> None:
        super().__init__(core, state)
        memory = core.memory
        none = core.output.weight.new_zeros(0, 0)
        feedback = (memory.feedback.weight, memory.feedback.bias) if memory.write_rule == "p" else (none, none.flatten())
        self.parameters = Parameters(
            *(core.controller.weight_ih, core.controller.weight_hh, core.controller.bias_ih, core.controller.bias_hh),
            *(core.interaction.weight, core.interaction.bias, core.write_strength.weight, core.write_strength.bias),
            *feedback,
            memory.theta_0,
        )
        self.versions = [parameter._version for parameter in core.parameters()]
        self.weights = pack(self.parameters)
        self.gradient_rule = memory.write_rule == "g"
        F = core.controller.input_size - core.hidden_size
        B, self.D = state.h.shape
        dtype = self.weights.theta_0.dtype
        self.trace = new_trace(steps, B, F, self.D, memory.layers, core.heads, self.gradient_rule, dtype)
        self.starts = np.zeros((steps, B), dtype=bool)
        self.now = working_state(*state[:4])
        self.steps = 0

    @property
    def state(self) -> MnmState:
        D, B = self.D, len(self.now.theta)
        h, c, read, theta = map(torch.from_numpy, self.now)
        return self.initial_state._replace(h=h[:B, :D], c=c[:B, :D], read=read[:B, :D], theta=theta[..., :D, :D])

    def run(self, inputs: Tensor, episode_starts: Tensor) -> Tensor:
        """Some more steps: inputs ``[T, B, F]``, episode starts ``[T, B]`` to ``[h_t; v^r_t]``, padded, without gradient."""
        t0, t1 = self.steps, self.steps + len(inputs)
        _, B, F = inputs.shape
        self.trace.x[t0:t1, :B, :F] = inputs.detach().numpy()
        self.starts[t0:t1] = episode_starts.numpy()
        fours = len(self.now.h) // ROWS
        run(_forward, fours, t0, t1, self.D, self.gradient_rule, self.starts, self.weights, self.now, self.trace)
        self.steps = t1
        return torch.from_numpy(self.trace.out[t0:t1])

    def _output(self, out: Tensor) -> Tensor:
        """``C [h; v^r] + c``, ``[T, B, D]``, of padded rows."""
        D, room = self.D, padded(self.D) - self.D
        weight = self.core.output.weight
        C = torch.cat([nn.functional.pad(half, (0, room)) for half in (weight[:, :D], weight[:, D:])], dim=1)
        return nn.functional.linear(out, C, self.core.output.bias)[:, : len(self.now.theta)]

    @torch.no_grad()
    def step(self, x: Tensor, episode_starts: Tensor) -> Tensor:
        return self._output(self.run(x.unsqueeze(0), episode_starts.unsqueeze(0)))[0]

    def sequence(self, inputs: Tensor, episode_starts: Tensor) -> tuple[Tensor, MnmState, Tensor]:
        """All steps at once, with gradient: what the core's ``forward`` returns."""
        self.run(inputs, episode_starts)
        return self._differentiable(inputs)

    def replay(self, inputs: Tensor, episode_starts: Tensor) -> tuple[Tensor, Tensor]:
        if not self._still_holds(inputs, episode_starts):
            return super().replay(inputs, episode_starts)
        outputs, _, meta_loss = self._differentiable(inputs)
        return outputs, meta_loss

    def _still_holds(self, inputs: Tensor, episode_starts: Tensor) -> bool:
        """Whether running the steps again would give the same: it does not if something changed the parameters or the inputs."""
        T, B, F = inputs.shape
        recorded = torch.from_numpy(self.trace.x)[:, :B, :F]
        return (
            [parameter._version for parameter in self.core.parameters()] == self.versions
            and recorded.shape == inputs.shape
            and self.steps == T
            and torch.equal(torch.from_numpy(self.starts), episode_starts)
            and torch.allclose(recorded, inputs, rtol=1e-4, atol=1e-5)
        )

    def _differentiable(self, inputs: Tensor) -> tuple[Tensor, MnmState, Tensor]:
        outputs = _Sequence.apply(self, inputs, *self.initial_state[:4], *self.parameters)  # type: ignore[no-untyped-call]
        out, meta_loss, h, c, read, theta = outputs
        beta = self.trace.beta[: self.steps, : len(self.now.theta)]
        self.core.diagnostics = {"beta": torch.tensor(beta.mean())}
        return self._output(out), self.initial_state._replace(h=h, c=c, read=read, theta=theta), meta_loss


class _Sequence(torch.autograd.Function):
    """``[h_t; v^r_t]`` (padded), meta-loss and last state, as a function of inputs, first state and parameters."""

    @staticmethod
    def forward(ctx: Any, steps: FusedMnm, inputs: Tensor, *tensors: Tensor) -> tuple[Tensor, ...]:
        state = steps.state
        ctx.save_for_backward(inputs, *tensors)  # so that PyTorch sees if they are changed before the backward pass
        ctx.steps, ctx.theta = steps, steps.now.theta
        ctx.set_materialize_grads(False)
        B = steps.starts.shape[1]
        return torch.from_numpy(steps.trace.out), torch.from_numpy(steps.trace.meta_loss)[:, :B], *state[:4]

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *g_outputs: Tensor | None) -> tuple[Tensor | None, ...]:
        steps: FusedMnm = ctx.steps
        _, _, _, _, theta_first, *_ = ctx.saved_tensors
        weights, trace, D = steps.weights, steps.trace, steps.D
        g_out, g_meta_loss, g_h, g_c, g_read, g_theta = g_outputs
        T, B = steps.starts.shape
        _, fours, K = trace.x.shape
        H, L = trace.delta.shape[2:4]
        P, F, n = padded(D), K - 2 * padded(D), 3 * H + 1

        like = np.zeros_like
        theta = steps.now.theta.copy()
        rows = np.zeros((3, fours, P), trace.x.dtype)
        g = Gradients(
            gates=like(trace.gates),
            u=like(trace.u),
            strength=like(trace.beta),
            targets=np.zeros((T, fours, H, weights.Q.shape[1]), trace.x.dtype),
            h=rows[0],
            c=rows[1],
            read=rows[2],
            theta=like(theta),
            theta_0=np.zeros((fours // ROWS, *weights.theta_0.shape), trace.x.dtype),
        )
        for carried, given in ((g.h[:B, :D], g_h), (g.c[:B, :D], g_c), (g.read[:B, :D], g_read), (g.theta[..., :D, :D], g_theta)):
            if given is not None:
                carried[:] = given.numpy()
        g_losses = like(trace.meta_loss)
        if g_meta_loss is not None:
            g_losses[:, :B] = g_meta_loss.numpy()
        g_outs = like(trace.out) if g_out is None else g_out.contiguous().numpy()
        first = _pad_memory(theta_first).numpy()
        run(_backward, fours // ROWS, D, steps.gradient_rule, steps.starts, weights, theta, first, trace, g_outs, g_losses, g)

        # The weights' gradients are a few large products over all steps.
        x, out, u, gates, g_u, targets = (
            torch.from_numpy(array).flatten(0, 1) for array in (trace.x, trace.out, trace.u, g.gates, g.u, g.targets)
        )
        targets, strength = targets.flatten(0, 1), torch.from_numpy(g.strength).flatten()
        g_gates = gates.T @ x
        recurrent = _gather(g_gates[:, F:], 4, 2, D)
        bias = _gather_rows(gates.sum(0), 4, D)
        heads = u[:, P:].reshape(-1, 3, P)
        m = weights.Q.shape[0] // P  # what the feedback maps see: values, or values and keys, or nothing
        seen = torch.cat([heads[:, 1], heads[:, 0]], dim=1)[:, : m * P]
        parameters = Parameters(
            weight_ih=torch.cat([_gather_rows(g_gates[:, :F], 4, D), recurrent[:, :D]], dim=1),
            weight_hh=recurrent[:, D:],
            bias_ih=bias,
            bias_hh=bias,
            A=_gather(g_u.T @ out[:, :P], n, 1, D),
            a=_gather_rows(g_u.sum(0), n, D),
            b=_gather_rows(strength @ u[:, :P], 1, D).unsqueeze(0),
            b_0=strength.sum().view(1),
            Q=_gather(targets.T @ seen, L if m else 0, m, D),
            q=_gather_rows(targets.sum(0), L if m else 0, D),
            theta_0=torch.from_numpy(g.theta_0).sum(0)[:, :D, :D],
        )
        inputs = (gates @ torch.from_numpy(weights.gates[:F]).T).view(T, fours, F)[:, :B] if ctx.needs_input_grad[1] else None
        h, c, read = torch.from_numpy(rows)[:, :B, :D]
        return None, inputs, h, c, read, torch.from_numpy(g.theta)[..., :D, :D], *parameters

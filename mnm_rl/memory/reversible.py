"""A running memory of which autograd keeps no fast weights, so that a long sequence takes no more
of them than a short one.

The fast weights are on a *tape*: as they are now, and for every step the vectors of its write. Its
steps are autograd functions that hand on a *token*, a number without meaning whose gradient orders
them: a step's backward pass finds on the tape the fast weights that the step left and the gradient
with respect to them, and leaves those before it, undoing its write. Where an episode started in the
middle, the fast weights that the episode before ended with are written again from that episode's
start. Where a gate has left less than half of the fast weights, they are kept as they were:
division would not bring them back.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import Function, once_differentiable

from mnm_rl.memory.adjoint import Kept, write_and_read, write_and_read_backward
from mnm_rl.memory.function import FastWeights, undo
from mnm_rl.memory.neural_memory import NeuralMemory
from mnm_rl.memory.rules import WriteRule


class ReversibleMemory:
    """A :class:`~mnm_rl.memory.plain.RunningMemory` that keeps vectors only; differentiable once,
    on any device, in any dtype."""

    def __init__(self, memory: NeuralMemory, theta: Tensor) -> None:
        self._memory = memory
        self._tape = _Tape(memory.rule, theta)
        self._token = _Enter.apply(self._tape, theta)  # type: ignore[no-untyped-call]

    def reset(self, starts: Tensor) -> None:
        self._tape.recording |= torch.is_grad_enabled()
        self._token = _Reset.apply(self._tape, self._token, self._memory.theta_0, starts)  # type: ignore[no-untyped-call]

    def write_and_read(
        self,
        keys: Tensor,
        values: Tensor,
        beta: Tensor,
        read_keys: Tensor,
        alpha: Tensor | None = None,
    ) -> Tensor:
        self._tape.recording |= torch.is_grad_enabled()
        keys, targets, beta = self._memory.prepare_write(keys, values, beta)
        tensors = (keys, targets, beta, self._memory.rule.normalize(read_keys), alpha)
        self._token, read = _WriteAndRead.apply(self._tape, self._token, *tensors)  # type: ignore[no-untyped-call]
        return read  # type: ignore[no-any-return]

    @property
    def last(self) -> Kept:
        return self._tape.last_write

    def theta(self) -> Tensor:
        self._token, theta = _Theta.apply(self._tape, self._token)  # type: ignore[no-untyped-call]
        return theta  # type: ignore[no-any-return]


class _ResetStep(NamedTuple):
    starts: Tensor
    """``[B]``."""
    theta_0: FastWeights
    """Each ``[D, D]``."""


class _Tape:
    """Steps, the fast weights before the first and after the last of them, and a place for those
    that a backward pass is at.

    ``position`` counts steps: theta at position 0 is ``first``, at position ``len(steps)`` it is
    ``last``.
    """

    def __init__(self, rule: WriteRule, theta: Tensor) -> None:
        self.rule = rule
        self.first = self.last = theta.detach().unbind(1)
        self.steps: list[Kept | _ResetStep] = []
        # theta at some positions, where undoing would lose precision
        self.known: dict[int, FastWeights] = {}
        # what is left of the fast weights that are known, [B]
        self.left = torch.ones_like(self.first[0][:, 0, 0])
        self.recording = False  # steps before the first one with gradient leave nothing
        self.last_write: Kept
        self.back: tuple[int, FastWeights, FastWeights]  # position, theta, G = dL/dtheta

    def step(self, step: "Kept | _ResetStep", theta: FastWeights) -> None:
        """Go on to theta; what is kept for the way back is ``step``."""
        if self.recording:
            if isinstance(step, _ResetStep):
                self.left = torch.where(step.starts, 1, self.left)
            elif step.alpha is not None:
                self.left = self.left * step.alpha
                # dividing by it would make rounding errors twice as large, or more
                if self.left.min() < 0.5:
                    self.known[len(self.steps)], self.left = self.last, torch.ones_like(self.left)
            self.steps.append(step)
        else:
            self.first = theta
        self.last = theta

    def arrive(self, position: int, g_token: Tensor | None) -> tuple[FastWeights, FastWeights]:
        """Theta and G at a position, on the way back."""
        if g_token is None:  # nothing that comes after has gradient: this backward pass starts here
            theta = self.last
            for at in range(len(self.steps) - 1, position - 1, -1):
                theta = self.undo(at, theta)
            return theta, tuple(torch.zeros_like(W) for W in theta)
        at, theta, G = self.back
        assert at == position, "two backward passes through the same steps at the same time"
        return theta, G

    def undo(self, at: int, theta: FastWeights) -> FastWeights:
        """Theta before step number ``at``, from theta after it."""
        step = self.steps[at]
        if at in self.known:
            return self.known[at]
        if isinstance(step, Kept):
            return undo(theta, step.z, step.deltas, step.step_sizes, step.alpha)
        ended = step.starts.nonzero().squeeze(1)
        return tuple(
            W.index_copy(0, ended, W_end)
            for W, W_end in zip(theta, self.write_again(at, ended), strict=True)
        )

    def write_again(self, position: int, environments: Tensor) -> FastWeights:
        """Theta of some environments at a position: from the starts of the episodes that they are
        in, or from where theta is known, all writes at once."""
        theta = tuple(W[environments] for W in self.first)
        writes, strengths = [], []
        # those whose episode started earlier
        unmet = torch.ones_like(environments, dtype=torch.bool)
        # the share of a write at this step that is left at the position
        left = torch.ones_like(self.left[environments])
        for at in range(position - 1, -1, -1):
            step = self.steps[at]
            if isinstance(step, Kept):
                if step.alpha is not None:
                    left = torch.where(unmet, left * step.alpha[environments], left)
                writes.append(step)
                strengths.append(step.step_sizes[environments] * (unmet * left).unsqueeze(1))
                if at in self.known:
                    before = (W[environments] for W in self.known[at])
                    theta = tuple(
                        torch.where(unmet.view(-1, 1, 1), W, own)
                        for W, own in zip(before, theta, strict=True)
                    )
                    break
            else:
                starts = step.starts[environments]
                here = (starts & unmet).view(-1, 1, 1)
                theta = tuple(
                    torch.where(here, W_0, W) for W_0, W in zip(step.theta_0, theta, strict=True)
                )
                unmet = unmet & ~starts
                if not unmet.any():
                    break
        if not writes:
            return theta
        theta = tuple(left.view(-1, 1, 1) * W for W in theta)
        s = torch.stack(strengths, dim=1)[..., None, None]  # [B, writes, L, 1, 1]

        def written(l: int, W: Tensor) -> Tensor:
            z = torch.stack([w.z[l][environments] for w in writes], dim=1)
            delta = torch.stack([w.deltas[l][environments] for w in writes], dim=1)
            return torch.baddbmm(
                W, (-s[:, :, l] * delta).flatten(1, 2).mT, z.flatten(1, 2)
            )  # as if they were the heads of one write

        return tuple(written(l, W) for l, W in enumerate(theta))


class _Enter(Function):
    """Theta ``[B, L, D, D]`` to the token at position 0."""

    @staticmethod
    def forward(ctx: Any, tape: _Tape, theta: Tensor) -> Tensor:
        ctx.tape = tape
        ctx.set_materialize_grads(False)
        return theta.new_zeros(())

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, g_token: Tensor | None) -> tuple[Tensor | None, ...]:
        _, G = ctx.tape.arrive(0, g_token)
        return None, torch.stack(G, dim=1)


class _Reset(Function):
    @staticmethod
    def forward(ctx: Any, tape: _Tape, token: Tensor, theta_0: Tensor, starts: Tensor) -> Tensor:
        ctx.tape, ctx.at = tape, len(tape.steps)
        ctx.save_for_backward(theta_0, starts, *tape.first)
        ctx.set_materialize_grads(False)
        step = _ResetStep(starts, theta_0.detach().unbind(0))
        where = starts.view(-1, 1, 1)
        tape.step(
            step,
            tuple(
                torch.where(where, W_0, W) for W_0, W in zip(step.theta_0, tape.last, strict=True)
            ),
        )
        return torch.zeros_like(token)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, g_token: Tensor | None) -> tuple[Tensor | None, ...]:
        _, starts, *_ = ctx.saved_tensors  # PyTorch sees here if one has been changed since
        tape, where = ctx.tape, starts.view(-1, 1, 1)
        theta, G = tape.arrive(ctx.at + 1, g_token)
        g_theta_0 = torch.stack([torch.where(where, G_l, 0).sum(0) for G_l in G])
        tape.back = ctx.at, tape.undo(ctx.at, theta), tuple(torch.where(where, 0, G_l) for G_l in G)
        return None, G[0].new_zeros(()), g_theta_0, None


class _WriteAndRead(Function):
    @staticmethod
    def forward(
        ctx: Any,
        tape: _Tape,
        token: Tensor,
        keys: Tensor,
        targets: Tensor,
        beta: Tensor,
        read_keys: Tensor,
        alpha: Tensor | None,
    ) -> tuple[Tensor, Tensor]:
        ctx.tape, ctx.at = tape, len(tape.steps)
        # Detached: what the tape keeps must not lead back to the graph that keeps the tape.
        keys_, targets_, beta_, read_keys_ = (x.detach() for x in (keys, targets, beta, read_keys))
        alpha_ = None if alpha is None else alpha.detach()
        theta, values, kept = write_and_read(
            tape.rule, tape.last, keys_, targets_, beta_, read_keys_, alpha_
        )
        ctx.kept = kept._replace(y=[*kept.y[:-1], values.detach()])
        tape.step(ctx.kept, theta)
        tape.last_write = ctx.kept
        ctx.save_for_backward(keys, beta, read_keys, alpha)
        ctx.set_materialize_grads(False)
        return torch.zeros_like(token), values

    @staticmethod
    @once_differentiable
    def backward(
        ctx: Any, g_token: Tensor | None, g_values: Tensor | None
    ) -> tuple[Tensor | None, ...]:
        _ = ctx.saved_tensors  # PyTorch sees here if one has been changed since
        tape = ctx.tape
        theta, G = tape.arrive(ctx.at + 1, g_token)
        if g_values is None:
            g_values = torch.zeros_like(ctx.kept.y[-1])
        before = tape.known.get(ctx.at)
        theta, G, gradients = write_and_read_backward(
            tape.rule, theta, G, g_values, ctx.kept, before
        )
        tape.back = ctx.at, theta, G
        return None, g_values.new_zeros(()), *gradients


class _Theta(Function):
    @staticmethod
    def forward(ctx: Any, tape: _Tape, token: Tensor) -> tuple[Tensor, Tensor]:
        ctx.tape, ctx.position = tape, len(tape.steps)
        ctx.set_materialize_grads(False)
        return torch.zeros_like(token), torch.stack(tape.last, dim=1)

    @staticmethod
    @once_differentiable
    def backward(
        ctx: Any, g_token: Tensor | None, g_theta: Tensor | None
    ) -> tuple[Tensor | None, ...]:
        tape = ctx.tape
        theta, G = tape.arrive(ctx.position, g_token)
        if g_theta is not None:
            G = tuple(G_l + g for G_l, g in zip(G, g_theta.unbind(1), strict=True))
        tape.back = ctx.position, theta, G
        return None, G[0].new_zeros(())

"""What the fused paths of the cores share: steps that Numba kernels run and differentiate.

A fused core is a :class:`FusedRecording`: its kernels run some steps and leave what the backward pass needs in arrays, and its
``gradients`` go back through all of them. The arrays pad the width D with zeros to ``P``, a multiple of the vector length, and,
where environments are taken four at a time, the batch as well.
"""

from abc import abstractmethod
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mnm_rl.cores.core import Recording, RecurrentCore, StateT, make_state
from mnm_rl.simd import kernel, padded, sigmoid_, tanh_

Array = NDArray[Any]


class FusedRecording(Recording[StateT]):
    """Steps of a core, and their backward pass, by kernels.

    Args:
        core: must not change until the last step.
        state: the state before the first step.
        parameters: those of the core, as ``gradients`` gives their gradients.
        steps: how many steps there will be.
        reuse: a recording that is no longer needed: its memory is taken, if it fits. Fetching fresh memory from the operating
            system can take as long as the kernels do.

    Attributes:
        F: width of the inputs; to be set by the subclass.
        x: where the inputs go, ``[T, >= B, >= F]``; to be set by the subclass.
        t: steps run so far.
        episode_starts: ``[T, B]``.
    """

    F: int
    x: Array
    carried: ClassVar[int]
    """How many tensors of the state change from step to step; the others are after them and stay."""

    def __init__(
        self,
        core: RecurrentCore[StateT],
        state: StateT,
        parameters: tuple[Tensor, ...],
        steps: int,
        reuse: Recording[StateT] | None,
    ) -> None:
        super().__init__(core, state)
        if any(tensor.dtype != parameters[0].dtype for tensor in state):
            raise ValueError(f"the state must be in {parameters[0].dtype}, as the core is, not {state[0].dtype}")
        self.parameters = parameters
        self.t = 0
        self.D, self.B = core.hidden_size, len(state[0])
        self.dtype = state[0].detach().numpy().dtype
        self.episode_starts = np.zeros((steps, self.B), dtype=bool)
        self._versions = [parameter._version for parameter in parameters]
        self._arrays: dict[str, Array] = reuse._arrays if isinstance(reuse, FusedRecording) and reuse.B == self.B else {}

    def room(self, name: str, *shape: int) -> Array:
        """An array that is zero where kernels never write, and elsewhere what was there."""
        found = self._arrays.get(name)
        if found is None or found.shape != shape or found.dtype != self.dtype:
            found = self._arrays[name] = np.zeros(shape, self.dtype)
        return found

    @abstractmethod
    def run(self, t0: int, t1: int) -> Tensor:
        """Run the kernels from step t0 to t1; returns the raw outputs of these steps, ``[t1 - t0, ...]``, without gradient."""

    @abstractmethod
    def results(self) -> tuple[Tensor | None, ...]:
        """Raw outputs, meta-loss (None for a core without), and the tensors of the last state that change."""

    @abstractmethod
    def gradients(self, inputs: bool, *given: Tensor | None) -> tuple[Tensor | None, ...]:
        """The gradients with respect to the inputs (if asked for), the first state and the parameters, given those with
        respect to :meth:`results`, or None where they are zero."""

    @abstractmethod
    def outputs(self, raw: Tensor) -> Tensor:
        """Outputs ``[T, B, output_size]`` of raw outputs, differentiable."""

    def _run(self, inputs: Tensor, episode_starts: Tensor) -> Tensor:
        T = len(inputs)
        if inputs.shape[1:] != (self.B, self.F) or inputs.dtype != self.parameters[0].dtype:
            raise ValueError(
                f"inputs must be [T, {self.B}, {self.F}] in {self.parameters[0].dtype}, not {list(inputs.shape)} in {inputs.dtype}"
            )
        if episode_starts.shape != inputs.shape[:2]:
            raise ValueError(f"episode_starts must be {list(inputs.shape[:2])}, not {list(episode_starts.shape)}")
        self.t += T
        self.x[self.t - T : self.t, : self.B, : self.F] = inputs.detach().numpy()
        self.episode_starts[self.t - T : self.t] = episode_starts.numpy()
        return self.run(self.t - T, self.t)

    @torch.no_grad()
    def step(self, x: Tensor, episode_starts: Tensor) -> Tensor:
        return self.outputs(self._run(x.unsqueeze(0), episode_starts.unsqueeze(0)))[0]

    def sequence(self, inputs: Tensor, episode_starts: Tensor) -> tuple[Tensor, StateT, Tensor]:
        """All steps at once, with gradient: what the core's ``forward`` returns."""
        self._run(inputs, episode_starts)
        return self._differentiable(inputs)

    def replay(self, inputs: Tensor, episode_starts: Tensor) -> tuple[Tensor, Tensor]:
        if not self._still_holds(inputs, episode_starts):
            return super().replay(inputs, episode_starts)
        outputs, _, meta_loss = self._differentiable(inputs)
        return outputs, meta_loss

    def _still_holds(self, inputs: Tensor, episode_starts: Tensor) -> bool:
        """Whether running the steps again would give the same: not if the parameters or the inputs have been changed."""
        return (
            self.t == len(inputs) == len(self.x)
            and [parameter._version for parameter in self.parameters] == self._versions
            and torch.equal(torch.from_numpy(self.episode_starts), episode_starts)
            and torch.allclose(torch.from_numpy(self.x)[:, : self.B, : self.F], inputs, rtol=1e-4, atol=1e-5)
        )

    def _differentiable(self, inputs: Tensor) -> tuple[Tensor, StateT, Tensor]:
        first, n = self.initial_state, self.carried
        raw, meta_loss, *last = _Steps.apply(self, inputs, *first[:n], *self.parameters)  # type: ignore[no-untyped-call]
        if meta_loss is None:
            meta_loss = inputs.new_zeros(inputs.shape[:2])
        return self.outputs(raw), make_state(first, (*last, *first[n:])), meta_loss


class _Steps(torch.autograd.Function):
    """The results of a recording, as a function of inputs, first state and parameters."""

    @staticmethod
    def forward(ctx: Any, steps: FusedRecording[Any], *tensors: Tensor) -> tuple[Tensor | None, ...]:
        ctx.save_for_backward(*tensors)  # PyTorch then sees if one is changed before the backward pass
        ctx.steps = steps
        ctx.set_materialize_grads(False)
        return steps.results()

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *given: Tensor | None) -> tuple[Tensor | None, ...]:
        _ = ctx.saved_tensors
        steps: FusedRecording[Any] = ctx.steps
        return None, *steps.gradients(ctx.needs_input_grad[1], *given)


def array(tensor: Tensor | None, shape: tuple[int, ...], dtype: Any) -> Array:
    """Zeros with a tensor, if there is one, in the first corner."""
    out = np.zeros(shape, dtype)
    if tensor is not None:
        out[tuple(slice(n) for n in tensor.shape)] = tensor.detach().numpy()
    return out


def spread(matrix: Tensor, n: int, m: int, D: int) -> Tensor:
    """Pad a matrix ``[n D, m D]`` of n times m blocks to ``[n P, m P]``."""
    P = padded(D)
    out = matrix.new_zeros(n, P, m, P)
    out[:, :D, :, :D] = matrix.view(n, D, m, D)
    return out.view(n * P, m * P)


def gather(matrix: Tensor, n: int, m: int, D: int) -> Tensor:
    """The inverse of :func:`spread`."""
    P = padded(D)
    return matrix.view(n, P, m, P)[:, :D, :, :D].reshape(n * D, m * D)


def spread_rows(matrix: Tensor, n: int, D: int) -> Tensor:
    """Pad a matrix ``[n D, k]`` of n blocks to ``[n P, k]``; a vector likewise."""
    out = matrix.new_zeros(n, padded(D), *matrix.shape[1:])
    out[:, :D] = matrix.view(n, D, *matrix.shape[1:])
    return out.flatten(0, 1)


def gather_rows(matrix: Tensor, n: int, D: int) -> Tensor:
    """The inverse of :func:`spread_rows`."""
    return matrix.view(n, padded(D), *matrix.shape[1:])[:, :D].flatten(0, 1)


@kernel
def lstm_cell(gates: Any, c: Any, h: Any) -> None:
    """Gates i, f, g, o ``[4P]`` before and after their nonlinearities, ``c`` before and after the step, ``h`` after it."""
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
def lstm_cell_backward(gates: Any, c: Any, gh: Any, gc: Any, g: Any) -> None:
    """Back through :func:`lstm_cell`: ``c`` before the step; ``gc`` after and before it; ``g``, to the gates, filled in."""
    P = c.shape[0]
    one = c.dtype.type(1)
    tanh_c = g[:P]
    for k in range(P):
        tanh_c[k] = gates[P + k] * c[k] + gates[k] * gates[2 * P + k]
    tanh_(tanh_c)
    for k in range(P):
        i, f, n, o, t = gates[k], gates[P + k], gates[2 * P + k], gates[3 * P + k], tanh_c[k]
        gc_k = gc[k] + gh[k] * o * (one - t * t)
        g[k] = gc_k * n * i * (one - i)
        g[P + k] = gc_k * c[k] * f * (one - f)
        g[2 * P + k] = gc_k * i * (one - n * n)
        g[3 * P + k] = gh[k] * t * o * (one - o)
        gc[k] = gc_k * f

"""What the fused implementations share: steps that Numba kernels run and differentiate.

The kernels of a core run some steps and leave what the backward pass needs in arrays; ``gradients`` goes back through all of them.
The arrays pad the width D with zeros to ``P``, a multiple of the vector length, and the width M of a memory to ``K``.
"""

import weakref
from abc import abstractmethod
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from mnm_rl.cores.core import RecurrentCore, StateT, make_state
from mnm_rl.cores.implementations import Implementation, Trace, log_once
from mnm_rl.fused.arena import Arena, Array


class FusedCore(Implementation[StateT]):
    """Runs a core by kernels.

    Attributes:
        trace_class: its steps.
        arena: memory for them.
    """

    name = "fused"
    trace_class: "ClassVar[type[FusedTrace[Any]]]"

    def __init__(self, core: RecurrentCore[StateT]) -> None:
        super().__init__(core)
        self.arena = Arena()
        self._packed: tuple[list[Tensor], Any] | None = None

    @classmethod
    def refusal(cls, core: Any) -> str | None:
        tensors = [*core.parameters(), *core.buffers()]
        if any(tensor.device.type != "cpu" for tensor in tensors):
            return "the fused path is for CPUs"
        if any(tensor.dtype != tensors[0].dtype for tensor in tensors) or tensors[0].dtype not in (torch.float32, torch.float64):
            return "the fused path is for float32 and float64"
        return None

    def packed(self, parameters: tuple[Tensor, ...]) -> tuple[list[Tensor], Any]:
        """A copy of the parameters, and the same in the layout of the kernels; made anew when a parameter has changed."""
        if self._packed is None or not same(self._packed[0], parameters):
            copies = [parameter.detach().clone() for parameter in parameters]
            with torch.no_grad():
                self._packed = copies, self.trace_class.pack(self.core, parameters)
        return self._packed

    def sequence(self, inputs: Tensor, state: StateT, episode_starts: Tensor) -> tuple[Tensor, StateT, Tensor]:
        steps = self.trace_class(self, state, len(inputs))
        steps.run(inputs, episode_starts)
        return steps.differentiable(inputs)

    def trace(self, state: StateT, steps: int) -> Trace[StateT]:
        return self.trace_class(self, state, steps)


def same(copies: list[Tensor], parameters: tuple[Tensor, ...]) -> bool:
    """Whether parameters are what they were. Their version counters would not tell: they miss changes through ``.data``."""
    return all(copy.dtype == p.dtype and torch.equal(copy, p.detach()) for copy, p in zip(copies, parameters, strict=True))


class FusedTrace(Trace[StateT]):
    """Steps of a core, and their backward pass, by kernels.

    Attributes:
        parameters: those of the core, in the order in which ``gradients`` gives their gradients.
        weights: the parameters in the layout of the kernels.
        F: width of the inputs; to be set by the subclass.
        x: where the inputs go, ``[T, B, >= F]``; to be set by the subclass.
        t: steps run so far.
        episode_starts: ``[T, B]``.
    """

    F: int
    x: Array
    carried: ClassVar[int]
    """How many tensors of the state change from step to step; the others are after them and stay."""

    def __init__(self, implementation: FusedCore[StateT], state: StateT, steps: int) -> None:
        super().__init__(implementation, state)
        self.core: Any = implementation.core
        self.parameters = self.parameters_of(self.core)
        if any(tensor.dtype != self.parameters[0].dtype for tensor in state):
            raise ValueError(f"the state must be in {self.parameters[0].dtype}, as the core is, not {state[0].dtype}")
        self._copies, self.weights = implementation.packed(self.parameters)
        self.t = 0
        self.D, self.B = self.core.hidden_size, len(state[0])
        self.dtype = state[0].detach().numpy().dtype
        self.episode_starts = np.zeros((steps, self.B), dtype=bool)
        self._arena = implementation.arena
        self._taken: list[tuple[str, Array]] = []
        weakref.finalize(self, self._arena.give, self._taken)

    def room(self, name: str, *shape: int) -> Array:
        """An array for as long as this trace lives: zero where kernels never write, elsewhere undefined."""
        array = self._arena.take(name, shape, self.dtype)
        self._taken.append((name, array))
        return array

    @staticmethod
    @abstractmethod
    def parameters_of(core: Any) -> tuple[Tensor, ...]:
        """The parameters that the kernels use."""

    @staticmethod
    @abstractmethod
    def pack(core: Any, parameters: Any) -> Any:
        """The parameters in the layout of the kernels."""

    @abstractmethod
    def run_kernels(self, t0: int, t1: int) -> Tensor:
        """Run the kernels from step t0 to t1; returns the raw outputs of these steps, ``[t1 - t0, ...]``, without gradient."""

    @abstractmethod
    def results(self) -> tuple[Tensor | None, ...]:
        """Raw outputs, meta-loss (None for a core without), and the tensors of the last state that change; they may be views."""

    @abstractmethod
    def gradients(self, inputs: bool, *given: Tensor | None) -> tuple[Tensor | None, ...]:
        """The gradients with respect to the inputs (if asked for), the first state and the parameters, given those with
        respect to :meth:`results`, or None where they are zero."""

    def diagnostics(self) -> dict[str, Tensor]:
        """What the core's ``diagnostics`` will hold."""
        return {}

    @abstractmethod
    def outputs(self, raw: Tensor) -> Tensor:
        """Outputs ``[T, B, output_size]`` of raw outputs, differentiable."""

    @abstractmethod
    def working_state(self) -> tuple[Tensor, ...]:
        """The tensors of the state that change, after the last step; they may be views of what the next step changes."""

    def state(self, rows: Tensor | None = None) -> StateT:
        now = make_state(self.initial_state, (*self.working_state(), *self.initial_state[self.carried :]))
        return make_state(now, (tensor.clone() if rows is None else tensor[rows] for tensor in now))

    def run(self, inputs: Tensor, episode_starts: Tensor) -> Tensor:
        """Run the next steps, ``[T, B, F]`` and ``[T, B]``; returns their raw outputs, without gradient."""
        T = len(inputs)
        if inputs.shape[1:] != (self.B, self.F) or inputs.dtype != self.parameters[0].dtype:
            raise ValueError(
                f"inputs must be [T, {self.B}, {self.F}] in {self.parameters[0].dtype}, not {list(inputs.shape)} in {inputs.dtype}"
            )
        if episode_starts.shape != inputs.shape[:2]:
            raise ValueError(f"episode_starts must be {list(inputs.shape[:2])}, not {list(episode_starts.shape)}")
        self.t += T
        self.x[self.t - T : self.t, :, : self.F] = inputs.detach().numpy()
        self.episode_starts[self.t - T : self.t] = episode_starts.numpy()
        return self.run_kernels(self.t - T, self.t)

    @torch.no_grad()
    def step(self, x: Tensor, episode_starts: Tensor) -> Tensor:
        return self.outputs(self.run(x.unsqueeze(0), episode_starts.unsqueeze(0)))[0]

    def replay(self, inputs: Tensor, episode_starts: Tensor) -> tuple[Tensor, Tensor]:
        if (changed := self._what_changed(inputs, episode_starts)) is not None:
            log_once(f"the steps of a rollout are run again for its gradient, since {changed} changed after it")
            return super().replay(inputs, episode_starts)
        outputs, _, meta_loss = self.differentiable(inputs)
        return outputs, meta_loss

    def _what_changed(self, inputs: Tensor, episode_starts: Tensor) -> str | None:
        """Why running the steps again would not give the same, or None if it would."""
        if not (self.t == len(inputs) == len(self.x) and torch.equal(torch.from_numpy(self.episode_starts), episode_starts)):
            return "the sequence of steps"
        if not same(self._copies, self.parameters):
            return "the core's parameters"
        if not torch.allclose(torch.from_numpy(self.x)[..., : self.F], inputs, rtol=1e-4, atol=1e-5):
            return "the core's inputs"
        return None

    def differentiable(self, inputs: Tensor) -> tuple[Tensor, StateT, Tensor]:
        """What the core's ``forward`` returns for the steps that were run, with gradient."""
        if torch.is_grad_enabled():
            self.core.diagnostics = self.diagnostics()
        first, n = self.initial_state, self.carried
        raw, meta_loss, *last = _Steps.apply(self, inputs, *first[:n], *self.parameters)  # type: ignore[no-untyped-call]
        if meta_loss is None:
            meta_loss = inputs.new_zeros(inputs.shape[:2])
        return self.outputs(raw), make_state(first, (*last, *first[n:])), meta_loss


class _Steps(torch.autograd.Function):
    """The results of a trace, as a function of inputs, first state and parameters."""

    @staticmethod
    def forward(ctx: Any, steps: FusedTrace[Any], *tensors: Tensor) -> tuple[Tensor | None, ...]:
        results = steps.results()
        # PyTorch then sees if one is changed before the backward pass, which still reads the memory of the results.
        ctx.save_for_backward(*tensors, *(result for result in results if result is not None))
        ctx.steps = steps
        ctx.set_materialize_grads(False)
        return results

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *given: Tensor | None) -> tuple[Tensor | None, ...]:
        _ = ctx.saved_tensors
        steps: FusedTrace[Any] = ctx.steps
        return None, *steps.gradients(ctx.needs_input_grad[1], *given)

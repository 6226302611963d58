"""What the fused implementations share: steps that Numba kernels run and differentiate.

The kernels of a core run some steps and leave what the backward pass needs in arrays; ``gradients``
goes back through all of them. The arrays pad the width D with zeros to ``P``, a multiple of the
vector length, and the width M of a memory to ``K``.
"""

import ctypes
import os
import weakref
from abc import abstractmethod
from typing import Any, ClassVar, cast

import numpy as np
import torch
from torch import Tensor

from mnm_rl.cores.core import RecurrentCore, StateT, make_state
from mnm_rl.cores.implementations import Implementation, Trace, chosen, log_once, tensors
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
        self._singles: list[_SingleStep] = []  # of which a thread that runs one has taken it out

    @classmethod
    def refusal(cls, core: Any) -> str | None:
        kinds = {(tensor.device.type, tensor.dtype) for tensor in tensors(core)}
        if any(device != "cpu" for device, _ in kinds):
            return "the fused path is for CPUs"
        if not kinds <= {("cpu", torch.float32)} and not kinds <= {("cpu", torch.float64)}:
            return "the fused path is for float32 and float64"
        return None

    def packed(self, parameters: tuple[Tensor, ...]) -> tuple[list[Tensor], Any]:
        """A copy of all tensors of the core, and the parameters in the layout of the kernels; made
        anew when one has changed."""
        now = tensors(self.core)
        if self._packed is None or not same(self._packed[0], now):
            copies = [
                tensor.detach().clone(memory_format=torch.contiguous_format) for tensor in now
            ]
            with torch.no_grad():
                self._packed = copies, self.trace_class.pack(self.core, parameters)
        return self._packed

    def sequence(
        self, inputs: Tensor, state: StateT, episode_starts: Tensor
    ) -> tuple[Tensor, StateT, Tensor]:
        if (
            len(inputs) == 1
            and not torch.is_grad_enabled()
            and not torch.is_inference_mode_enabled()
        ):
            return self._single_step(inputs, state, episode_starts)
        steps = self.trace_class(self, state, len(inputs))
        steps.run(inputs, episode_starts)
        return steps.differentiable(inputs)

    def _single_step(
        self, inputs: Tensor, state: StateT, episode_starts: Tensor
    ) -> tuple[Tensor, StateT, Tensor]:
        try:
            step = self._singles.pop()
        except IndexError:
            step = None
        if step is None or not step.serves(state):
            step = _SingleStep(self, state)
        results = step(inputs, state, episode_starts)
        self._singles = [step]
        return results

    def trace(self, state: StateT, steps: int) -> Trace[StateT]:
        return self.trace_class(self, state, steps)


class _SingleStep:
    """One step without gradient, in the same memory each time: to make that anew takes longer than
    the step."""

    def __init__(self, implementation: FusedCore[Any], state: Any) -> None:
        self.situation = implementation.situation
        self.trace = implementation.trace_class(implementation, state, 1)
        _, self.meta_loss, *rows = self.trace.results()
        self.rows = [(i, cast(Tensor, row)) for i, row in enumerate(rows) if row is not state[i]]
        self.wholes = [row if row._base is None else row._base for _, row in self.rows]

    def serves(self, state: Any) -> bool:
        """Whether it would give what a new one gives."""
        return (
            self.situation == self.trace.implementation.situation
            and all(
                state[i].shape == row.shape and state[i].dtype == row.dtype for i, row in self.rows
            )
            and same(self.trace._copies, tensors(self.trace.core))
        )

    def __call__(
        self, inputs: Tensor, state: Any, episode_starts: Tensor
    ) -> tuple[Tensor, Any, Tensor]:
        self.trace.t = 0
        for whole in self.wholes:
            whole.zero_()  # with the padding, where there may be a NaN of other states
        for i, row in self.rows:
            row.copy_(state[i])
        outputs = self.trace.outputs(self.trace.run(inputs, episode_starts)).clone()
        meta_loss = (
            inputs.new_zeros(inputs.shape[:2]) if self.meta_loss is None else self.meta_loss.clone()
        )
        after = list(state)
        for i, row in self.rows:
            after[i] = row.clone(memory_format=torch.contiguous_format)
        return outputs, make_state(state, after), meta_loss


_memcmp = (ctypes.cdll.msvcrt if os.name == "nt" else ctypes.CDLL(None)).memcmp  # type: ignore[attr-defined,unused-ignore]
_memcmp.argtypes = ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t


def same(copies: list[Tensor], now: list[Tensor]) -> bool:
    """Whether tensors are, to the bit, what their contiguous copies are.

    All is compared: version counters and addresses miss what is changed through ``.data``, NumPy or
    another process. ``torch.equal`` would take five times as long.
    """
    if len(copies) != len(now):
        return False
    for copy, tensor in zip(copies, now, strict=True):
        if copy.dtype != tensor.dtype or copy.shape != tensor.shape:
            return False
        if not tensor.is_contiguous():
            if not torch.equal(copy, tensor.detach()):
                return False
        elif _memcmp(copy.data_ptr(), tensor.data_ptr(), copy.nbytes):
            return False
    return True


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
    """How many tensors of the state change from step to step; the others are after them and
    stay."""

    def __init__(self, implementation: FusedCore[StateT], state: StateT, steps: int) -> None:
        super().__init__(implementation, state)
        self.core: Any = implementation.core
        self.parameters = self.parameters_of(self.core)
        if any(tensor.dtype != self.parameters[0].dtype for tensor in state):
            raise ValueError(
                f"the state must be in {self.parameters[0].dtype}, as the core is, not "
                f"{state[0].dtype}"
            )
        self._copies, self.weights = implementation.packed(self.parameters)
        self._left = False
        self._watch()
        self.D, self.B = self.core.hidden_size, len(state[0])
        self.dtype = state[0].detach().numpy().dtype
        self.episode_starts = np.zeros((steps, self.B), dtype=bool)
        self._arena = implementation.arena
        self._taken: list[tuple[str, Array]] = []
        weakref.finalize(self, self._arena.give, self._taken)

    def room(self, name: str, *shape: int) -> Array:
        """An array for as long as this trace lives: zero where kernels never write, elsewhere
        undefined."""
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
        """Run the kernels from step t0 to t1; returns the raw outputs of these steps, ``[t1 - t0,
        ...]``, without gradient."""

    @abstractmethod
    def results(self) -> tuple[Tensor | None, ...]:
        """Raw outputs, meta-loss (None for a core without), and the tensors of the last state that
        change; they may be views."""

    @abstractmethod
    def gradients(self, inputs: bool, *given: Tensor | None) -> tuple[Tensor | None, ...]:
        """The gradients with respect to the inputs (if asked for), the first state and the
        parameters, given those with respect to :meth:`results`, or None where they are zero."""

    def diagnostics(self) -> dict[str, Tensor]:
        """What the core's ``diagnostics`` will hold."""
        return {}

    @abstractmethod
    def outputs(self, raw: Tensor) -> Tensor:
        """Outputs ``[T, B, output_size]`` of raw outputs, differentiable."""

    @abstractmethod
    def working_state(self) -> tuple[Tensor, ...]:
        """The tensors of the state that change, after the last step; they may be views of what the
        next step changes."""

    def state(self, rows: Tensor | None = None) -> StateT:
        if self._left:
            return super().state(rows)
        now = make_state(
            self.initial_state, (*self.working_state(), *self.initial_state[self.carried :])
        )
        return make_state(now, (tensor.clone() if rows is None else tensor[rows] for tensor in now))

    def state_after(self, steps: int) -> StateT:
        if self._left or steps == self.t:
            return super().state_after(steps)
        with torch.no_grad():  # the fast weights of the step before are not kept
            again = type(self)(self.implementation, self.initial_state, steps)  # type: ignore[arg-type]
            again.weights = self.weights
            if steps > 0:
                again.run(
                    torch.from_numpy(self.x[:steps, :, : self.F]),
                    torch.from_numpy(self.episode_starts[:steps]),
                )
        return again.state()

    def run(self, inputs: Tensor, episode_starts: Tensor) -> Tensor:
        """Run the next steps, ``[T, B, F]`` and ``[T, B]``; returns their raw outputs, without
        gradient."""
        T = len(inputs)
        if inputs.shape[1:] != (self.B, self.F) or inputs.dtype != self.parameters[0].dtype:
            raise ValueError(
                f"inputs must be [T, {self.B}, {self.F}] in {self.parameters[0].dtype}, not "
                f"{list(inputs.shape)} in {inputs.dtype}"
            )
        if episode_starts.shape != inputs.shape[:2]:
            raise ValueError(
                f"episode_starts must be {list(inputs.shape[:2])}, not {list(episode_starts.shape)}"
            )
        self.t += T
        self.x[self.t - T : self.t, :, : self.F] = inputs.detach().numpy()
        self.episode_starts[self.t - T : self.t] = episode_starts.numpy()
        return self.run_kernels(self.t - T, self.t)

    def step(self, x: Tensor, episode_starts: Tensor) -> Tensor:
        if not self._left and self._versions != [tensor._version for tensor in self._tensors]:
            self.look()
        if self._left:
            return super().step(x, episode_starts)
        if torch.is_grad_enabled():
            with torch.no_grad():
                return self.step(x, episode_starts)
        return self.outputs(self.run(x.unsqueeze(0), episode_starts.unsqueeze(0)))[0]

    def look(self) -> None:
        if not self._left and self._changed():
            self._leave()
        self._watch()

    def _watch(self) -> None:
        """From now on, have steps see what PyTorch counts: changes of the tensors that the core has
        now."""
        self._tensors = tensors(self.core)
        self._versions = [tensor._version for tensor in self._tensors]

    def go_to(self, state: StateT) -> None:
        if not self._left:
            self._leave()
        super().go_to(state)

    def _changed(self) -> bool:
        """Whether the core is no longer what it was at the first step."""
        try:
            return chosen(self.core) is not self.implementation or not same(
                self._copies, tensors(self.core)
            )
        except RuntimeError:  # of a path that is not possible any more: the core says so itself
            return True

    def _leave(self) -> None:
        """Go on step by step, without keeping what the gradient needs."""
        self._state, self._left = self.state(), True

    def replay(self, inputs: Tensor, episode_starts: Tensor) -> tuple[Tensor, Tensor]:
        if (changed := self._what_changed(inputs, episode_starts)) is not None:
            log_once(
                f"the steps of a rollout are run again for its gradient, since {changed} changed "
                "after it"
            )
            return super().replay(inputs, episode_starts)
        outputs, _, meta_loss = self.differentiable(inputs)
        return outputs, meta_loss

    def _what_changed(self, inputs: Tensor, episode_starts: Tensor) -> str | None:
        """Why running the steps again would not give the same, or None if it would."""
        if not (
            not self._left
            and self.t == len(inputs) == len(self.x)
            and torch.equal(torch.from_numpy(self.episode_starts), episode_starts)
        ):
            return "the sequence of steps"
        if self._changed():
            return "the core's parameters"
        if not torch.allclose(
            torch.from_numpy(self.x)[..., : self.F], inputs, rtol=1e-4, atol=1e-5
        ):
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
        # PyTorch then sees if one is changed before the backward pass, which still reads the memory
        # of the results.
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

"""What the kernels of every core share: some steps, and the way back through them.

The arrays pad the width D with zeros to ``P``, a multiple of the vector length, and the width M of
a memory to ``K``.
"""

import ctypes
import os
import weakref
from abc import ABC, abstractmethod
from typing import Any, ClassVar, Generic

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from mnm_rl.cores.core import StateT, make_state
from mnm_rl.cores.implementations import tensors
from mnm_rl.kernels.arena import Arena, Array
from mnm_rl.kernels.padding import pad_columns


class Workspace:
    """What all steps of a core share.

    Attributes:
        core: the core.
        arena: memory for arrays.
    """

    def __init__(self, core: Any) -> None:
        self.core, self.arena = core, Arena()
        self._packed: tuple[list[Tensor], Any] | None = None

    def packed(self, steps_class: "type[KernelSteps[Any]]") -> tuple[list[Tensor], Any]:
        """A copy of all tensors of the core, and the parameters in the layout of the kernels; made
        anew when one has changed."""
        now = tensors(self.core)
        if self._packed is None or not same(self._packed[0], now):
            copies = [
                tensor.detach().clone(memory_format=torch.contiguous_format) for tensor in now
            ]
            with torch.no_grad():
                parameters = steps_class.parameters_of(self.core)
                self._packed = copies, steps_class.pack(self.core, parameters)
        return self._packed


class KernelSteps(ABC, Generic[StateT]):
    """Room for some steps of a core, which kernels run and differentiate.

    Args:
        workspace: that of the core.
        state: the state before the first step.
        steps: number of steps.

    Attributes:
        core: the core.
        initial_state: the state before the first step.
        parameters: those of the core, in the order in which ``gradients`` gives their gradients.
        copies: all tensors of the core, as they were when ``weights`` was made.
        weights: the parameters in the layout of the kernels.
        F: width of the inputs; to be set by the subclass.
        x: room for the inputs, ``[T, B, >= F]``; to be set by the subclass.
        episode_starts: ``[T, B]``.
    """

    F: int
    x: Array
    carried: ClassVar[int]
    """Number of tensors of the state that change from step to step; the others follow, and
    stay."""

    def __init__(self, workspace: Workspace, state: StateT, steps: int) -> None:
        self.core: Any = workspace.core
        self.initial_state = state
        self.parameters = self.parameters_of(self.core)
        if any(tensor.dtype != self.parameters[0].dtype for tensor in state):
            raise ValueError(
                f"the state must be in {self.parameters[0].dtype}, as the core is, not "
                f"{state[0].dtype}"
            )
        self.copies, self.weights = workspace.packed(type(self))
        self.D, self.B = self.core.hidden_size, len(state[0])
        self.dtype = state[0].detach().numpy().dtype
        self.episode_starts = np.zeros((steps, self.B), dtype=bool)
        self._arena = workspace.arena
        self._taken: list[tuple[str, Array]] = []
        weakref.finalize(self, self._arena.give, self._taken)

    def room(self, name: str, *shape: int) -> Array:
        """An array for as long as these steps live: zero where kernels never write, elsewhere
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
        """A copy of the state after the last step, of all environments or of those in ``rows``."""
        now = (*self.working_state(), *self.initial_state[self.carried :])
        return make_state(
            self.initial_state, (part.clone() if rows is None else part[rows] for part in now)
        )

    def check(self, inputs: torch.Size, dtype: torch.dtype, starts: torch.Size) -> None:
        """Check the shapes of inputs ``[..., B, F]`` and episode starts ``[..., B]``.

        Raises:
            ValueError: if they, or the type of the inputs, are not those of these steps.
        """
        if inputs[-2:] != (self.B, self.F) or dtype != self.parameters[0].dtype:
            raise ValueError(
                f"inputs must be [T, {self.B}, {self.F}] in {self.parameters[0].dtype}, not "
                f"{list(inputs)} in {dtype}"
            )
        if starts != inputs[:-1]:
            raise ValueError(f"episode_starts must be {list(inputs[:-1])}, not {list(starts)}")

    def run(self, inputs: Tensor, episode_starts: Tensor) -> Tensor:
        """Run all steps, ``[T, B, F]`` and ``[T, B]``; returns their raw outputs, without
        gradient.

        Raises:
            ValueError: if the arguments are of other shapes or types than they should be.
        """
        self.check(inputs.shape, inputs.dtype, episode_starts.shape)
        self.x[..., : self.F] = inputs.detach().numpy()
        self.episode_starts[:] = episode_starts.numpy()
        return self.run_kernels(0, len(inputs))

    def differentiable(self, inputs: Tensor) -> tuple[Tensor, StateT, Tensor]:
        """What the core's ``forward`` returns for all these steps, with gradient."""
        if torch.is_grad_enabled():
            self.core.diagnostics = self.diagnostics()
        first, n = self.initial_state, self.carried
        raw, meta_loss, *last = _Results.apply(self, inputs, *first[:n], *self.parameters)  # type: ignore[no-untyped-call]
        if meta_loss is None:
            meta_loss = inputs.new_zeros(inputs.shape[:2])
        return self.outputs(raw), make_state(first, (*last, *first[n:])), meta_loss


class ReadingSteps(KernelSteps[StateT]):
    """Steps of a core that reads a memory, and whose outputs are ``C [h_t; r_t] + c``: the raw
    outputs are ``[h_t; r_t]``, padded.

    Attributes:
        M: width of what is read.
    """

    def __init__(self, workspace: Workspace, state: StateT, steps: int) -> None:
        super().__init__(workspace, state, steps)
        self.M = self.core.output.in_features - self.D
        with torch.no_grad():
            self._padded_output = self._pad_output()

    def _pad_output(self) -> Tensor:
        """``C``, for padded rows: ``[D, P + K]``."""
        return pad_columns(self.core.output.weight, self.D, self.M)

    def outputs(self, raw: Tensor) -> Tensor:
        C = self._pad_output() if torch.is_grad_enabled() else self._padded_output
        return functional.linear(raw, C, self.core.output.bias)


class _Results(torch.autograd.Function):
    """The results of steps, as a function of inputs, first state and parameters."""

    @staticmethod
    def forward(ctx: Any, steps: KernelSteps[Any], *tensors: Tensor) -> tuple[Tensor | None, ...]:
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
        steps: KernelSteps[Any] = ctx.steps
        return None, *steps.gradients(ctx.needs_input_grad[1], *given)


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

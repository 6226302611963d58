"""How kernels serve a core: for a whole sequence, step by step, and for the gradient of steps that
were taken one by one."""

from typing import Any, ClassVar, cast

import torch
from torch import Tensor

from mnm_rl.cores.core import RecurrentCore, StateT, make_state
from mnm_rl.cores.implementations import (
    Implementation,
    InPlaceStepper,
    Recording,
    chosen,
    log_once,
    tensors,
)
from mnm_rl.kernels.steps import KernelSteps, Workspace, same

ROOM = 32
"""Steps that a stepper without a recording has room for. Before the first of them, it keeps the
state, from which an interrupted step can be undone."""


class KernelImplementation(Implementation[StateT]):
    """Runs a core by kernels.

    Attributes:
        steps_class: steps of the core.
        workspace: what all of them share.
    """

    name = "fused"
    steps_class: "ClassVar[type[KernelSteps[Any]]]"

    def __init__(self, core: RecurrentCore[StateT]) -> None:
        super().__init__(core)
        self.workspace = Workspace(core)
        self._singles: list[_SingleStep] = []  # of which a thread that runs one has taken it out

    @classmethod
    def refusal(cls, core: Any) -> str | None:
        kinds = {(tensor.device.type, tensor.dtype) for tensor in tensors(core)}
        if any(device != "cpu" for device, _ in kinds):
            return "the fused path is for CPUs"
        if not kinds <= {("cpu", torch.float32)} and not kinds <= {("cpu", torch.float64)}:
            return "the fused path is for float32 and float64"
        return None

    def sequence(
        self, inputs: Tensor, state: StateT, episode_starts: Tensor
    ) -> tuple[Tensor, StateT, Tensor]:
        if (
            len(inputs) == 1
            and not torch.is_grad_enabled()
            and not torch.is_inference_mode_enabled()
        ):
            return self._single_step(inputs, state, episode_starts)
        steps = self.steps_class(self.workspace, state, len(inputs))
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

    def stepper(self, state: StateT) -> "KernelStepper[StateT]":
        return KernelStepper(self, self.steps_class(self.workspace, state, ROOM))

    def record(self, state: StateT, steps: int) -> Recording[StateT]:
        return KernelRecording(KernelStepper(self, self.steps_class(self.workspace, state, steps)))


class _SingleStep:
    """One step without gradient, in the same memory each time: to make that anew takes longer than
    the step."""

    def __init__(self, implementation: KernelImplementation[Any], state: Any) -> None:
        self.implementation, self.situation = implementation, implementation.situation
        self.steps = implementation.steps_class(implementation.workspace, state, 1)
        _, self.meta_loss, *rows = self.steps.results()
        self.rows = [(i, cast(Tensor, row)) for i, row in enumerate(rows) if row is not state[i]]
        self.wholes = [row if row._base is None else row._base for _, row in self.rows]

    def serves(self, state: Any) -> bool:
        """Whether it would give what a new one gives."""
        return (
            self.situation == self.implementation.situation
            and all(
                state[i].shape == row.shape and state[i].dtype == row.dtype for i, row in self.rows
            )
            and same(self.steps.copies, tensors(self.implementation.core))
        )

    def __call__(
        self, inputs: Tensor, state: Any, episode_starts: Tensor
    ) -> tuple[Tensor, Any, Tensor]:
        for whole in self.wholes:
            whole.zero_()  # with the padding, where there may be a NaN of other states
        for i, row in self.rows:
            row.copy_(state[i])
        outputs = self.steps.outputs(self.steps.run(inputs, episode_starts)).clone()
        meta_loss = (
            inputs.new_zeros(inputs.shape[:2]) if self.meta_loss is None else self.meta_loss.clone()
        )
        after = list(state)
        for i, row in self.rows:
            after[i] = row.clone(memory_format=torch.contiguous_format)
        return outputs, make_state(state, after), meta_loss


class KernelStepper(InPlaceStepper[StateT]):
    """Takes steps by kernels, until the core changes.

    Args:
        implementation: that of the core.
        steps: room for some steps. After these, the next steps use the same room.
    """

    implementation: KernelImplementation[StateT]

    def __init__(
        self, implementation: KernelImplementation[StateT], steps: KernelSteps[StateT]
    ) -> None:
        super().__init__(implementation, steps.initial_state)
        self.steps = steps
        self._before_first = steps.initial_state  # before the first of the steps in the room
        self._watch()

    def state_now(self, rows: Tensor | None) -> StateT:
        return self.steps.state(rows)

    def state_before(self) -> StateT:
        n = (self.t - 1) % len(self.steps.x)
        if n == 0:
            return self._before_first
        again = type(self.steps)(self.implementation.workspace, self._before_first, n)
        again.weights = self.steps.weights
        again.x[..., : again.F] = self.steps.x[:n, :, : again.F]
        again.episode_starts[:] = self.steps.episode_starts[:n]
        again.run_kernels(0, n)
        return again.state()

    def step(self, x: Tensor, episode_starts: Tensor) -> Tensor:
        if self.in_place and self._versions != [tensor._version for tensor in self._tensors]:
            self.look()
        if not self.in_place:
            return super().step(x, episode_starts)
        if torch.is_grad_enabled():
            with torch.no_grad():
                return self.step(x, episode_starts)
        steps = self.steps
        steps.check(x.shape, x.dtype, episode_starts.shape)
        slot = self.t % len(steps.x)
        if slot == 0 and self.t:
            self._before_first = self.state()
        self.t += 1  # before the state changes: an interrupt may come at any moment
        steps.x[slot, :, : steps.F] = x.detach().numpy()
        steps.episode_starts[slot] = episode_starts.numpy()
        return steps.outputs(steps.run_kernels(slot, slot + 1)[0].clone())

    def look(self) -> None:
        if self.in_place and self.changed():
            self.leave()
        self._watch()

    def changed(self) -> bool:
        """Whether the core is no longer what it was at the first step."""
        core = self.implementation.core
        try:
            return chosen(core) is not self.implementation or not same(
                self.steps.copies, tensors(core)
            )
        except RuntimeError:  # of a path that is not possible any more: the core says so itself
            return True

    def _watch(self) -> None:
        """From now on, have steps see what PyTorch counts: changes of the tensors that the core has
        now."""
        self._tensors = tensors(self.implementation.core)
        self._versions = [tensor._version for tensor in self._tensors]


class KernelRecording(Recording[StateT]):
    """Steps whose kernels have left what the backward pass needs."""

    stepper: KernelStepper[StateT]

    def replay(self, inputs: Tensor, episode_starts: Tensor) -> tuple[Tensor, Tensor]:
        if (changed := self._what_changed(inputs, episode_starts)) is not None:
            log_once(
                f"the steps of a rollout are run again for its gradient, since {changed} changed "
                "after it"
            )
            return super().replay(inputs, episode_starts)
        outputs, _, meta_loss = self.stepper.steps.differentiable(inputs)
        return outputs, meta_loss

    def _what_changed(self, inputs: Tensor, episode_starts: Tensor) -> str | None:
        """Why running the steps again would not give the same, or None if it would."""
        stepper, steps = self.stepper, self.stepper.steps
        if not (
            stepper.in_place
            and stepper.t == len(inputs) == len(steps.x)
            and torch.equal(torch.from_numpy(steps.episode_starts), episode_starts)
        ):
            return "the sequence of steps"
        if stepper.changed():
            return "the core's parameters"
        if not torch.allclose(
            torch.from_numpy(steps.x)[..., : steps.F], inputs, rtol=1e-4, atol=1e-5
        ):
            return "the core's inputs"
        return None

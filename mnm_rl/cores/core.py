"""The interface of all recurrent cores.

A core has equations for one step, and a reset of its state at episode starts.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from itertools import pairwise
from typing import Any, Generic, TypeVar, cast

import torch
from torch import Tensor, nn

from mnm_rl.cores.implementations import (
    Implementation,
    PathName,
    Recording,
    Stepper,
    chosen,
    has_kernels,
    recorded,
    why_not,
)

StateT = TypeVar("StateT", bound=tuple[Tensor, ...])


class RecurrentCore(nn.Module, ABC, Generic[StateT]):
    """A recurrent network with the same call for one rollout step (T = 1) and a training sequence.

    Your own core implements :meth:`initial_state` and :meth:`step` in plain PyTorch. The first
    argument of its constructor is ``input_size``.

    Args:
        hidden_size: width of the core and of its outputs.

    Attributes:
        output_size: width of the outputs.
        diagnostics: scalars of the last forward pass for the log, detached, by their names in the
            log.
        path: the implementation that runs: ``"fused"`` (Numba kernels), ``"reversible"`` (PyTorch
            on any device, without storing fast weights), ``"plain"`` (the equations as written) or
            ``"auto"`` (default). The latter selects the first of these that supports this core, see
            :meth:`why_not`. The results of all implementations are equal up to rounding.
    """

    output_size: int
    path: PathName = "auto"

    def __init__(self, hidden_size: int) -> None:
        super().__init__()
        if hidden_size < 1:
            raise ValueError(f"hidden_size must be at least 1, got {hidden_size}")
        self.output_size = self.hidden_size = hidden_size
        self.diagnostics: dict[str, Tensor] = {}
        # those in use, with their caches
        self._implementations: dict[str, Implementation[StateT]] = {}

    @abstractmethod
    def initial_state(self, batch_size: int) -> StateT:
        """Return the state at the start of an episode: a NamedTuple of tensors, batch first."""

    @abstractmethod
    def step(self, x: Tensor, state: StateT) -> tuple[Tensor, StateT, Tensor]:
        """Take one step from inputs ``[B, F]``.

        Returns:
            outputs ``[B, output_size]``
            the new state
            the meta-loss ``[B]``
        """

    def forward(
        self, inputs: Tensor, state: StateT, episode_starts: Tensor
    ) -> tuple[Tensor, StateT, Tensor]:
        """Run T steps with the implementation that :attr:`path` selects.

        Args:
            inputs: ``[T, B, F]``.
            state: the state before the first step, batch first.
            episode_starts: ``[T, B]`` bool. True replaces the state of that environment by the
                initial state before that step, and no gradient crosses.

        Returns:
            outputs ``[T, B, output_size]``
            the state after the last step
            the meta-loss ``[T, B]``, zeros for cores without a meta-loss

        Raises:
            RuntimeError: if ``path`` names an implementation that does not support this core.
            ValueError: if the sequence has no steps.
        """
        if len(inputs) == 0:
            raise ValueError("inputs must have at least one step, [T, B, F] with T > 0")
        if not recorded():
            return chosen(self).sequence(inputs, state, episode_starts)
        if (
            torch.compiler.is_compiling()
            and not torch.compiler.is_exporting()
            and has_kernels(self)
        ):
            return cast(
                tuple[Tensor, StateT, Tensor], _outside(self, inputs, state, episode_starts)
            )
        return self.scan(inputs, state, episode_starts)

    def scan(
        self, inputs: Tensor, state: StateT, episode_starts: Tensor
    ) -> tuple[Tensor, StateT, Tensor]:
        """Compute the result of :meth:`forward` in plain PyTorch.

        This is the reference for every implementation.
        """
        outputs, meta_loss = [], []
        for t0, t1, reset in segments(episode_starts):
            if reset:
                state = self.reset(state, episode_starts[t0])
            for x in inputs[t0:t1].unbind(0):
                output, state, loss = self.step(x, state)
                outputs.append(output)
                meta_loss.append(loss)
        return torch.stack(outputs), state, torch.stack(meta_loss)

    def stepper(self, state: StateT) -> Stepper[StateT]:
        """Continue from a state step by step, without gradient.

        Args:
            state: the state before the first step, batch first.
        """
        return chosen(self).stepper(state)

    def record(self, state: StateT, steps: int) -> Recording[StateT]:
        """Continue from a state step by step, and keep what the gradient of all steps needs.

        Args:
            state: the state before the first step, batch first.
            steps: number of steps to come.
        """
        return chosen(self).record(state, steps)

    def why_not(self, path: str) -> str | None:
        """Explain why an implementation (``"fused"``, ``"reversible"``) does not support this core.

        Returns:
            the reason in words, or None if the implementation supports the core.
        """
        return why_not(self, path)

    def why_plain(self) -> str | None:
        """Explain why the fused implementation does not run.

        Returns:
            the reason in words, or None if the fused implementation runs.
        """
        if chosen(self).name == "fused":
            return None
        if recorded():
            return "what runs is being recorded"
        return "asked for" if self.path != "auto" else why_not(self, "fused")

    def extra_repr(self) -> str:
        try:
            path = chosen(self).name
        except RuntimeError as error:
            return str(error)
        return f"path={path}" if path == "fused" else f"path={path}: {self.why_plain()}"

    def __call__(
        self, inputs: Tensor, state: StateT, episode_starts: Tensor
    ) -> tuple[Tensor, StateT, Tensor]:
        return cast(tuple[Tensor, StateT, Tensor], super().__call__(inputs, state, episode_starts))

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_implementations": {}}  # a copy has its own

    def reset(self, state: StateT, starts: Tensor) -> StateT:
        """Replace the state by the initial state where ``starts [B]`` is true.

        The states of all other environments stay bit-identical.
        """
        initial = self.initial_state(starts.shape[0])
        return make_state(
            state,
            (
                torch.where(starts.view(-1, *[1] * (new.ndim - 1)), new, old)
                for new, old in zip(initial, state, strict=True)
            ),
        )


@torch.compiler.disable  # type: ignore[untyped-decorator]
def _outside(core: Any, inputs: Tensor, state: Any, episode_starts: Tensor) -> Any:
    """Run a core with its kernels between two compiled parts.

    The kernels are faster than the compiled equations.
    """
    return chosen(core).sequence(inputs, state, episode_starts)


def some_start(episode_starts: Tensor) -> list[bool]:
    """Whether an episode starts, for each step of ``[T, B]``.

    While the steps are being recorded, the answer is true for every step.
    """
    if recorded():
        return [True] * len(episode_starts)
    return episode_starts.any(dim=1).tolist()


def segments(episode_starts: Tensor) -> Iterator[tuple[int, int, bool]]:
    """Cut a sequence ``[T, B]`` at its episode starts.

    Yields:
        ``(t0, t1, reset)``. Within a segment, only step ``t0`` can hold an episode start.
    """
    any_start = some_start(episode_starts)
    cuts = [0, *(t for t in range(1, len(any_start)) if any_start[t]), len(any_start)]
    for t0, t1 in pairwise(cuts):
        yield t0, t1, any_start[t0]


def make_state(like: StateT, tensors: Any) -> StateT:
    """Build a state of the NamedTuple type of ``like`` from an iterable of tensors."""
    return type(like)(*tensors)

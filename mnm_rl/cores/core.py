"""The interface that every recurrent core has: its equations, step by step, and the reset of its
state at episode starts."""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from itertools import pairwise
from typing import Any, Generic, TypeVar, cast

import torch
from torch import Tensor, nn

from mnm_rl.cores.implementations import (
    Implementation,
    PathName,
    Trace,
    chosen,
    has_kernels,
    recorded,
    why_not,
)

StateT = TypeVar("StateT", bound=tuple[Tensor, ...])


class RecurrentCore(nn.Module, ABC, Generic[StateT]):
    """A recurrent network that is called the same way for one rollout step (T = 1) and for a
    training sequence.

    A core of your own has :meth:`initial_state` and :meth:`step`, in plain PyTorch; its constructor
    takes ``input_size`` first.

    Args:
        hidden_size: width of the core and of its outputs.

    Attributes:
        output_size: width of the outputs.
        diagnostics: scalars of the last forward pass that are worth logging, detached, by the name
            that they are logged under.
        path: which implementation runs: ``"fused"`` (Numba kernels), ``"reversible"`` (PyTorch on
            any device, without keeping fast weights), ``"plain"`` (the equations as they stand), or
            ``"auto"`` (default): the first of these that serves this core, see :meth:`why_not`. All
            give the same numbers, but for rounding.
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
        """The state at the start of an episode: a NamedTuple of tensors, batch first."""

    @abstractmethod
    def step(self, x: Tensor, state: StateT) -> tuple[Tensor, StateT, Tensor]:
        """One step: inputs ``[B, F]`` to outputs ``[B, output_size]``, the new state, and the
        meta-loss ``[B]``."""

    def forward(
        self, inputs: Tensor, state: StateT, episode_starts: Tensor
    ) -> tuple[Tensor, StateT, Tensor]:
        """Run T steps, by the implementation that serves this core.

        Args:
            inputs: ``[T, B, F]``.
            state: the state before the first step, batch first.
            episode_starts: ``[T, B]`` bool; where true, that environment's state is replaced by the
                initial state before that step, and no gradient crosses.

        Returns:
            outputs ``[T, B, output_size]``, the state after the last step, and the meta-loss ``[T,
            B]`` (zeros for cores that have none).

        Raises:
            RuntimeError: if ``path`` names an implementation that does not serve this core.
            ValueError: if there is no step.
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
        """What :meth:`forward` gives, in plain PyTorch: the reference of every implementation."""
        outputs, meta_loss = [], []
        for t0, t1, reset in segments(episode_starts):
            if reset:
                state = self.reset(state, episode_starts[t0])
            for x in inputs[t0:t1].unbind(0):
                output, state, loss = self.step(x, state)
                outputs.append(output)
                meta_loss.append(loss)
        return torch.stack(outputs), state, torch.stack(meta_loss)

    def trace(self, state: StateT, steps: int) -> Trace[StateT]:
        """Go on from a state step by step without gradient, keeping what the gradient of these
        steps will need.

        Args:
            state: the state before the first step, batch first.
            steps: how many steps there will be.
        """
        return chosen(self).trace(state, steps)

    def why_not(self, path: str) -> str | None:
        """Why an implementation (``"fused"``, ``"reversible"``) does not serve this core, in words,
        or None if it does."""
        return why_not(self, path)

    def why_plain(self) -> str | None:
        """Why the fused implementation does not run, in words, or None if it runs."""
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
        """Replace the state by the initial one where ``starts [B]`` is true; the other environments
        stay bit-identical."""
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
    """Run a core by its kernels between two compiled parts: they are faster than its compiled
    equations."""
    return chosen(core).sequence(inputs, state, episode_starts)


def some_start(episode_starts: Tensor) -> list[bool]:
    """Whether an episode starts, for each step of ``[T, B]``: any may, where the steps are
    recorded."""
    if recorded():
        return [True] * len(episode_starts)
    return episode_starts.any(dim=1).tolist()


def segments(episode_starts: Tensor) -> Iterator[tuple[int, int, bool]]:
    """Cut a sequence ``[T, B]`` at its episode starts: yields ``(t0, t1, reset)``, where only
    ``t0`` can hold a start."""
    any_start = some_start(episode_starts)
    cuts = [0, *(t for t in range(1, len(any_start)) if any_start[t]), len(any_start)]
    for t0, t1 in pairwise(cuts):
        yield t0, t1, any_start[t0]


def make_state(like: StateT, tensors: Any) -> StateT:
    """A state of the same NamedTuple type as ``like``, from an iterable of tensors."""
    return type(like)(*tensors)

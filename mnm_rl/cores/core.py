"""The interface that every recurrent core has, and the reset of its state at episode starts."""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from functools import cache
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Generic, Literal, TypeVar, cast

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from mnm_rl.cores.fused import FusedRecording

StateT = TypeVar("StateT", bound=tuple[Tensor, ...])
Path = Literal["auto", "fused", "plain"]


class RecurrentCore(nn.Module, ABC, Generic[StateT]):
    """A recurrent network that is called the same way for one rollout step (T = 1) and for a training sequence.

    Args:
        hidden_size: width of the core and of its outputs.

    Attributes:
        output_size: width of the outputs.
        diagnostics: scalars of the last forward pass that are worth logging, detached (such as the mean write strength).
        path: ``"fused"`` for the Numba kernels, ``"plain"`` for plain PyTorch, or ``"auto"`` (default): fused where it can be, see
            :meth:`why_plain`. Both give the same numbers, but for rounding.
    """

    output_size: int
    path: Path = "auto"

    def __init__(self, hidden_size: int) -> None:
        super().__init__()
        if hidden_size < 1:
            raise ValueError(f"hidden_size must be at least 1, got {hidden_size}")
        self.output_size = self.hidden_size = hidden_size
        self.diagnostics: dict[str, Tensor] = {}

    @abstractmethod
    def initial_state(self, batch_size: int) -> StateT:
        """The state at the start of an episode: a NamedTuple of tensors, batch first."""

    @abstractmethod
    def step(self, x: Tensor, state: StateT) -> tuple[Tensor, StateT, Tensor]:
        """One step: inputs ``[B, F]`` to outputs ``[B, output_size]``, the new state, and the meta-loss ``[B]``."""

    def forward(self, inputs: Tensor, state: StateT, episode_starts: Tensor) -> tuple[Tensor, StateT, Tensor]:
        """Run T steps.

        Args:
            inputs: ``[T, B, F]``.
            state: the state before the first step, batch first.
            episode_starts: ``[T, B]`` bool; where true, that environment's state is replaced by the initial state
                before that step, and no gradient crosses.

        Returns:
            outputs ``[T, B, output_size]``, the state after the last step, and the meta-loss ``[T, B]`` (zeros for cores
            that have none).
        """
        if self._fused():
            return self._fused_recording(state, len(inputs)).sequence(inputs, episode_starts)
        outputs, meta_loss = [], []
        for t0, t1, reset in segments(episode_starts):
            if reset:
                state = self.reset(state, episode_starts[t0])
            for x in inputs[t0:t1].unbind(0):
                output, state, loss = self.step(x, state)
                outputs.append(output)
                meta_loss.append(loss)
        return torch.stack(outputs), state, torch.stack(meta_loss)

    def record(self, state: StateT, steps: int, reuse: "Recording[StateT] | None" = None) -> "Recording[StateT]":
        """Go on from a state step by step without gradient, keeping what the gradient of these steps will need.

        Args:
            state: the state before the first step, batch first.
            steps: how many steps there will be.
            reuse: a recording that is no longer needed, whose memory may be taken.
        """
        return self._fused_recording(state, steps, reuse) if self._fused() else Recording(self, state)

    def _fused_recording(self, state: StateT, steps: int, reuse: "Recording[StateT] | None" = None) -> "FusedRecording[StateT]":
        """What runs the fused path; a core that has one overrides this, see :mod:`mnm_rl.cores.fused`."""
        raise NotImplementedError

    def why_plain(self) -> str | None:
        """Why this core runs in plain PyTorch, in words, or None if the fused path runs."""
        if type(self)._fused_recording is RecurrentCore._fused_recording:
            return "there is no fused path for it"
        if self.path == "plain":
            return "asked for"
        tensors = [*self.parameters(), *self.buffers()]
        if any(tensor.device.type != "cpu" for tensor in tensors):
            return "the fused path is for CPUs"
        if any(tensor.dtype != tensors[0].dtype for tensor in tensors) or tensors[0].dtype not in (torch.float32, torch.float64):
            return "the fused path is for float32 and float64"
        return _numba_problem()

    def _fused(self) -> bool:
        reason = self.why_plain()
        if reason is not None and self.path == "fused":
            raise RuntimeError(f"path='fused' is not possible: {reason}")
        return reason is None

    def extra_repr(self) -> str:
        reason = self.why_plain()
        return "path=fused" if reason is None else f"path=plain: {reason}"

    def __call__(self, inputs: Tensor, state: StateT, episode_starts: Tensor) -> tuple[Tensor, StateT, Tensor]:
        return cast(tuple[Tensor, StateT, Tensor], super().__call__(inputs, state, episode_starts))

    def reset(self, state: StateT, starts: Tensor) -> StateT:
        """Replace the state by the initial one where ``starts [B]`` is true; the other environments stay bit-identical."""
        initial = self.initial_state(starts.shape[0])
        return make_state(
            state, (torch.where(starts.view(-1, *[1] * (new.ndim - 1)), new, old) for new, old in zip(initial, state, strict=True))
        )


class Recording(Generic[StateT]):
    """Steps of a core that were run one by one, from which a gradient can be had. This one runs them again for it.

    Attributes:
        initial_state: the state before the first step.
        state: the state after the last step. Its tensors may be overwritten by the next step.
    """

    def __init__(self, core: RecurrentCore[StateT], initial_state: StateT) -> None:
        self.core, self.initial_state = core, initial_state
        self._state = initial_state

    @property
    def state(self) -> StateT:
        return self._state

    @torch.no_grad()
    def step(self, x: Tensor, episode_starts: Tensor) -> Tensor:
        """One step: inputs ``[B, F]`` and episode starts ``[B]`` to outputs ``[B, output_size]``, without gradient."""
        outputs, self._state, _ = self.core(x.unsqueeze(0), self._state, episode_starts.unsqueeze(0))
        return outputs[0]

    def replay(self, inputs: Tensor, episode_starts: Tensor) -> tuple[Tensor, Tensor]:
        """All steps again, with gradient.

        Args:
            inputs: those of the steps, ``[T, B, F]``, with the gradient they may have.
            episode_starts: those of the steps, ``[T, B]``.

        Returns:
            outputs ``[T, B, output_size]`` and meta-loss ``[T, B]``.
        """
        outputs, _, meta_loss = self.core(inputs, self.initial_state, episode_starts)
        return outputs, meta_loss


@cache
def _numba_problem() -> str | None:
    """Why the kernels cannot be had on this machine."""
    try:
        import mnm_rl.simd  # noqa: F401  (Numba takes a second to import)
    except (ImportError, AttributeError, RuntimeError) as error:
        return f"Numba cannot be used here ({error})"
    return None


def segments(episode_starts: Tensor) -> Iterator[tuple[int, int, bool]]:
    """Cut a sequence ``[T, B]`` at its episode starts: yields ``(t0, t1, reset)``, where only ``t0`` can hold a start."""
    any_start: list[bool] = episode_starts.any(dim=1).tolist()
    cuts = [0, *(t for t in range(1, len(any_start)) if any_start[t]), len(any_start)]
    for t0, t1 in pairwise(cuts):
        yield t0, t1, any_start[t0]


def make_state(like: StateT, tensors: Any) -> StateT:
    """A state of the same NamedTuple type as ``like``, from an iterable of tensors."""
    return type(like)(*tensors)

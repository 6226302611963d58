"""How the implementations of a core are found: registered by the class of the core, looked up when it runs.

The equations of a core are its ``step`` and ``scan``. What computes the same in another way is an :class:`Implementation`, which
says itself whether it serves a core as it is. A core without one, a subclass included, runs its own equations.
"""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, ClassVar, Generic, Literal, TypeVar

import torch
from torch import Tensor, nn

StateT = TypeVar("StateT", bound=tuple[Tensor, ...])
PathName = Literal["auto", "fused", "reversible", "plain"]


class Implementation(ABC, Generic[StateT]):
    """What runs a core.

    Attributes:
        name: what :attr:`RecurrentCore.path` calls it.
        core: the core.
    """

    name: ClassVar[str]

    def __init__(self, core: Any) -> None:
        self.core = core

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.core,)  # a copy has caches of its own

    @classmethod
    def refusal(cls, core: Any) -> str | None:
        """Why it does not serve this core, in words, or None if it does."""
        return None

    @abstractmethod
    def sequence(self, inputs: Tensor, state: StateT, episode_starts: Tensor) -> tuple[Tensor, StateT, Tensor]:
        """What the core's ``forward`` gives."""

    def trace(self, state: StateT, steps: int) -> Trace[StateT]:
        """What the core's ``trace`` gives."""
        return Trace(self, state)


class Trace(Generic[StateT]):
    """Steps of a core that were run one by one without gradient, from which their gradient can be had later.

    This one keeps nothing but where it began, and runs the steps again; faster ones keep what the gradient needs.

    Attributes:
        initial_state: the state before the first step.
    """

    def __init__(self, implementation: Implementation[StateT], initial_state: StateT) -> None:
        self.implementation = implementation
        self.initial_state = initial_state
        self._state = initial_state

    def __reduce__(self) -> tuple[Any, ...]:
        return _resumed, (self.implementation, self.initial_state, self.state())

    def state(self, rows: Tensor | None = None) -> StateT:
        """The state after the last step, of all environments or of those in ``rows``; a value, which later steps do not change."""
        return self._state if rows is None else type(self._state)(*(tensor[rows] for tensor in self._state))

    @torch.no_grad()
    def step(self, x: Tensor, episode_starts: Tensor) -> Tensor:
        """One step: inputs ``[B, F]`` and episode starts ``[B]`` to outputs ``[B, output_size]``."""
        outputs, self._state, _ = self.implementation.sequence(x.unsqueeze(0), self._state, episode_starts.unsqueeze(0))
        return outputs[0]

    def replay(self, inputs: Tensor, episode_starts: Tensor) -> tuple[Tensor, Tensor]:
        """All steps once more, with gradient; those that were kept are not computed again.

        Args:
            inputs: those of the steps, ``[T, B, F]``, with the gradient they may have.
            episode_starts: those of the steps, ``[T, B]``.

        Returns:
            outputs ``[T, B, output_size]`` and meta-loss ``[T, B]``.
        """
        outputs, _, meta_loss = self.implementation.sequence(inputs, self.initial_state, episode_starts)
        return outputs, meta_loss


def _resumed(implementation: Implementation[StateT], initial_state: StateT, state: StateT) -> Trace[StateT]:
    """A copy of a trace of any kind: it goes on from the same state, and runs all steps again for their gradient."""
    trace = Trace(implementation, initial_state)
    trace._state = state
    return trace


class Plain(Implementation[StateT]):
    """The core's own equations."""

    name = "plain"

    def sequence(self, inputs: Tensor, state: StateT, episode_starts: Tensor) -> tuple[Tensor, StateT, Tensor]:
        outputs, state, meta_loss = self.core.scan(inputs, state, episode_starts)
        return outputs, state, meta_loss


_registered: dict[type[Any], dict[str, Callable[[], type[Implementation[Any]]]]] = {}


def register(core_class: type[nn.Module], name: str, load: Callable[[], type[Implementation[Any]]]) -> None:
    """Make an implementation known to all cores of exactly this class; those registered first are preferred.

    Args:
        core_class: the class.
        name: the implementation's name.
        load: gives it; called when it is first needed. If it raises ImportError, its message is the reason why it is not to be had.
    """
    _registered.setdefault(core_class, {})[name] = load


def why_not(core: Any, name: str) -> str | None:
    """Why the implementation of this name does not serve a core, or None if it does."""
    load = _registered.get(type(core), {}).get(name)
    if load is None:
        return f"there is no {name} path for {type(core).__name__}"
    try:
        return load().refusal(core)
    except ImportError as error:
        return str(error)


def recorded() -> bool:
    """Whether PyTorch records what runs: ``torch.jit.trace``, ``torch.onnx.export``, ``torch.export``,
    ``torch.compile``, ``make_fx``, a transform of ``torch.func``, or a mode that sees every operation.

    The kernels are no operations of PyTorch, and neither is a look at a number in a tensor: in the record,
    both would be constants.
    """
    return (
        torch.compiler.is_compiling()
        or torch._C._get_tracing_state() is not None
        or torch._C._len_torch_dispatch_stack() > 0
        or torch._C._functorch.peek_interpreter_stack() is not None
    )


def has_kernels(core: Any) -> bool:
    """Whether anything but the equations of a core may run it."""
    return type(core) in _registered and core.path != "plain"


def chosen(core: Any) -> Implementation[Any]:
    """The implementation that a core's ``path`` asks for, which keeps its caches from call to call; while
    PyTorch records what runs, the equations.

    Raises:
        RuntimeError: if there is none.
    """
    running: dict[str, Implementation[Any]] = core._implementations
    if recorded():
        return running.setdefault("plain", Plain(core))
    names = [*_registered.get(type(core), {})] if core.path == "auto" else [core.path] if core.path != "plain" else []
    reason = None
    for name in names:
        if (reason := why_not(core, name)) is None:
            if name not in running:
                running[name] = _registered[type(core)][name]()(core)
            return running[name]
    if names and core.path != "auto":
        raise RuntimeError(f"path={core.path!r} is not possible: {reason}")
    return running.setdefault("plain", Plain(core))


_logged: set[str] = set()


def log_once(message: str, level: Literal["INFO", "WARNING"] = "INFO") -> None:
    """Log a line, but not again in this process."""
    if message not in _logged:
        _logged.add(message)
        logging.getLogger("mnm_rl").log(logging.getLevelNamesMapping()[level], message)

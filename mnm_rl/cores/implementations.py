"""How the implementations of a core are found: registered by the class of the core, looked up when
it runs.

The equations of a core are its ``step`` and ``scan``. What computes the same in another way is an
:class:`Implementation`, which says itself whether it serves a core as it is. A core without one, a
subclass included, runs its own equations.
"""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Callable
from functools import cache
from typing import Any, ClassVar, Generic, Literal, TypeVar, cast

import torch
from torch import Tensor, nn
from torch.nn.modules import module as torch_module

StateT = TypeVar("StateT", bound=tuple[Tensor, ...])
PathName = Literal["auto", "fused", "reversible", "plain"]


class Implementation(ABC, Generic[StateT]):
    """What runs a core.

    Attributes:
        name: what :attr:`RecurrentCore.path` calls it.
        calls_modules: whether it runs the modules of the core themselves, so that they may be of
            any class.
        core: the core.
        situation: that of the core (see :func:`situation`) when it was last found to serve.
    """

    name: ClassVar[str]
    calls_modules: ClassVar[bool] = False
    situation: list[Any] | None = None

    def __init__(self, core: Any) -> None:
        self.core = core

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.core,)  # a copy has caches of its own

    @classmethod
    def refusal(cls, core: Any) -> str | None:
        """Why it does not serve this core, in words, or None if it does."""
        return None

    @abstractmethod
    def sequence(
        self, inputs: Tensor, state: StateT, episode_starts: Tensor
    ) -> tuple[Tensor, StateT, Tensor]:
        """What the core's ``forward`` gives."""

    def trace(self, state: StateT, steps: int) -> Trace[StateT]:
        """What the core's ``trace`` gives."""
        return Trace(self, state)


class Trace(Generic[StateT]):
    """Steps of a core that were run one by one without gradient, from which their gradient can be
    had later.

    This one keeps nothing but where it began, and runs the steps again; faster ones keep what the
    gradient needs.

    Attributes:
        initial_state: the state before the first step.
        t: steps so far.
    """

    def __init__(self, implementation: Implementation[StateT], initial_state: StateT) -> None:
        self.implementation = implementation
        self.initial_state = initial_state
        self.t = 0
        self._state = self._before = initial_state

    def __reduce__(self) -> tuple[Any, ...]:
        return _resumed, (
            self.implementation,
            self.initial_state,
            self.state_after(max(self.t - 1, 0)),
            self.state(),
            self.t,
        )

    def state(self, rows: Tensor | None = None) -> StateT:
        """The state after the last step, of all environments or of those in ``rows``; a value,
        which later steps do not change."""
        return (
            self._state
            if rows is None
            else type(self._state)(*(tensor[rows] for tensor in self._state))
        )

    def state_after(self, steps: int) -> StateT:
        """The state after so many steps: all of them, or all but the last, which may have been
        interrupted."""
        return self._before if steps == self.t - 1 else self.state()

    @torch.no_grad()
    def step(self, x: Tensor, episode_starts: Tensor) -> Tensor:
        """One step: inputs ``[B, F]`` and episode starts ``[B]`` to outputs ``[B,
        output_size]``."""
        outputs, state, _ = self.implementation.core(
            x.unsqueeze(0), self._state, episode_starts.unsqueeze(0)
        )
        self.go_to(state)
        return cast(Tensor, outputs[0])

    def look(self) -> None:
        """Look for changes of the core to the last bit, after code of others has run; a step sees
        those that PyTorch counts."""

    def go_to(self, state: StateT) -> None:
        """Take a step that was made elsewhere, and led to this state."""
        self._before, self._state, self.t = self._state, state, self.t + 1

    def replay(self, inputs: Tensor, episode_starts: Tensor) -> tuple[Tensor, Tensor]:
        """All steps once more, with gradient; those that were kept are not computed again.

        Args:
            inputs: those of the steps, ``[T, B, F]``, with the gradient they may have.
            episode_starts: those of the steps, ``[T, B]``.

        Returns:
            outputs ``[T, B, output_size]`` and meta-loss ``[T, B]``.
        """
        outputs, _, meta_loss = self.implementation.core(inputs, self.initial_state, episode_starts)
        return outputs, meta_loss


def _resumed(
    implementation: Implementation[StateT],
    initial_state: StateT,
    before: StateT,
    state: StateT,
    t: int,
) -> Trace[StateT]:
    """A copy of a trace of any kind: it goes on from the same state, and runs all steps again for
    their gradient."""
    trace = Trace(implementation, initial_state)
    trace._before, trace._state, trace.t = before, state, t
    return trace


class Plain(Implementation[StateT]):
    """The core's own equations."""

    name = "plain"

    def sequence(
        self, inputs: Tensor, state: StateT, episode_starts: Tensor
    ) -> tuple[Tensor, StateT, Tensor]:
        outputs, state, meta_loss = self.core.scan(inputs, state, episode_starts)
        return outputs, state, meta_loss


_registered: dict[type[Any], dict[str, Callable[[], type[Implementation[Any]]]]] = {}


_EQUATIONS = "__call__", "forward", "initial_state", "step", "scan", "reset"
_equations: dict[type[Any], dict[str, Any]] = {}
"""These methods of the classes that have implementations, as they were when these were made
known."""


def register(
    core_class: type[nn.Module], name: str, load: Callable[[], type[Implementation[Any]]]
) -> None:
    """Make an implementation known to all cores of exactly this class; those registered first are
    preferred.

    Args:
        core_class: the class.
        name: the implementation's name.
        load: gives it; called when it is first needed. If it raises ImportError, its message is the
            reason why it is not to be had.
    """
    _registered.setdefault(core_class, {})[name] = load
    _equations.setdefault(core_class, {key: getattr(core_class, key) for key in _EQUATIONS})


def why_not(core: Any, name: str) -> str | None:
    """Why the implementation of this name does not serve a core, or None if it does."""
    load = _registered.get(type(core), {}).get(name)
    if load is None:
        return f"there is no {name} path for {type(core).__name__}"
    try:
        implementation = load()
        return changed(core, implementation.calls_modules) or implementation.refusal(core)
    except ImportError as error:
        return str(error)


def parts(module: nn.Module) -> list[nn.Module]:
    """A module and all modules in it: what ``modules()`` gives, in a fraction of its time."""
    found = [module]
    for part in found:  # which grows
        found += [child for child in part._modules.values() if child is not None]
    return found


def tensors(module: nn.Module) -> list[Tensor]:
    """All parameters and buffers."""
    return [
        tensor
        for part in parts(module)
        for table in (part._parameters, part._buffers)
        for tensor in table.values()
        if tensor is not None
    ]


@cache
def _methods(kind: type[nn.Module]) -> frozenset[str]:
    """The names of the methods that a class adds to those of PyTorch's modules, and of ``forward``
    and ``__call__``."""
    return frozenset(
        name for name in dir(kind) if callable(getattr(kind, name)) and name not in _OF_EVERY_MODULE
    )


_OF_EVERY_MODULE = {*vars(nn.Module), *vars(object)} - {"forward", "__call__"}


def hooked(module: nn.Module) -> bool:
    """Whether a call of this module runs more than its ``forward``, or another one than that of its
    class."""
    return bool(_hooked(module) or torch_module._has_any_global_hook())  # type: ignore[no-untyped-call]


def _hooked(module: nn.Module) -> Any:
    own = vars(module)
    return (
        own["_forward_hooks"]
        or own["_forward_pre_hooks"]
        or own["_backward_hooks"]
        or own["_backward_pre_hooks"]
        or not _methods(type(module)).isdisjoint(own)  # type: ignore[arg-type]
    )


_KNOWN = {nn.Linear, nn.LSTMCell, nn.GRUCell}


def changed(core: nn.Module, other_modules: bool = False) -> str | None:
    """What of a core's equations has been replaced from outside, in words, or None: other
    implementations would not see it, but perhaps ``other_modules`` than the library's."""
    if any(
        getattr(type(core), name) is not method
        for name, method in _equations.get(type(core), {}).items()
    ):
        return f"a method of {type(core).__name__} was replaced"
    if torch_module._has_any_global_hook():  # type: ignore[no-untyped-call]
        return "a hook hangs on all modules"
    for part in parts(core):
        kind = type(part)
        if _hooked(part):
            return f"a hook or a method of its {kind.__name__} was set from outside"
        if not other_modules and kind not in _KNOWN and not kind.__module__.startswith("mnm_rl."):
            return f"its {kind.__name__} is none of the library's"
    return None


def situation(core: nn.Module) -> list[Any]:
    """All that implementations look at beside the numbers in the tensors: where two are equal, they
    serve or refuse alike, and have read the same settings. It takes a fraction of the time of
    asking them."""
    found: list[Any] = [torch_module._has_any_global_hook()]  # type: ignore[no-untyped-call]
    found += [getattr(type(core), name) for name in _equations.get(type(core), ())]
    for part in parts(core):
        own, kind = vars(part), type(part)
        found += kind, bool(_hooked(part))
        if not kind.__module__.startswith("torch."):
            found += [value for value in own.values() if type(value) in (int, float, bool, str)]
        found += [
            (tensor.dtype, tensor.device)
            for table in (own["_parameters"], own["_buffers"])
            for tensor in table.values()
            if tensor is not None
        ]
    return found


def _loads(core_class: type[Any], name: str) -> bool:
    try:
        _registered[core_class][name]()
    except ImportError:
        return False
    return True


def recorded() -> bool:
    """Whether PyTorch records what runs: ``torch.jit.trace``, ``torch.onnx.export``,
    ``torch.export``, ``torch.compile``, ``make_fx``, a transform of ``torch.func``, or a mode that
    sees every operation.

    The kernels are no operations of PyTorch, and neither is a look at a number in a tensor: in the
    record, both would be constants.
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
    """The implementation that a core's ``path`` asks for, which keeps its caches from call to call;
    while PyTorch records what runs, the equations.

    Raises:
        RuntimeError: if there is none.
    """
    running: dict[str, Implementation[Any]] = core._implementations
    if recorded():
        return running.setdefault("plain", Plain(core))
    now = situation(core)
    names = (
        [*_registered.get(type(core), {})]
        if core.path == "auto"
        else [core.path]
        if core.path != "plain"
        else []
    )
    reason = None
    for name in names:
        if name in running and running[name].situation == now and _loads(type(core), name):
            return running[name]
        if (reason := why_not(core, name)) is None:
            if name not in running:
                running[name] = _registered[type(core)][name]()(core)
            running[name].situation = now
            return running[name]
    if names and core.path != "auto":
        raise RuntimeError(f"path={core.path!r} is not possible: {reason}")
    return running.setdefault("plain", Plain(core))


_logged: set[str] = set()


def log_once(message: str, level: int = logging.INFO) -> None:
    """Log a line, but not again in this process."""
    if message not in _logged:
        _logged.add(message)
        logging.getLogger("mnm_rl").log(level, message)

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
from typing import Any, ClassVar, Generic, TypeVar, cast

import torch
from torch import Tensor, nn
from torch.nn.modules import module as torch_module

StateT = TypeVar("StateT", bound=tuple[Tensor, ...])
PathName = str
"""``"auto"``, ``"plain"``, or the name of an implementation."""


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

    def stepper(self, state: StateT) -> Stepper[StateT]:
        """What the core's ``stepper`` gives."""
        return Stepper(self, state)

    def record(self, state: StateT, steps: int) -> Recording[StateT]:
        """What the core's ``record`` gives."""
        return Recording(self.stepper(state))


class Stepper(Generic[StateT]):
    """Runs a core step by step without gradient.

    This one calls the core at every step. Implementations may have faster ones.

    Attributes:
        implementation: what runs the steps.
        initial_state: the state before the first step.
        t: number of steps so far.
    """

    def __init__(self, implementation: Implementation[StateT], initial_state: StateT) -> None:
        self.implementation = implementation
        self.initial_state = initial_state
        self.t = 0
        self._state = self._before = initial_state

    def __reduce__(self) -> tuple[Any, ...]:
        # A copy calls the core at every step, and goes on from the same state.
        before = self.state_after(max(self.t - 1, 0))
        return _resumed, (self.implementation, self.initial_state, before, self.state(), self.t)

    def state(self, rows: Tensor | None = None) -> StateT:
        """Return the state after the last step, of all environments or of those in ``rows``.

        Later steps do not change the returned tensors.
        """
        if rows is None:
            return self._state
        return type(self._state)(*(tensor[rows] for tensor in self._state))

    def state_after(self, steps: int) -> StateT:
        """Return the state after ``t`` or ``t - 1`` steps; the last step may have been
        interrupted."""
        return self._before if steps == self.t - 1 else self.state()

    @torch.no_grad()
    def step(self, x: Tensor, episode_starts: Tensor) -> Tensor:
        """Take one step: inputs ``[B, F]`` and episode starts ``[B]`` to outputs ``[B,
        output_size]``."""
        outputs, state, _ = self.implementation.core(
            x.unsqueeze(0), self._state, episode_starts.unsqueeze(0)
        )
        self.go_to(state)
        return cast(Tensor, outputs[0])

    def look(self) -> None:
        """Compare the core with what it was, to the last bit, after code of others has run.

        :meth:`step` itself sees only the changes that PyTorch counts.
        """

    def go_to(self, state: StateT) -> None:
        """Count a step that was taken elsewhere, and led to this state."""
        self._before, self._state, self.t = self._state, state, self.t + 1


def _resumed(
    implementation: Implementation[StateT],
    initial_state: StateT,
    before: StateT,
    state: StateT,
    t: int,
) -> Stepper[StateT]:
    stepper = Stepper(implementation, initial_state)
    stepper._before, stepper._state, stepper.t = before, state, t
    return stepper


class InPlaceStepper(Stepper[StateT], ABC):
    """Takes steps that change a state in place, until :meth:`leave`. From then on, it calls the
    core.

    Attributes:
        in_place: whether :meth:`leave` has not been called.
    """

    def __init__(self, implementation: Implementation[StateT], initial_state: StateT) -> None:
        super().__init__(implementation, initial_state)
        self.in_place = True

    @abstractmethod
    def state_now(self, rows: Tensor | None) -> StateT:
        """A copy of the state that changes, of all environments or of those in ``rows``."""

    @abstractmethod
    def state_before(self) -> StateT:
        """The state before the last step, which is not kept, and has to be computed again."""

    def state(self, rows: Tensor | None = None) -> StateT:
        return self.state_now(rows) if self.in_place else super().state(rows)

    @torch.no_grad()
    def state_after(self, steps: int) -> StateT:
        if self.in_place and steps == self.t - 1:
            return self.state_before()
        return super().state_after(steps)

    def leave(self) -> None:
        """Go on by calling the core."""
        if self.in_place:
            self._state, self.in_place = self.state(), False

    def go_to(self, state: StateT) -> None:
        self.leave()
        super().go_to(state)


class Recording(Generic[StateT]):
    """Steps of a stepper, with their gradient.

    This one runs the steps again. Implementations may keep what the gradient needs.

    Attributes:
        stepper: takes the steps.
    """

    def __init__(self, stepper: Stepper[StateT]) -> None:
        self.stepper = stepper

    def __reduce__(self) -> tuple[Any, ...]:
        return Recording, (self.stepper,)  # a copy runs the steps again

    def replay(self, inputs: Tensor, episode_starts: Tensor) -> tuple[Tensor, Tensor]:
        """Return the results of all steps, with gradient.

        Args:
            inputs: those of the steps, ``[T, B, F]``, with the gradient they may have.
            episode_starts: those of the steps, ``[T, B]``.

        Returns:
            outputs ``[T, B, output_size]``
            meta-loss ``[T, B]``
        """
        stepper = self.stepper
        outputs, _, meta_loss = stepper.implementation.core(
            inputs, stepper.initial_state, episode_starts
        )
        return outputs, meta_loss


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

"""Cores made of cores: several layers, or one for the actor and one for the critic."""

from abc import abstractmethod
from collections.abc import Callable, Sequence
from itertools import accumulate, chain, pairwise
from typing import Any, NamedTuple, Self

import torch
from torch import Tensor, nn

from mnm_rl.cores.core import RecurrentCore
from mnm_rl.cores.implementations import (
    PathName,
    Plain,
    Recording,
    Stepper,
    hooked,
    recorded,
)

Run = Callable[[int, Tensor], tuple[Tensor, Tensor]]
"""Runs the core of this number on inputs ``[..., F]``: outputs ``[..., output_size]`` and
meta-loss."""


class States(tuple[Tensor, ...]):
    """The states of several cores, one after the other; made of tensors as a NamedTuple is."""

    __slots__ = ()

    def __new__(cls, *tensors: Tensor) -> Self:
        return super().__new__(cls, tensors)

    def __getnewargs__(self) -> tuple[Tensor, ...]:
        return tuple(self)


class CompositeCore(RecurrentCore[States]):
    """Several cores, each run by its own implementation; :meth:`wire` says what goes from which to
    which.

    Args:
        cores: the cores.
        output_size: width of what :meth:`wire` gives.
    """

    def __init__(self, cores: Sequence[RecurrentCore[Any]], output_size: int) -> None:
        super().__init__(output_size)
        self.cores = nn.ModuleList(cores)
        states = [core.initial_state(1) for core in cores]
        self._kinds = [type(state) for state in states]
        self._cuts = [*pairwise(accumulate(map(len, states), initial=0))]

    @abstractmethod
    def wire(self, run: Run, inputs: Tensor) -> tuple[Tensor, Tensor]:
        """Outputs and meta-loss of the whole, by running each core once, in order."""

    def parts(self, state: States) -> list[Any]:
        """The states of the cores.

        Raises:
            ValueError: if the state is not one of all of them.
        """
        if len(state) != self._cuts[-1][1]:
            raise ValueError(
                f"the state must have the {self._cuts[-1][1]} parts that initial_state gives, got "
                f"{len(state)} (predict returns the actor's part alone)"
            )
        return [
            kind(*state[start:stop])
            for kind, (start, stop) in zip(self._kinds, self._cuts, strict=True)
        ]

    def initial_state(self, batch_size: int) -> States:
        return States(*chain.from_iterable(core.initial_state(batch_size) for core in self._all()))

    def step(self, x: Tensor, state: States) -> tuple[Tensor, States, Tensor]:
        outputs, state, meta_loss = self(
            x.unsqueeze(0), state, torch.zeros(1, x.shape[0], dtype=torch.bool, device=x.device)
        )
        return outputs[0], state, meta_loss[0]

    def forward(
        self, inputs: Tensor, state: States, episode_starts: Tensor
    ) -> tuple[Tensor, States, Tensor]:
        cores, before, after = self._all(), self.parts(state), []

        def run(k: int, x: Tensor) -> tuple[Tensor, Tensor]:
            outputs, part, meta_loss = cores[k](x, before[k], episode_starts)
            after.append(part)
            return outputs, meta_loss

        outputs, meta_loss = self.wire(run, inputs)
        if not recorded():
            self.diagnostics = cores[0].diagnostics
        return outputs, States(*chain.from_iterable(after)), meta_loss

    def stepper(self, state: States) -> Stepper[States]:
        if hooked(self):
            return Stepper(Plain(self), state)
        pairs = zip(self._all(), self.parts(state), strict=True)
        return CompositeStepper(self, state, [core.stepper(part) for core, part in pairs])

    def record(self, state: States, steps: int) -> Recording[States]:
        if hooked(self):
            return Recording(Stepper(Plain(self), state))
        pairs = zip(self._all(), self.parts(state), strict=True)
        return CompositeRecording(self, state, [core.record(part, steps) for core, part in pairs])

    def _all(self) -> list[RecurrentCore[Any]]:
        return [*self.cores]

    @property
    def path(self) -> PathName:
        """That of each of the cores."""
        return self._all()[0].path

    @path.setter
    def path(self, path: PathName) -> None:
        for core in self._all():
            core.path = path

    def why_not(self, path: str) -> str | None:
        return next(filter(None, (core.why_not(path) for core in self._all())), None)

    def why_plain(self) -> str | None:
        return next(filter(None, (core.why_plain() for core in self._all())), None)

    def extra_repr(self) -> str:
        return ""  # that of each core is below


class CompositeStepper(Stepper[States]):
    """Steps of a composite core, by a stepper of each of its cores."""

    def __init__(self, core: CompositeCore, state: States, steppers: list[Stepper[Any]]) -> None:
        super().__init__(Plain(core), state)
        self.core, self.steppers = core, steppers

    def state(self, rows: Tensor | None = None) -> States:
        return States(*chain.from_iterable(stepper.state(rows) for stepper in self.steppers))

    def state_after(self, steps: int) -> States:
        return States(*chain.from_iterable(stepper.state_after(steps) for stepper in self.steppers))

    def look(self) -> None:
        for stepper in self.steppers:
            stepper.look()

    def go_to(self, state: States) -> None:
        self.t += 1
        for stepper, part in zip(self.steppers, self.core.parts(state), strict=True):
            stepper.go_to(part)

    @torch.no_grad()
    def step(self, x: Tensor, episode_starts: Tensor) -> Tensor:
        self.t += 1
        return self.core.wire(
            lambda k, x: (self.steppers[k].step(x, episode_starts), x.new_zeros(x.shape[0])), x
        )[0]


class CompositeRecording(Recording[States]):
    """Steps of a composite core with their gradient, by a recording of each of its cores."""

    def __init__(
        self, core: CompositeCore, state: States, recordings: list[Recording[Any]]
    ) -> None:
        super().__init__(
            CompositeStepper(core, state, [recording.stepper for recording in recordings])
        )
        self.core, self.recordings = core, recordings

    def replay(self, inputs: Tensor, episode_starts: Tensor) -> tuple[Tensor, Tensor]:
        outputs, meta_loss = self.core.wire(
            lambda k, x: self.recordings[k].replay(x, episode_starts), inputs
        )
        self.core.diagnostics = self.core._all()[0].diagnostics
        return outputs, meta_loss


class Layers(CompositeCore):
    """Cores one after the other.

    Args:
        cores: the first and its followers, each as wide as the output of the one before.
        dropout: share of the outputs between two of them that is left out in training.
    """

    def __init__(self, cores: Sequence[RecurrentCore[Any]], dropout: float = 0.0) -> None:
        super().__init__(cores, cores[-1].output_size)
        self.dropout = nn.Dropout(dropout)

    def wire(self, run: Run, inputs: Tensor) -> tuple[Tensor, Tensor]:
        outputs, meta_loss = run(0, inputs)
        for k in range(1, len(self.cores)):
            outputs, loss = run(k, self.dropout(outputs))
            meta_loss = meta_loss + loss
        return outputs, meta_loss


class ActorAndCritic(CompositeCore):
    """A core for the actor and one for the critic, side by side.

    Args:
        actor: its outputs come first.
        critic: its outputs come last.
        own_inputs: whether each has its own half of the inputs, or both have all.
    """

    def __init__(
        self, actor: RecurrentCore[Any], critic: RecurrentCore[Any], own_inputs: bool
    ) -> None:
        super().__init__([actor, critic], actor.output_size + critic.output_size)
        self.own_inputs = own_inputs

    @property
    def actor(self) -> RecurrentCore[Any]:
        return self._all()[0]

    def wire(self, run: Run, inputs: Tensor) -> tuple[Tensor, Tensor]:
        seen = inputs.chunk(2, dim=-1) if self.own_inputs else (inputs, inputs)
        (actor, one), (critic, other) = (run(k, x) for k, x in enumerate(seen))
        return torch.cat([actor, critic], dim=-1), one + other


class NoState(NamedTuple):
    """What a core without memory carries from step to step."""


class NoMemory(RecurrentCore[NoState]):
    """A linear map, for a critic that sees the present only.

    Args:
        input_size: width of the inputs.
        hidden_size: width of the outputs.
    """

    def __init__(self, input_size: int, hidden_size: int) -> None:
        super().__init__(hidden_size)
        self.linear = nn.Linear(input_size, hidden_size)

    def initial_state(self, batch_size: int) -> NoState:
        return NoState()

    def step(self, x: Tensor, state: NoState) -> tuple[Tensor, NoState, Tensor]:
        return self.linear(x), state, x.new_zeros(x.shape[0])

    def scan(
        self, inputs: Tensor, state: NoState, episode_starts: Tensor
    ) -> tuple[Tensor, NoState, Tensor]:
        return self.linear(inputs), state, inputs.new_zeros(inputs.shape[:2])

    def why_not(self, path: str) -> str | None:
        return None  # nothing could be faster

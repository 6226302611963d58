"""LSTM with a soft-attention look-up.

This is "LSTM+SALU", the baseline memory of Munkhdalai et al. (2019, section 4).
"""

from functools import reduce
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mnm_rl.cores.core import RecurrentCore, some_start
from mnm_rl.cores.implementations import (
    InPlaceStepper,
    Plain,
    Recording,
    Stepper,
    chosen,
    hooked,
    recorded,
)
from mnm_rl.initialization import Init, check_init, orthogonal_blocks_, scaled_inputs_


class SaluState(NamedTuple):
    """State of a SALU core between steps, for B environments."""

    h: Tensor
    """Controller output, ``[B, D]``."""
    c: Tensor
    """Controller cell, ``[B, D]``."""
    read: Tensor
    """Value looked up, ``r``, ``[B, D]``."""
    keys: Tensor
    """Keys of the last S steps of the episode, newest last, ``[B, S, D]``.

    Zero for steps before the episode.
    """
    values: Tensor
    """Values of the same steps, ``[B, S, D]``."""
    kept: Tensor
    """Number of stored steps, ``[B]``."""


class SaluCore(RecurrentCore[SaluState]):
    """LSTM controller that stores a key and a value per step, and reads them with soft attention.

    The equations of one step are ``h_t, c_t = LSTM([x_t; r_(t-1)])``,
    ``(k_t, v_t, q_t) = tanh(A h_t + a)``, ``r_t = sum_i w_i v_i`` and ``o_t = C [h_t; r_t] + c``.
    The weights of the look-up are ``w = softmax_i(q_t . k_i / sqrt D)`` over the last S steps i < t
    of the same episode. ``r_t`` is zero at the first step. After S steps, each step forgets the
    oldest.

    Args:
        input_size: width F of the inputs.
        hidden_size: width D of the controller, of keys and values, and of the outputs.
        slots: number of stored steps S.
        init: ``"scaled"`` (default) or ``"pytorch"``. With ``"scaled"``, keys and values have a
            suitable size, and a query equals the key of its step. A first look-up therefore finds
            similar steps.

    Raises:
        ValueError: if an argument is out of range.
    """

    def __init__(
        self, input_size: int, hidden_size: int = 100, slots: int = 256, init: Init = "scaled"
    ) -> None:
        super().__init__(hidden_size)
        check_init(init)
        if slots < 1:
            raise ValueError(f"slots must be at least 1, got {slots}")
        self.slots = slots
        self.controller = nn.LSTMCell(input_size + hidden_size, hidden_size)
        self.interaction = nn.Linear(hidden_size, 3 * hidden_size)  # A, a
        self.output = nn.Linear(2 * hidden_size, hidden_size)  # C, c
        if init == "scaled":
            scaled_inputs_(self.controller.weight_ih.data[:, :input_size], gain=2)
            orthogonal_blocks_(self.interaction.weight, gain=4)
            key, _, query = self.interaction.weight.data.chunk(3)
            query.copy_(key)
            nn.init.zeros_(self.interaction.bias)

    def initial_state(self, batch_size: int) -> SaluState:
        zeros = self.output.weight.new_zeros(batch_size, self.hidden_size)
        past = zeros.new_zeros(batch_size, self.slots, self.hidden_size)
        return SaluState(zeros, zeros, zeros, past, past, zeros[:, 0])

    def step(self, x: Tensor, state: SaluState) -> tuple[Tensor, SaluState, Tensor]:
        outputs, state, meta_loss = self.scan(
            x.unsqueeze(0), state, torch.zeros(1, x.shape[0], dtype=torch.bool, device=x.device)
        )
        return outputs[0], state, meta_loss[0]

    def scan(
        self, inputs: Tensor, state: SaluState, episode_starts: Tensor
    ) -> tuple[Tensor, SaluState, Tensor]:
        running = Running(self, state)
        read = []
        for x, starts, reset in zip(
            inputs, episode_starts, some_start(episode_starts), strict=True
        ):
            read.append(running.step(x, starts if reset else None))
        outputs: Tensor = self.output(torch.stack(read))
        return outputs, running.state(), inputs.new_zeros(inputs.shape[:2])

    def stepper(self, state: SaluState) -> Stepper[SaluState]:
        return Stepper(Plain(self), state) if hooked(self) else SaluStepper(self, state)

    def record(self, state: SaluState, steps: int) -> Recording[SaluState]:
        return Recording(self.stepper(state))


class SaluStepper(InPlaceStepper[SaluState]):
    """A stepper that keeps the past as a :class:`Running` object.

    All slots are copied only if a caller requests the state.
    """

    KEEP = 256
    """Steps after which the state is kept, from which later ones can run again."""

    def __init__(self, core: SaluCore, state: SaluState) -> None:
        super().__init__(chosen(core), state)
        self.core, self.running = core, Running(core, state)
        self._kept, self._since = state, list[tuple[Tensor, Tensor | None]]()

    @torch.no_grad()
    def state_now(self, rows: Tensor | None) -> SaluState:
        state = self.running.state()
        return state if rows is None else SaluState(*(tensor[rows] for tensor in state))

    def state_before(self) -> SaluState:
        again = Running(self.core, self._kept)
        for x, starts in self._since[:-1]:
            again.step(x, starts)
        return again.state()

    @torch.no_grad()
    def step(self, x: Tensor, episode_starts: Tensor) -> Tensor:
        if not self.in_place:
            return super().step(x, episode_starts)
        if len(self._since) == self.KEEP:
            self._kept, self._since = self.state(), []
        x = x.clone()  # environments may use their arrays again
        starts = episode_starts.clone() if some_start(episode_starts[None])[0] else None
        self._since.append((x, starts))
        self.t += 1  # before the state changes: an interrupt may come at any moment
        outputs: Tensor = self.core.output(self.running.step(x, starts))
        return outputs


class Running:
    """A SALU core in the middle of a sequence."""

    def __init__(self, core: SaluCore, state: SaluState) -> None:
        self.core = core
        self.h, self.c, self.read = state[:3]
        self.past = Past(*state[3:])

    def step(self, x: Tensor, starts: Tensor | None) -> Tensor:
        """Take one step from inputs ``[B, F]``, with episode starts ``[B]`` if there are any.

        Returns:
            ``[h; r]``, ``[B, 2 D]``.
        """
        if starts is not None:
            self.h, self.c, self.read = (
                part.masked_fill(starts.unsqueeze(1), 0) for part in (self.h, self.c, self.read)
            )
            self.past.forget(starts)
        self.h, self.c = self.core.controller(torch.cat([x, self.read], dim=-1), (self.h, self.c))
        key, value, query = torch.tanh(self.core.interaction(self.h)).chunk(3, dim=-1)
        self.read = self.past.look_up(query)
        self.past.append(key, value)
        return torch.cat([self.h, self.read], dim=-1)

    def state(self) -> SaluState:
        return SaluState(self.h, self.c, self.read, *self.past.window())


class Past:
    """Keys and values of previous steps, each ``[B, D]``: those of a state, and appended ones.

    They are stored in runs of steps, ``[B, n, D]``. Whenever the last two runs of appended steps
    have equal length, they merge. Each step is therefore copied about five times in total, instead
    of once more with every later step, and the backward pass keeps as few copies. A block is a run
    of the full length or a part of the state. A block is dropped as soon as no environment reads it
    any more. Its contribution would be exactly zero, so the reads of an environment do not depend,
    to the last bit, on how far back the others look.

    Args:
        keys: the last S keys of each environment, newest last, ``[B, S, D]``.
        values: the last S values of each environment, ``[B, S, D]``.
        kept: number of stored steps, ``[B]``.
    """

    BLOCK = 32
    """Number of steps in a run of the full length, a power of two."""

    def __init__(self, keys: Tensor, values: Tensor, kept: Tensor) -> None:
        # steps are counted from the oldest slot of the state
        self.slots = self.end = int(keys.shape[1])
        # of each environment's episode, or of what is left of it
        self.begin = self.slots - kept.long()
        self.blocks = [
            *zip(*(torch.split(x, self.BLOCK, dim=1) for x in (keys, values)), strict=True)
        ]
        self.open: list[tuple[Tensor, Tensor]] = []  # runs that are no blocks yet
        self._drop()
        self.blocks = [(keys, _with_one(values)) for keys, values in self.blocks]

    def forget(self, starts: Tensor) -> None:
        """Start a new past where ``starts [B]`` is true."""
        self.begin = self.begin.masked_fill(starts, self.end)
        self._drop()

    def append(self, key: Tensor, value: Tensor) -> None:
        """Append a key and a value, ``[B, D]``."""
        self.open.append((key.unsqueeze(1), _with_one(value).unsqueeze(1)))
        self.end += 1
        while len(self.open) > 1 and self.open[-1][0].shape[1] == self.open[-2][0].shape[1]:
            older, newer = self.open[-2:]
            self.open[-2:] = [
                (torch.cat([older[0], newer[0]], dim=1), torch.cat([older[1], newer[1]], dim=1))
            ]
        if self.open[0][0].shape[1] == self.BLOCK:
            self.blocks.append(self.open.pop())
            self._drop()

    def look_up(self, query: Tensor) -> Tensor:
        """Read with soft attention for ``query [B, D]``.

        Returns:
            values ``[B, D]``; zero for an environment without a past.
        """
        runs = self._runs()
        query = (query * query.shape[1] ** -0.5).unsqueeze(2)
        scores = torch.cat([torch.bmm(keys, query) for keys, _ in runs], dim=1).squeeze(2)
        scores = scores.masked_fill(self._hidden(scores.shape[1]), -torch.inf)
        top = scores.detach().amax(dim=1, keepdim=True).clamp(min=torch.finfo(scores.dtype).min)
        weights = torch.split(
            (scores - top).exp().unsqueeze(1), [keys.shape[1] for keys, _ in runs], dim=2
        )
        found = reduce(
            torch.add, (torch.bmm(w, values) for w, (_, values) in zip(weights, runs, strict=True))
        ).squeeze(1)
        # the sum of weights, the largest of which is 1 if there is any
        return found[:, :-1] / found[:, -1:].clamp(min=1)

    def window(self) -> tuple[Tensor, Tensor, Tensor]:
        """Return the last S keys and values, ``[B, S, D]``, and their number, ``[B]``.

        These are the arguments for an equal past.
        """
        keys, values = (torch.cat(parts, dim=1) for parts in zip(*self._runs(), strict=True))
        hidden = self._hidden(keys.shape[1]).unsqueeze(2)
        to_slots = (0, 0, self.slots - keys.shape[1], 0)  # in front, or if negative, from there
        keys, values = (
            F.pad(x.masked_fill(hidden, 0), to_slots) for x in (keys, values[:, :, :-1])
        )
        return keys, values, (self.end - self.begin).clamp(max=self.slots).to(keys.dtype)

    def _runs(self) -> list[tuple[Tensor, Tensor]]:
        return self.blocks + self.open

    def _hidden(self, n: int) -> Tensor:
        """Mask the last n steps that each environment does not see, ``[B, n]``.

        These steps belong to another episode, or are more than S steps old.
        """
        steps = torch.arange(self.end - n, self.end, device=self.begin.device)
        return steps < self.begin.clamp(min=self.end - self.slots).unsqueeze(1)

    def _drop(self) -> None:
        """Drop the blocks that no environment sees, except for the last run."""
        seen = self.end - self.slots
        if not recorded():
            seen = max(int(self.begin.min()), seen)
        oldest = self.end - sum(keys.shape[1] for keys, _ in self._runs())
        while len(self._runs()) > 1 and self.blocks and oldest + self.blocks[0][0].shape[1] <= seen:
            oldest += self.blocks.pop(0)[0].shape[1]


def _with_one(values: Tensor) -> Tensor:
    """Append a one to each value.

    A weighted sum of the result then also contains the sum of the weights.
    """
    return F.pad(values, (0, 1), value=1)

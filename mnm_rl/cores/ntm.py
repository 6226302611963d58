"""Neural Turing Machine: an LSTM controller with a memory addressed by content and by location
(Graves, Wayne, Danihelka 2014)."""

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mnm_rl.cores.core import RecurrentCore
from mnm_rl.initialization import Init, check_init, scaled_inputs_

SHIFTS = (-1, 0, 1)
"""By how many slots a head can move in a step."""
EMPTY = 1e-6
"""What every number in the memory is at the start of an episode: Collier and Beel (2018) found a
constant to train best."""


class NtmState(NamedTuple):
    """What an NTM core carries from step to step, for B environments."""

    h: Tensor
    """Controller output, ``[B, D]``."""
    c: Tensor
    """Controller cell, ``[B, D]``."""
    read: Tensor
    """Vector read from the memory, ``r``, ``[B, W]``."""
    memory: Tensor
    """Memory ``M``, one vector a slot, ``[B, S, W]``."""
    weights: Tensor
    """Where the read head and the write head are, ``w^r`` and ``w^w``: a share of each slot, ``[B,
    2, S]``."""


class Heads(NamedTuple):
    """What the controller tells its two heads, the read head first, for B environments."""

    key: Tensor
    """What to look for, ``k``, ``[B, 2, W]``."""
    strength: Tensor
    """How sharply, ``beta > 0``, ``[B, 2, 1]``."""
    gate: Tensor
    """Share of what was found, the rest being where the head was, ``g`` in (0, 1), ``[B, 2,
    1]``."""
    shift: Tensor
    """Distribution over ``SHIFTS``, ``s``, ``[B, 2, 3]``."""
    sharpening: Tensor
    """Power of the weights, ``gamma > 1``, ``[B, 2, 1]``."""


class NtmCore(RecurrentCore[NtmState]):
    """LSTM controller with a memory of slots, one head that reads it and one that writes it.

    One step: ``h_t, c_t = LSTM([x_t; r_(t-1)])``; parts of ``A h_t + a`` give ``k = tanh``, ``beta
    = softplus``, ``g = sigmoid``, ``s = softmax`` and ``gamma = 1 + softplus`` of each head, and
    the writer's ``e_t = sigmoid`` and ``a_t = tanh``; the heads move, see :func:`address`; read
    ``r_t = sum_i w^r_t(i) M_(t-1)(i)``; write ``M_t(i) = M_(t-1)(i) * (1 - w^w_t(i) e_t) + w^w_t(i)
    a_t``; output ``o_t = C [h_t; r_t] + c``. An episode starts with both heads at the first slot of
    a constant memory.

    Args:
        input_size: width F of the inputs.
        hidden_size: width D of the controller and of the outputs.
        slots: how many vectors S the memory holds.
        width: width W of each.
        init: ``"scaled"`` (default), with which the heads are sharp and a write goes to the next
            slot from the first update, or ``"pytorch"``.

    Raises:
        ValueError: if an argument is out of range.
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int = 100,
        slots: int = 128,
        width: int = 20,
        init: Init = "scaled",
    ) -> None:
        super().__init__(hidden_size)
        check_init(init)
        if slots < 1 or width < 1:
            raise ValueError(
                f"a memory needs slots >= 1 and width >= 1, got slots={slots}, width={width}"
            )
        self.slots, self.width = slots, width
        self.controller = nn.LSTMCell(input_size + width, hidden_size)
        # of both heads: k, beta, g, s, gamma; e, a
        self.parts = [2 * width, 2, 2, 2 * len(SHIFTS), 2, width, width]
        self.interaction = nn.Linear(hidden_size, sum(self.parts))  # A, a
        self.output = nn.Linear(hidden_size + width, hidden_size)  # C, c
        if init == "scaled":
            self._scale(input_size)

    @torch.no_grad()
    def _scale(self, input_size: int) -> None:
        scaled_inputs_(self.controller.weight_ih[:, :input_size], gain=2)
        scaled_inputs_(self.interaction.weight, gain=4)
        nn.init.zeros_(self.interaction.bias)
        _, strength, gate, shift, sharpening, _, _ = torch.split(self.interaction.bias, self.parts)
        strength.fill_(math.log(self.slots))  # a slot that matches outweighs all that do not
        gate.copy_(gate.new_tensor([0, -2]))
        # the read head stays, the write head moves on
        shift.view(2, -1).copy_(shift.new_tensor([[0, 3, 0], [0, 0, 3]]))
        sharpening.fill_(2)

    def initial_state(self, batch_size: int) -> NtmState:
        zeros = self.output.weight.new_zeros(batch_size, self.hidden_size)
        memory = zeros.new_full((batch_size, self.slots, self.width), EMPTY)
        weights = zeros.new_zeros(batch_size, 2, self.slots)
        weights[:, :, 0] = 1
        return NtmState(zeros, zeros, memory.new_zeros(batch_size, self.width), memory, weights)

    def step(self, x: Tensor, state: NtmState) -> tuple[Tensor, NtmState, Tensor]:
        h, c = self.controller(torch.cat([x, state.read], dim=-1), (state.h, state.c))
        heads, erase, add = self._heads(h)
        weights = address(state.memory, state.weights, heads)
        read = torch.bmm(weights[:, :1], state.memory).squeeze(1)
        memory = write(state.memory, weights[:, 1], erase, add)
        output = self.output(torch.cat([h, read], dim=-1))
        return output, NtmState(h, c, read, memory, weights), x.new_zeros(x.shape[0])

    def _heads(self, h: Tensor) -> tuple[Heads, Tensor, Tensor]:
        """What the controller tells its heads, and what is to be erased and added, ``[B, W]``."""
        *of_heads, erase, add = torch.split(self.interaction(h), self.parts, dim=-1)
        key, strength, gate, shift, sharpening = (part.view(h.shape[0], 2, -1) for part in of_heads)
        heads = Heads(
            torch.tanh(key),
            F.softplus(strength),
            torch.sigmoid(gate),
            torch.softmax(shift, dim=-1),
            1 + F.softplus(sharpening),
        )
        return heads, torch.sigmoid(erase), torch.tanh(add)


def address(memory: Tensor, weights: Tensor, heads: Heads) -> Tensor:
    """Where the heads go (Graves et al. 2014, equations 5 to 9).

    ``w^c = softmax_i(beta cos(k, M(i)))``, by content; ``w^g = g w^c + (1 - g) w_(t-1)``; ``w^s(i)
    = sum_j w^g(i - j) s(j)``, moved, the last slot being next to the first; ``w = (w^s)^gamma /
    sum_i w^s(i)^gamma``.

    Args:
        memory: ``[B, S, W]``.
        weights: where the heads were, ``[B, 2, S]``.
        heads: what they are told.

    Returns:
        where they are now, ``[B, 2, S]``; the sum over slots is one.
    """
    tiny = torch.finfo(memory.dtype).tiny
    lengths = heads.key.norm(dim=2, keepdim=True) * memory.norm(dim=2).unsqueeze(1)
    cosine = torch.bmm(heads.key, memory.transpose(1, 2)) / lengths.clamp(min=EMPTY)
    found = torch.softmax(heads.strength * cosine, dim=2)
    weights = torch.lerp(weights, found, heads.gate)
    rolled = torch.stack([weights.roll(shift, dims=2) for shift in SHIFTS], dim=2)
    moved = torch.matmul(heads.shift.unsqueeze(2), rolled).squeeze(2)
    return torch.softmax(
        heads.sharpening * moved.clamp(min=tiny).log(), dim=2
    )  # a power of small numbers could be zero in all slots


def write(memory: Tensor, weights: Tensor, erase: Tensor, add: Tensor) -> Tensor:
    """A memory ``[B, S, W]`` after ``erase`` and then ``add``, ``[B, W]``, each at the share
    ``weights [B, S]`` of the slots."""
    change = torch.addcmul(add.unsqueeze(1), erase.unsqueeze(1), memory, value=-1)
    return torch.addcmul(memory, weights.unsqueeze(2), change)

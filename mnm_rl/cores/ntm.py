"""Neural Turing Machine (Graves, Wayne, Danihelka 2014).

An LSTM controller addresses a memory by content and by location.
"""

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
    """State of an NTM core between steps, for B environments."""

    h: Tensor
    """Controller output, ``[B, D]``."""
    c: Tensor
    """Controller cell, ``[B, D]``."""
    read: Tensor
    """Vector read from the memory, ``r``, ``[B, W]``."""
    memory: Tensor
    """Memory ``M``, one vector per slot, ``[B, S, W]``."""
    weights: Tensor
    """Positions of the read head and the write head, ``w^r`` and ``w^w``, ``[B, 2, S]``.

    A position is a share of each slot.
    """


class Heads(NamedTuple):
    """Outputs of the controller for the two heads, the read head first, for B environments."""

    key: Tensor
    """Content to search for, ``k``, ``[B, 2, W]``."""
    strength: Tensor
    """Sharpness of the search, ``beta > 0``, ``[B, 2, 1]``."""
    gate: Tensor
    """Share of the search result, ``g`` in (0, 1), ``[B, 2, 1]``.

    The rest is the previous position of the head.
    """
    shift: Tensor
    """Distribution over ``SHIFTS``, ``s``, ``[B, 2, 3]``."""
    sharpening: Tensor
    """Exponent of the weights, ``gamma > 1``, ``[B, 2, 1]``."""


class NtmCore(RecurrentCore[NtmState]):
    """LSTM controller with a memory of slots, one read head and one write head.

    One step runs the controller, ``h_t, c_t = LSTM([x_t; r_(t-1)])``. Parts of ``A h_t + a`` give
    ``k = tanh``, ``beta = softplus``, ``g = sigmoid``, ``s = softmax`` and ``gamma = 1 + softplus``
    of each head, and ``e_t = sigmoid`` and ``a_t = tanh`` of the write head. The heads move, see
    :func:`address`. The read is ``r_t = sum_i w^r_t(i) M_(t-1)(i)``. The write is
    ``M_t(i) = M_(t-1)(i) * (1 - w^w_t(i) e_t) + w^w_t(i) a_t``. The output is
    ``o_t = C [h_t; r_t] + c``. An episode starts with both heads at the first slot of a constant
    memory.

    Args:
        input_size: width F of the inputs.
        hidden_size: width D of the controller and of the outputs.
        slots: number of vectors S in the memory.
        width: width W of each vector.
        init: ``"scaled"`` (default) or ``"pytorch"``. With ``"scaled"``, the heads are sharp and
            each write goes to the next slot, from the first update on.

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
        """Return the head outputs, and the vectors to erase and to add, ``[B, W]``."""
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
    """Compute the new positions of the heads (Graves et al. 2014, equations 5 to 9).

    The address by content is ``w^c = softmax_i(beta cos(k, M(i)))``. The gate gives ``w^g = g w^c +
    (1 - g) w_(t-1)``. The shift is ``w^s(i) = sum_j w^g(i - j) s(j)``, with the last slot next to
    the first. The result is ``w = (w^s)^gamma / sum_i w^s(i)^gamma``.

    Args:
        memory: ``[B, S, W]``.
        weights: previous positions of the heads, ``[B, 2, S]``.
        heads: outputs of the controller for the heads.

    Returns:
        new positions of the heads, ``[B, 2, S]``; the sum over slots is one.
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
    """Return a memory ``[B, S, W]`` after ``erase`` and then ``add``, both ``[B, W]``.

    Both act on each slot with the share ``weights [B, S]``.
    """
    change = torch.addcmul(add.unsqueeze(1), erase.unsqueeze(1), memory, value=-1)
    return torch.addcmul(memory, weights.unsqueeze(2), change)

"""minGRU, a GRU whose gates depend only on the input.

All gates of a sequence can therefore be computed at once.
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from mnm_rl.cores.core import RecurrentCore, segments
from mnm_rl.initialization import Init, check_init, scaled_inputs_


class MinGruState(NamedTuple):
    """State of a minGRU core between steps, for B environments."""

    h: Tensor
    """Hidden state, ``[B, D]``."""


class MinGruCore(RecurrentCore[MinGruState]):
    """One-layer minGRU (Feng et al. 2024).

    The equations are ``h_t = (1 - z_t) h_(t-1) + z_t h~_t``, ``z_t = sigmoid(W_z x_t + b_z)`` and
    ``h~_t = W_h x_t + b_h``.

    A sequence costs one matrix product, and then one multiplication and one addition per number and
    step. The paper's other form makes ``h~`` positive, because its parallel scan uses logarithms.
    This implementation has no logarithms, so ``h~`` may have any sign. Every ``h_t`` is a weighted
    mean of earlier values, and stays accurate for sequences of any length.

    Args:
        input_size: width F of the inputs.
        hidden_size: width D of the state and of the outputs.
        init: ``"scaled"`` (default) or ``"pytorch"``.

    Raises:
        ValueError: if an argument is out of range.
    """

    def __init__(self, input_size: int, hidden_size: int = 100, init: Init = "scaled") -> None:
        super().__init__(hidden_size)
        check_init(init)
        self.input = nn.Linear(input_size, 2 * hidden_size)  # W_z and W_h, b_z and b_h
        if init == "scaled":
            scaled_inputs_(self.input.weight, gain=2)

    def initial_state(self, batch_size: int) -> MinGruState:
        return MinGruState(self.input.weight.new_zeros(batch_size, self.hidden_size))

    def step(self, x: Tensor, state: MinGruState) -> tuple[Tensor, MinGruState, Tensor]:
        kept, added = self._gates(x)
        h = torch.addcmul(added, kept, state.h)
        return h, MinGruState(h), x.new_zeros(x.shape[0])

    def scan(
        self, inputs: Tensor, state: MinGruState, episode_starts: Tensor
    ) -> tuple[Tensor, MinGruState, Tensor]:
        kept, added = (part.unbind(0) for part in self._gates(inputs))
        outputs = []
        for t0, t1, reset in segments(episode_starts):
            h = (self.reset(state, episode_starts[t0]) if reset else state).h
            for t in range(t0, t1):
                h = torch.addcmul(added[t], kept[t], h)
                outputs.append(h)
            state = MinGruState(h)
        return torch.stack(outputs), state, inputs.new_zeros(inputs.shape[:2])

    def _gates(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return ``1 - z_t`` and ``z_t h~_t``, each ``[..., D]``, for inputs ``[..., F]``."""
        gate, candidate = self.input(x).chunk(2, dim=-1)
        return torch.sigmoid(-gate), torch.sigmoid(gate) * candidate

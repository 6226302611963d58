"""Vanilla RNN, a core without gates and without plasticity."""

from typing import NamedTuple

from torch import Tensor, nn

from mnm_rl.cores.cell import CellCore


class RnnState(NamedTuple):
    """State of a vanilla RNN core between steps, for B environments."""

    h: Tensor
    """Hidden state, ``[B, D]``."""


class RnnCore(CellCore[RnnState]):
    """Vanilla RNN, ``h_t = tanh(U x_t + u + w h_(t-1))``: the plastic core without plasticity.

    The arguments are those of :class:`~mnm_rl.cores.cell.CellCore`.
    """

    cell_class = nn.RNNCell

    def initial_state(self, batch_size: int) -> RnnState:
        return RnnState(self.cell.weight_hh.new_zeros(batch_size, self.hidden_size))

    def step(self, x: Tensor, state: RnnState) -> tuple[Tensor, RnnState, Tensor]:
        h = self.cell(x, state.h)
        return h, RnnState(h), x.new_zeros(x.shape[0])

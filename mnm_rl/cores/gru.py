"""GRU, the gated baseline with half of an LSTM's state."""

from typing import NamedTuple

from torch import Tensor, nn

from mnm_rl.cores.cell import CellCore


class GruState(NamedTuple):
    """State of a GRU core between steps, for B environments."""

    h: Tensor
    """Hidden state, ``[B, D]``."""


class GruCore(CellCore[GruState]):
    """One-layer GRU (Cho et al. 2014).

    The arguments are those of :class:`~mnm_rl.cores.cell.CellCore`.
    """

    cell_class = nn.GRUCell

    def initial_state(self, batch_size: int) -> GruState:
        return GruState(self.cell.weight_hh.new_zeros(batch_size, self.hidden_size))

    def step(self, x: Tensor, state: GruState) -> tuple[Tensor, GruState, Tensor]:
        h = self.cell(x, state.h)
        return h, GruState(h), x.new_zeros(x.shape[0])

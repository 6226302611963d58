"""LSTM, the standard baseline."""

from typing import NamedTuple

from torch import Tensor, nn

from mnm_rl.cores.cell import CellCore


class LstmState(NamedTuple):
    """State of an LSTM core between steps, for B environments."""

    h: Tensor
    """Hidden state, ``[B, D]``."""
    c: Tensor
    """Cell, ``[B, D]``."""


class LstmCore(CellCore[LstmState]):
    """One-layer LSTM (Hochreiter and Schmidhuber 1997).

    The arguments are those of :class:`~mnm_rl.cores.cell.CellCore`.
    """

    cell_class = nn.LSTMCell

    def initial_state(self, batch_size: int) -> LstmState:
        zeros = self.cell.weight_hh.new_zeros(batch_size, self.hidden_size)
        return LstmState(zeros, zeros)

    def step(self, x: Tensor, state: LstmState) -> tuple[Tensor, LstmState, Tensor]:
        h, c = self.cell(x, state)
        return h, LstmState(h, c), x.new_zeros(x.shape[0])

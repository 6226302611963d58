"""LSTM: the baseline that everybody has."""

from typing import NamedTuple

from torch import Tensor, nn

from mnm_rl.cores.core import RecurrentCore
from mnm_rl.initialization import Init, check_init, scaled_inputs_


class LstmState(NamedTuple):
    """What an LSTM core carries from step to step, for B environments."""

    h: Tensor
    """Hidden state, ``[B, D]``."""
    c: Tensor
    """Cell, ``[B, D]``."""


class LstmCore(RecurrentCore[LstmState]):
    """One-layer LSTM, in PyTorch's equations.

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
        self.cell = nn.LSTMCell(input_size, hidden_size)
        if init == "scaled":
            scaled_inputs_(self.cell.weight_ih, gain=2)

    def initial_state(self, batch_size: int) -> LstmState:
        zeros = self.cell.weight_hh.new_zeros(batch_size, self.output_size)
        return LstmState(zeros, zeros)

    def step(self, x: Tensor, state: LstmState) -> tuple[Tensor, LstmState, Tensor]:
        h, c = self.cell(x, state)
        return h, LstmState(h, c), x.new_zeros(x.shape[0])

"""The baselines without plastic weights: an LSTM and a vanilla RNN."""

from typing import TYPE_CHECKING, NamedTuple

from torch import Tensor, nn

from mnm_rl.cores.core import Recording, RecurrentCore
from mnm_rl.initialization import Init, check_init, scaled_inputs_

if TYPE_CHECKING:
    from mnm_rl.cores.fused_lstm import FusedLstm


class LstmState(NamedTuple):
    """What an LSTM core carries from step to step, for B environments."""

    h: Tensor
    """Hidden state, ``[B, D]``."""
    c: Tensor
    """Cell, ``[B, D]``."""


class RnnState(NamedTuple):
    """What a vanilla RNN core carries from step to step, for B environments."""

    h: Tensor
    """Hidden state, ``[B, D]``."""


class LstmCore(RecurrentCore[LstmState]):
    """One-layer LSTM.

    Args:
        input_size: width F of the inputs.
        hidden_size: width D of the state and of the outputs.
        init: ``"scaled"`` (default) or ``"pytorch"``.

    On CPUs a whole sequence is one fused operation (:mod:`mnm_rl.cores.fused_lstm`).
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

    def _fused_recording(self, state: LstmState, steps: int, reuse: Recording[LstmState] | None = None) -> "FusedLstm":
        from mnm_rl.cores.fused_lstm import FusedLstm  # needs Numba

        return FusedLstm(self, state, steps, reuse)

    def step(self, x: Tensor, state: LstmState) -> tuple[Tensor, LstmState, Tensor]:
        h, c = self.cell(x, state)
        return h, LstmState(h, c), x.new_zeros(x.shape[0])


class RnnCore(RecurrentCore[RnnState]):
    """Vanilla RNN, ``h_t = tanh(U x_t + u + w h_(t-1))``: the plastic core without plasticity.

    Args:
        input_size: width F of the inputs.
        hidden_size: width D of the state and of the outputs.
        init: ``"scaled"`` (default) or ``"pytorch"``.
    """

    def __init__(self, input_size: int, hidden_size: int = 100, init: Init = "scaled") -> None:
        super().__init__(hidden_size)
        check_init(init)
        self.cell = nn.RNNCell(input_size, hidden_size)
        if init == "scaled":
            scaled_inputs_(self.cell.weight_ih, gain=1)

    def initial_state(self, batch_size: int) -> RnnState:
        return RnnState(self.cell.weight_hh.new_zeros(batch_size, self.output_size))

    def step(self, x: Tensor, state: RnnState) -> tuple[Tensor, RnnState, Tensor]:
        h = self.cell(x, state.h)
        return h, RnnState(h), x.new_zeros(x.shape[0])

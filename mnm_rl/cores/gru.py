"""GRU: the gated baseline with half of an LSTM's state (Cho et al. 2014)."""

from typing import NamedTuple

from torch import Tensor, nn

from mnm_rl.cores.core import RecurrentCore
from mnm_rl.initialization import Init, check_init, scaled_inputs_


class GruState(NamedTuple):
    """What a GRU core carries from step to step, for B environments."""

    h: Tensor
    """Hidden state, ``[B, D]``."""


class GruCore(RecurrentCore[GruState]):
    """One-layer GRU (Cho et al. 2014), in PyTorch's equations.

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
        self.cell = nn.GRUCell(input_size, hidden_size)
        if init == "scaled":
            scaled_inputs_(self.cell.weight_ih, gain=2)

    def initial_state(self, batch_size: int) -> GruState:
        return GruState(self.cell.weight_hh.new_zeros(batch_size, self.output_size))

    def step(self, x: Tensor, state: GruState) -> tuple[Tensor, GruState, Tensor]:
        h = self.cell(x, state.h)
        return h, GruState(h), x.new_zeros(x.shape[0])

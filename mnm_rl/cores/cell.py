"""What the cores around one of PyTorch's cells share."""

from typing import Any, ClassVar

from torch import nn

from mnm_rl.cores.core import RecurrentCore, StateT
from mnm_rl.initialization import Init, check_init, scaled_inputs_


class CellCore(RecurrentCore[StateT]):
    """A core that is one of PyTorch's cells, in PyTorch's equations.

    Args:
        input_size: width F of the inputs.
        hidden_size: width D of the state and of the outputs.
        init: ``"scaled"`` (default) or ``"pytorch"``.

    Raises:
        ValueError: if an argument is out of range.
    """

    cell_class: ClassVar[type[nn.RNNCellBase]]

    def __init__(self, input_size: int, hidden_size: int = 100, init: Init = "scaled") -> None:
        super().__init__(hidden_size)
        check_init(init)
        self.cell: Any = self.cell_class(input_size, hidden_size)  # type: ignore[call-arg]  # each cell gives the base its own
        if init == "scaled":
            scaled_inputs_(self.cell.weight_ih, gain=2)

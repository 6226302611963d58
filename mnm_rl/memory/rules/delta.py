"""The delta rule (Schlag, Irie, Schmidhuber 2021, *Linear transformers are secretly fast weight
programmers*)."""

from torch import Tensor

from mnm_rl.memory.function import FastWeights
from mnm_rl.memory.rules.rule import WriteRule


class DeltaRule(WriteRule):
    """One linear layer, ``W_t = W_(t-1) + beta_t/H * sum_h (v_h - W_(t-1) k_h) k_h^T``, written and
    read with keys of norm one: a bounded write of a single layer.

    With one head, a write of strength 1 replaces what was stored under the key by the value, and
    leaves alone what is stored under orthogonal keys. An empty key stays empty.
    """

    def __init__(self, size: int, layers: int, bounded: bool = True) -> None:
        super().__init__(size, layers, bounded=True)
        if layers != 1:
            raise ValueError(
                "the delta rule writes a single linear layer: it needs memory_layers=1, got "
                f"{layers}"
            )

    def deltas(self, theta: FastWeights, z: list[Tensor], targets: Tensor) -> list[Tensor]:
        return [z[1] - targets.squeeze(2)]

    def deltas_backward(
        self,
        theta: FastWeights,
        G: list[Tensor],
        z: list[Tensor],
        g_z: list[Tensor],
        deltas: list[Tensor],
        g_deltas: list[Tensor],
    ) -> Tensor:
        g_z[1] = g_z[1] + g_deltas[0]
        return -g_deltas[0].unsqueeze(2)

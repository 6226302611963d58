"""What LSTM and GRU share: a whole sequence of a gated cell as one differentiable operation, four
environments at a time."""

from collections.abc import Callable
from typing import Any, ClassVar

import torch
from torch import Tensor

from mnm_rl.cores.core import StateT
from mnm_rl.kernels.arena import zeros
from mnm_rl.kernels.padding import CellParameters, CellWeights, array
from mnm_rl.kernels.parallel import run
from mnm_rl.kernels.simd import fours, padded
from mnm_rl.kernels.steps import KernelSteps, Workspace


class GatedSteps(KernelSteps[StateT]):
    """Steps of a core with a PyTorch cell and four blocks of gates, see
    :class:`~mnm_rl.kernels.steps.KernelSteps`.

    Attributes:
        working: the state, changed in place, or the gradient with respect to it: ``[B, P]`` each.
        saving: what the forward pass leaves for the backward pass, time first: ``x``, which is
            ``[x_t; h_(t-1)]``, ``[T, B, F + P]``, ``gates`` ``[T, B, 4P]``, ``out`` ``[T, B, P]``,
            and ``[T, B, P]`` for whatever else it names.
        forward_kernel: runs steps of some fours of environments.
        backward_kernel: goes back through it.
        pack_cell: the cell's parameters in the layout of the kernels.
        unpack_cell: the gradients with respect to them, of those with respect to the gates'.
    """

    working: ClassVar[Callable[..., Any]]
    saving: ClassVar[Any]
    forward_kernel: ClassVar[Callable[..., None]]
    backward_kernel: ClassVar[Callable[..., None]]
    pack_cell: ClassVar[Callable[..., CellWeights]]
    unpack_cell: ClassVar[Callable[..., CellParameters]]

    @staticmethod
    def parameters_of(core: Any) -> CellParameters:
        cell = core.cell
        return cell.weight_ih, cell.weight_hh, cell.bias_ih, cell.bias_hh

    @classmethod
    def pack(cls, core: Any, parameters: CellParameters) -> CellWeights:
        return cls.pack_cell(parameters, core.cell.input_size)

    def __init__(self, workspace: Workspace, state: StateT, steps: int) -> None:
        super().__init__(workspace, state, steps)
        B, P = self.B, padded(self.D)
        self.F = self.core.cell.input_size
        self.now = self.working(*(array(part, (B, P), self.dtype) for part in state))
        widths = dict.fromkeys(self.saving._fields, P) | {"x": self.F + P, "gates": 4 * P}
        saved = {
            name: self.room(name, steps, B, width)
            for name, width in widths.items()
            if name != "out"
        }
        # others may have the outputs
        self.saved = self.saving(out=zeros((steps, B, P), self.dtype), **saved)
        self.x = self.saved.x

    def working_state(self) -> tuple[Tensor, ...]:
        return tuple(torch.from_numpy(row)[:, : self.D] for row in self.now)

    def run_kernels(self, t0: int, t1: int) -> Tensor:
        starts, least = self.episode_starts, 32 // (t1 - t0)
        run(
            self.forward_kernel,
            fours(self.B),
            t0,
            t1,
            starts,
            self.weights,
            self.now,
            self.saved,
            least=least,
        )
        return torch.from_numpy(self.saved.out[t0:t1])

    def outputs(self, raw: Tensor) -> Tensor:
        return raw[..., : self.D]

    def results(self) -> tuple[Tensor | None, ...]:
        return torch.from_numpy(self.saved.out), None, *self.working_state()

    def gradients(self, inputs: bool, *given: Tensor | None) -> tuple[Tensor | None, ...]:
        g_out, _, *g_state = given
        saved, F, dtype = self.saved, self.F, self.dtype
        g = self.working(*(array(part, self.now.h.shape, dtype) for part in g_state))
        g_gates = self.room("g_gates", *saved.gates.shape)
        out = array(g_out, saved.out.shape, dtype)
        run(
            self.backward_kernel,
            fours(self.B),
            self.episode_starts,
            self.weights,
            saved,
            out,
            g_gates,
            g,
        )
        gates = torch.from_numpy(g_gates).flatten(0, 1)
        weight = gates.T @ torch.from_numpy(saved.x).flatten(0, 1)
        g_inputs = None
        if inputs:
            g_inputs = (gates @ torch.from_numpy(self.weights.gates[:F]).T).view(
                *saved.x.shape[:2], F
            )
        state = (torch.from_numpy(row)[:, : self.D] for row in g)
        return g_inputs, *state, *self.unpack_cell(weight, gates.sum(0), self.D, F, 0)

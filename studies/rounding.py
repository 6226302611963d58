"""What undoing writes in float32 costs in accuracy, over long sequences (docs/speed.md).

python -m studies.rounding [--steps T ...]

Printed is, for each write rule and path, the largest relative error of a gradient (inputs and
parameters, L2 norms) beside plain PyTorch in float64; plain PyTorch in float32 shows what rounding
alone does. One environment, one episode, width 32.
"""

import copy

import torch
import tyro
from torch import Tensor

from mnm_rl import MnmCore
from mnm_rl.cores.implementations import PathName
from mnm_rl.memory import WriteRuleName

F, D = 3, 32
RULES: tuple[tuple[WriteRuleName, int], ...] = (
    ("g", 3),
    ("p", 3),
    ("delta", 1),
    ("gated-delta", 1),
)
"""Write rules, and how many layers the memory has."""


def gradients(core: MnmCore, T: int, path: PathName, dtype: torch.dtype) -> list[Tensor]:
    """Those of a fixed function of outputs and meta-loss, with respect to inputs and parameters."""
    core = copy.deepcopy(core).to(dtype)
    core.path = path
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(T, 1, F, generator=generator).to(dtype).requires_grad_()
    outputs, _, meta_loss = core(inputs, core.initial_state(1), torch.zeros(T, 1, dtype=torch.bool))
    loss = (
        outputs * torch.randn(outputs.shape, generator=generator).to(dtype)
    ).mean() + meta_loss.mean()
    return [g.double() for g in torch.autograd.grad(loss, [inputs, *core.parameters()])]


def main(steps: tuple[int, ...] = (1_000, 10_000)) -> None:
    """Measure."""
    torch.set_num_threads(1)
    paths: tuple[PathName, ...] = ("plain", "reversible", "fused")
    for T in steps:
        for rule, layers in RULES:
            torch.manual_seed(0)
            core = MnmCore(F, D, write_rule=rule, memory_layers=layers)
            exact = gradients(core, T, "plain", torch.float64)
            errors = []
            for path in paths:
                if path != "plain" and core.why_not(path):
                    continue
                pairs = zip(gradients(core, T, path, torch.float32), exact, strict=True)
                errors.append(
                    f"{path} {max(((a - b).norm() / b.norm()).item() for a, b in pairs):.1e}"
                )
            print(f"{T:,} steps, rule {rule}: {', '.join(errors)}", flush=True)


if __name__ == "__main__":
    tyro.cli(main, description=__doc__)

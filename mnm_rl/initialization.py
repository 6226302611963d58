"""Initial weights with which what a memory does reaches the loss from the first update; why, in ``docs/mathematics.md``."""

from typing import Literal, get_args

import torch
from torch import Tensor, nn

Init = Literal["scaled", "pytorch"]
"""``"scaled"``: the initialization of ``docs/mathematics.md``; ``"pytorch"``: PyTorch's defaults, as in version 0.1.0."""


def check_init(init: str) -> None:
    """Raise ValueError for an unknown name."""
    if init not in get_args(Init):
        raise ValueError(f"init must be 'scaled' or 'pytorch', got {init!r}")


@torch.no_grad()
def scaled_inputs_(weight: Tensor, gain: float) -> None:
    """Fill weights ``[N, F]`` of inputs of unit scale from ``N(0, (gain / sqrt F)^2)``: their products have scale ``gain``."""
    nn.init.normal_(weight, std=gain * weight.shape[1] ** -0.5)


@torch.no_grad()
def orthogonal_blocks_(weight: Tensor, gain: float) -> None:
    """Make every square block of a weight ``[n D, D]`` orthogonal, times ``gain``."""
    for block in torch.split(weight, weight.shape[1]):
        nn.init.orthogonal_(block, gain)

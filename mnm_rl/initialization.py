"""Initial weights with which what a memory does reaches the loss from the first update; why, in
``docs/mathematics.md``."""

from typing import Literal, get_args

import torch
from torch import Tensor, nn

Init = Literal["scaled", "pytorch"]
"""``"scaled"``: the initialization of ``docs/mathematics.md``; ``"pytorch"``: PyTorch's defaults,
as in version 0.1.0."""


def check_init(init: str) -> None:
    """Raise ValueError for an unknown name."""
    if init not in get_args(Init):
        raise ValueError(f"init must be 'scaled' or 'pytorch', got {init!r}")


@torch.no_grad()
def scaled_inputs_(weight: Tensor, gain: float) -> None:
    """Fill weights ``[N, F]`` of inputs of unit scale from ``N(0, (gain / sqrt F)^2)``: their
    products have scale ``gain``."""
    nn.init.normal_(weight, std=gain * weight.shape[1] ** -0.5)


@torch.no_grad()
def orthogonal_blocks_(weight: Tensor, gain: float, rows: int | None = None) -> None:
    """Make every block ``[rows, D]`` of a weight ``[n rows, D]`` orthogonal, its rows of norm
    ``gain`` on average; blocks are square if ``rows`` is None."""
    rows = weight.shape[1] if rows is None else rows
    for block in torch.split(weight, rows):
        nn.init.orthogonal_(block, gain * max(1, rows / weight.shape[1]) ** 0.5)

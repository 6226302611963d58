"""Values of any scale: the critic learns returns of mean 0 and standard deviation 1, whatever the
rewards are."""

from typing import Any

import torch
from torch import Tensor, nn

from mnm_rl.algorithms import distributed


class PopArt(nn.Module):
    """Mean and standard deviation of the returns so far, and the change of the value head when they
    change.

    PopArt (van Hasselt et al. 2016, "Learning values across many orders of magnitude"): values are
    ``std * head + mean``. When the statistics move, the head is rescaled so that its values stay
    what they were. Before the first :meth:`update`, mean is 0 and standard deviation 1, so that
    without updates the head's outputs are the values.

    Attributes:
        mean: of the returns, a scalar.
        std: standard deviation of the returns, a scalar.
    """

    rate = 3e-4
    """Share of one return in the new statistics, the paper's: returns are forgotten after some
    3,000 others."""
    least_std = 1e-4
    """The paper's bound, for returns that are all alike."""

    mean: Tensor
    std: Tensor
    moments: Tensor
    """Weighted sums of the returns, their squares and the weights, float64; the last goes from 0 to
    1."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(()))
        self.register_buffer("std", torch.ones(()))
        self.register_buffer("moments", torch.zeros(3, dtype=torch.float64))

    def forward(self, outputs: Tensor) -> Tensor:
        """Values of the head's outputs, any shape."""
        return outputs * self.std + self.mean

    def normalize(self, head: nn.Linear) -> None:
        """Let a linear layer give values from now on: whoever calls it need not know that it is
        normalized."""
        head.register_forward_hook(self._to_values)

    def normalizes(self, head: nn.Module) -> bool:
        """Whether this is the layer that gives normalized values, and nothing else has a say in
        them."""
        return type(head) is nn.Linear and [*head._forward_hooks.values()] == [self._to_values]

    def _to_values(self, head: nn.Module, inputs: Any, outputs: Tensor) -> Tensor:
        return self(outputs)  # type: ignore[no-any-return]

    @torch.no_grad()
    def update(self, returns: Tensor, head: nn.Linear) -> None:
        """Take in more returns (any shape), and rescale the head so that its values do not change.

        Of several processes that share the training, each takes in the returns of all. Returns that
        are not finite are left for the loss to name.
        """
        returns = returns.double()
        one = torch.ones_like(returns.mean())
        new = distributed.mean(
            torch.stack([returns.mean(), returns.square().mean(), one, one * returns.numel()])
        )
        if not new.isfinite().all():
            return
        count = new[3].item() * distributed.world_size()
        self.moments.lerp_(new[:3], 1 - (1 - self.rate) ** count)
        mean, square = self.moments[:2] / self.moments[2]
        std = (square - mean.square()).clamp(min=self.least_std**2).sqrt()
        head.weight.mul_(self.std / std)
        head.bias.copy_((head.bias * self.std + self.mean - mean) / std)
        self.mean.copy_(mean)
        self.std.copy_(std)

"""Plastic RNN: differentiable plasticity (Miconi et al. 2018)."""

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from agents.agent import Agent


@dataclass(frozen=True, kw_only=True)
class Plastic(Agent):
    """Plastic RNN: recurrent weights that change by a Hebbian rule with trained plasticity."""

    policy: ClassVar[str] = "PlasticPolicy"

    learning_rate: float = 2e-3
    """Step size of Adam (tuned, see docs/results.md)."""
    rule: Literal["hebb", "decay", "oja"] = "hebb"
    """How the Hebbian trace changes."""

    def core_kwargs(self) -> dict[str, Any]:
        return super().core_kwargs() | {"rule": self.rule}

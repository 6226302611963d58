"""Plastic RNN: differentiable plasticity (Miconi et al. 2018)."""

from dataclasses import dataclass
from typing import ClassVar, Literal

from agents.agent import Agent


@dataclass(frozen=True, kw_only=True)
class Plastic(Agent):
    """Plastic RNN: recurrent weights that change by a Hebbian rule with trained plasticity."""

    name: ClassVar[str] = "plastic"
    policy: ClassVar[str] = "PlasticPolicy"

    rule: Literal["hebb", "decay", "oja"] = "hebb"
    """How the Hebbian trace changes."""

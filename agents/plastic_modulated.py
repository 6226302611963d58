"""Neuromodulated plastic RNN: Backpropamine (Miconi et al. 2019)."""

from dataclasses import dataclass
from typing import ClassVar, Literal

from agents.agent import Agent


@dataclass(frozen=True, kw_only=True)
class PlasticModulated(Agent):
    """Neuromodulated plastic RNN: the network decides itself how fast its weights change."""

    name: ClassVar[str] = "plastic-modulated"
    policy: ClassVar[str] = "PlasticPolicy"

    rule: Literal["modulated", "retroactive"] = "modulated"
    """Simple neuromodulation, or retroactive with an eligibility trace."""

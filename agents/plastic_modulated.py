"""Neuromodulated plastic RNN: Backpropamine (Miconi et al. 2019)."""

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from agents.agent import Agent


@dataclass(frozen=True, kw_only=True)
class PlasticModulated(Agent):
    """Neuromodulated plastic RNN: the network decides itself how fast its weights change."""

    policy: ClassVar[str] = "PlasticPolicy"

    rule: Literal["modulated", "retroactive"] = "modulated"
    """Simple neuromodulation, or retroactive with an eligibility trace."""

    def core_kwargs(self) -> dict[str, Any]:
        return super().core_kwargs() | {"rule": self.rule}

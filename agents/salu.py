"""LSTM with a soft-attention look-up over the episode so far: the memory that the paper on MNM
compares its own with."""

from dataclasses import dataclass
from typing import Any, ClassVar

from agents.agent import Agent


@dataclass(frozen=True, kw_only=True)
class Salu(Agent):
    """SALU: an LSTM controller that looks up keys and values of earlier steps by soft attention."""

    name: ClassVar[str] = "salu"
    policy: ClassVar[str] = "SaluPolicy"

    a2c: ClassVar[dict[str, Any]] = {"learning_rate": 4e-3}
    slots: int = 256
    """How many steps back the look-up reaches: a whole episode of the mazes."""

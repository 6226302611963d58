"""Neural Turing Machine (Graves, Wayne and Danihelka 2014): a memory of slots, addressed by content
and by location."""

from dataclasses import dataclass
from typing import Any, ClassVar

from agents.agent import Agent


@dataclass(frozen=True, kw_only=True)
class Ntm(Agent):
    """NTM: an LSTM controller with a read head and a write head on a memory of slots."""

    name: ClassVar[str] = "ntm"
    policy: ClassVar[str] = "NtmPolicy"

    a2c: ClassVar[dict[str, Any]] = {"learning_rate": 4e-3}
    slots: int = 128
    """Vectors in the memory (Graves et al. 2014)."""
    width: int = 20
    """Width of each (Graves et al. 2014)."""

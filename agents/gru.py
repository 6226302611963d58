"""GRU: the gated baseline with half of an LSTM's state."""

from dataclasses import dataclass
from typing import Any, ClassVar

from agents.agent import Agent


@dataclass(frozen=True, kw_only=True)
class Gru(Agent):
    """GRU: memory in the activations only."""

    name: ClassVar[str] = "gru"
    policy: ClassVar[str] = "GruPolicy"

    ppo: ClassVar[dict[str, Any]] = {"learning_rate": 4e-3}
    a2c: ClassVar[dict[str, Any]] = {"learning_rate": 8e-3}

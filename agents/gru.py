"""GRU: the gated baseline with half of an LSTM's state."""

from dataclasses import dataclass
from typing import ClassVar

from agents.agent import Agent


@dataclass(frozen=True, kw_only=True)
class Gru(Agent):
    """GRU: memory in the activations only."""

    name: ClassVar[str] = "gru"
    policy: ClassVar[str] = "GruPolicy"

    learning_rate: float = 8e-3
    """Step size of Adam (tuned, see docs/results.md)."""

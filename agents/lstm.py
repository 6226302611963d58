"""LSTM: the baseline that everybody has."""

from dataclasses import dataclass
from typing import ClassVar

from agents.agent import Agent


@dataclass(frozen=True, kw_only=True)
class Lstm(Agent):
    """LSTM: memory in the activations only."""

    name: ClassVar[str] = "lstm"
    policy: ClassVar[str] = "LstmPolicy"

    learning_rate: float = 8e-3
    """Step size of Adam (tuned, see docs/results.md)."""

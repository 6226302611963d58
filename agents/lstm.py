"""LSTM: the baseline that everybody has."""

from dataclasses import dataclass
from typing import Any, ClassVar

from agents.agent import Agent


@dataclass(frozen=True, kw_only=True)
class Lstm(Agent):
    """LSTM: memory in the activations only."""

    name: ClassVar[str] = "lstm"
    policy: ClassVar[str] = "LstmPolicy"

    ppo: ClassVar[dict[str, Any]] = {"learning_rate": 4e-3}
    a2c: ClassVar[dict[str, Any]] = {"learning_rate": 8e-3}

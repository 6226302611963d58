"""Vanilla RNN: the plastic RNN without plasticity."""

from dataclasses import dataclass
from typing import ClassVar

from agents.agent import Agent


@dataclass(frozen=True, kw_only=True)
class Rnn(Agent):
    """Vanilla RNN: the plastic RNN without plasticity."""

    name: ClassVar[str] = "rnn"
    policy: ClassVar[str] = "RnnPolicy"

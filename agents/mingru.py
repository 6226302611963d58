"""minGRU: a GRU whose gates see the input alone (Feng et al. 2024)."""

from dataclasses import dataclass
from typing import ClassVar

from agents.agent import Agent


@dataclass(frozen=True, kw_only=True)
class MinGru(Agent):
    """minGRU: memory in the activations only, with gates that see the input alone."""

    name: ClassVar[str] = "mingru"
    policy: ClassVar[str] = "MinGruPolicy"

    core_layers: int = 2
    """Cores one on another: within one, what is stored cannot depend on what has been stored."""

"""minGRU: a GRU whose gates see the input alone (Feng et al. 2024)."""

from dataclasses import dataclass
from typing import Any, ClassVar

from agents.agent import Agent


@dataclass(frozen=True, kw_only=True)
class MinGru(Agent):
    """minGRU: memory in the activations only, with gates that see the input alone."""

    name: ClassVar[str] = "mingru"
    policy: ClassVar[str] = "MinGruPolicy"

    a2c: ClassVar[dict[str, Any]] = {"learning_rate": 4e-3}

    learning_rate: float = 4e-3
    """Step size of Adam (of 2e-3 and 4e-3 the better one in the small maze, one seed)."""
    core_layers: int = 2
    """Cores one on another: within one, what is stored cannot depend on what has been stored."""

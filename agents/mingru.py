"""minGRU: a GRU whose gates see the input alone (Feng et al. 2024)."""

from dataclasses import dataclass
from typing import Any, ClassVar

from agents.agent import Agent


@dataclass(frozen=True, kw_only=True)
class MinGru(Agent):
    """minGRU: memory in the activations only, with gates that see the input alone."""

    name: ClassVar[str] = "mingru"
    policy: ClassVar[str] = "MinGruPolicy"

    # one on another: within a layer, what is stored cannot depend on what has been stored
    ppo: ClassVar[dict[str, Any]] = {"learning_rate": 4e-3, "core_layers": 2}
    a2c: ClassVar[dict[str, Any]] = {"learning_rate": 4e-3, "core_layers": 2}

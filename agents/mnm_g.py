"""MNM-g: metalearned neural memory, written by a gradient step (Munkhdalai et al. 2019)."""

from dataclasses import dataclass
from typing import Any, ClassVar

from agents.agent import Agent


@dataclass(frozen=True, kw_only=True)
class MnmG(Agent):
    """MNM-g: an LSTM controller and a neural memory written by a gradient step."""

    policy: ClassVar[str] = "MnmPolicy"
    write_rule: ClassVar[str] = "g"

    memory_layers: int = 3
    """Layers of the memory (the paper's)."""
    heads: int = 1
    """Writes and reads in a step (the paper's for the maze)."""
    replay: int = 0
    """Earlier writes of the episode that the meta-loss of a step also checks."""
    learn_initial_memory: bool = True
    """Train the memory's initial weights, or keep a random draw."""
    meta_coef: float = 1.0
    """Weight of the meta-loss (the paper's)."""

    def core_kwargs(self) -> dict[str, Any]:
        return super().core_kwargs() | {
            "write_rule": self.write_rule,
            "memory_layers": self.memory_layers,
            "heads": self.heads,
            "replay": self.replay,
            "learn_initial_memory": self.learn_initial_memory,
        }

    def algorithm_kwargs(self) -> dict[str, Any]:
        return {"meta_coef": self.meta_coef}

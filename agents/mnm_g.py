"""MNM-g: metalearned neural memory, written by a gradient step (Munkhdalai et al. 2019)."""

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from agents.agent import Agent


@dataclass(frozen=True, kw_only=True)
class MnmG(Agent):
    """MNM-g: a gated controller and a neural memory written by a gradient step."""

    name: ClassVar[str] = "mnm-g"
    policy: ClassVar[str] = "MnmPolicy"
    write_rule: ClassVar[str] = "g"

    ppo: ClassVar[dict[str, Any]] = {"learning_rate": 4e-3}
    a2c: ClassVar[dict[str, Any]] = {"learning_rate": 4e-3}

    variant: Literal["bounded", "paper"] = "bounded"
    """Bounded writes and a gated read, or both as in the paper (docs/mathematics.md)."""
    controller: Literal["gru", "lstm"] | None = None
    """GRU or LSTM; that of the variant if None."""
    read_gate: Literal["none", "scalar", "vector"] | None = None
    """Gate of what is read; that of the variant if None."""
    write_bias: float | None = None
    """Where the write strength begins, before its sigmoid; that of the variant if None."""
    read_bias: float | None = None
    """Where the gate of the read begins, before its sigmoid; that of the variant if None."""
    gain: float | None = None
    """Size of the weights that keys and values begin with; that of the variant if None."""
    memory_layers: int | None = None
    """Layers of the memory; those of the variant if None (2, in the paper 3)."""
    heads: int = 1
    """Writes and reads in a step (the paper's for the maze)."""
    replay: int = 0
    """Earlier writes of the episode that the meta-loss of a step also checks."""
    memory_size: int | None = None
    """Width of the memory, its keys and values; the variant's if None (32; paper: the core's)."""
    learn_initial_memory: bool = True
    """Train the memory's initial weights, or keep a random draw."""
    writes: bool = True
    """Write at all, or leave the memory as an episode begins (an ablation)."""

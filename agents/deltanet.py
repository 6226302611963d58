"""DeltaNet: linear fast weights written by the delta rule (Schlag, Irie and Schmidhuber 2021), with
the controller of MNM."""

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from agents.agent import Agent


@dataclass(frozen=True, kw_only=True)
class DeltaNet(Agent):
    """DeltaNet: an LSTM controller and linear fast weights written by the delta rule."""

    name: ClassVar[str] = "deltanet"
    policy: ClassVar[str] = "MnmPolicy"
    write_rule: ClassVar[str] = "delta"
    memory_layers: ClassVar[int] = 1

    a2c: ClassVar[dict[str, Any]] = {"learning_rate": 4e-3}

    variant: Literal["bounded", "paper"] = "paper"
    """Whether the read is gated, and how strong the first writes are (docs/mathematics.md)."""
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
    heads: int = 1
    """Writes and reads in a step."""
    memory_size: int | None = None
    """Width of the memory, of its keys and its values; that of the core if None."""
    learn_initial_memory: bool = True
    """Train the memory's initial weights, or keep a random draw."""

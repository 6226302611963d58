"""MNM-g as the paper has it: unbounded writes, a read without a gate (Munkhdalai et al. 2019)."""

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from agents.mnm_g import MnmG


@dataclass(frozen=True, kw_only=True)
class MnmGPaper(MnmG):
    """MNM-g as the paper has it, with unbounded writes and a read without a gate."""

    name: ClassVar[str] = "mnm-g-paper"
    ppo: ClassVar[dict[str, Any]] = {"learning_rate": 1e-3}
    a2c: ClassVar[dict[str, Any]] = {"learning_rate": 1e-3}

    variant: Literal["bounded", "paper"] = "paper"
    """Bounded writes and a gated read, or both as in the paper (docs/mathematics.md)."""

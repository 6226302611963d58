"""MNM-p as the paper has it: unbounded writes, a read without a gate (Munkhdalai et al. 2019)."""

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from agents.mnm_p import MnmP


@dataclass(frozen=True, kw_only=True)
class MnmPPaper(MnmP):
    """MNM-p as the paper has it, with unbounded writes and a read without a gate."""

    name: ClassVar[str] = "mnm-p-paper"
    ppo: ClassVar[dict[str, Any]] = {"learning_rate": 2e-3}
    a2c: ClassVar[dict[str, Any]] = {"learning_rate": 1e-3}

    variant: Literal["bounded", "paper"] = "paper"
    """Bounded writes and a gated read, or both as in the paper (docs/mathematics.md)."""

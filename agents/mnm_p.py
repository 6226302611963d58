"""MNM-p: metalearned neural memory, written by a learned local rule (Munkhdalai et al. 2019)."""

from dataclasses import dataclass
from typing import ClassVar, Literal

from agents.mnm_g import MnmG


@dataclass(frozen=True, kw_only=True)
class MnmP(MnmG):
    """MNM-p: a gated controller and a neural memory written by a learned local rule."""

    name: ClassVar[str] = "mnm-p"
    write_rule: ClassVar[str] = "p"

    feedback_inputs: Literal["value", "key_value"] = "value"
    """What the feedback maps see: the written value (the paper's), or the key as well."""

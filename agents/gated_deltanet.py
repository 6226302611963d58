"""Gated DeltaNet (Yang, Kautz and Hatamizadeh 2024): a DeltaNet with a gate of what stays."""

from dataclasses import dataclass
from typing import ClassVar

from agents.deltanet import DeltaNet


@dataclass(frozen=True, kw_only=True)
class GatedDeltaNet(DeltaNet):
    """Gated DeltaNet: a DeltaNet with a gate of what stays."""

    name: ClassVar[str] = "gated-deltanet"
    write_rule: ClassVar[str] = "gated-delta"

"""The write rules, by name; one file each."""

from typing import Literal

from mnm_rl.memory.rules.delta import DeltaRule
from mnm_rl.memory.rules.gated_delta import GatedDeltaRule
from mnm_rl.memory.rules.gradient import GradientRule
from mnm_rl.memory.rules.local import FeedbackInputs, LocalRule
from mnm_rl.memory.rules.rule import WriteRule

WriteRuleName = Literal["g", "p", "delta", "gated-delta"]
WRITE_RULES: dict[str, type[WriteRule]] = {
    "g": GradientRule,
    "p": LocalRule,
    "delta": DeltaRule,
    "gated-delta": GatedDeltaRule,
}


def of_one_layer(write_rule: str) -> bool:
    """Whether a write rule is for linear memories, of a single layer."""
    return issubclass(WRITE_RULES.get(write_rule, WriteRule), DeltaRule)


__all__ = [
    "WRITE_RULES",
    "DeltaRule",
    "FeedbackInputs",
    "GatedDeltaRule",
    "GradientRule",
    "LocalRule",
    "WriteRule",
    "WriteRuleName",
    "of_one_layer",
]

"""The write rules, by name; one file each."""

from typing import Literal

from mnm_rl.memory.rules.delta import DeltaRule
from mnm_rl.memory.rules.gradient import GradientRule
from mnm_rl.memory.rules.local import LocalRule
from mnm_rl.memory.rules.rule import FeedbackInputs, WriteRule

WriteRuleName = Literal["g", "p", "delta"]
WRITE_RULES: dict[str, type[WriteRule]] = {"g": GradientRule, "p": LocalRule, "delta": DeltaRule}

__all__ = ["WRITE_RULES", "DeltaRule", "FeedbackInputs", "GradientRule", "LocalRule", "WriteRule", "WriteRuleName"]

"""MNM-p: metalearned neural memory, written by a learned local rule (Munkhdalai et al. 2019)."""

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from agents.mnm_g import MnmG


@dataclass(frozen=True, kw_only=True)
class MnmP(MnmG):
    """MNM-p: an LSTM controller and a neural memory written by a learned local (perceptron) rule."""

    write_rule: ClassVar[str] = "p"

    feedback_inputs: Literal["value", "key_value"] = "value"
    """What the feedback maps see: the written value (the paper's), or the key as well."""

    def core_kwargs(self) -> dict[str, Any]:
        return super().core_kwargs() | {"feedback_inputs": self.feedback_inputs}

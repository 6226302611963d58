"""The gated delta rule (Yang, Kautz, Hatamizadeh 2024, *Gated Delta Networks*)."""

from typing import ClassVar

from mnm_rl.memory.rules.delta import DeltaRule


class GatedDeltaRule(DeltaRule):
    """The delta rule, and a gate of what stays:
    ``W_t = alpha_t (W_(t-1) + beta_t/H * sum_h (v_h - W_(t-1) k_h) k_h^T)``.

    Error signals and step sizes are those of the delta rule; ``alpha_t`` in (0, 1) comes with each
    write.
    """

    gated: ClassVar[bool] = True

"""What models that earlier versions wrote left unsaid."""

from typing import Any

from stable_baselines3.common.policies import BasePolicy

from mnm_rl.cores import MnmCore

BEFORE_VARIANTS = "0.1.0"
"""The version whose MNM was that of the paper, the only one."""


def policy_kwargs_of(
    version: str, policy_class: type[BasePolicy], policy_kwargs: dict[str, Any]
) -> dict[str, Any]:
    """The arguments of a policy that ``version`` wrote, with what is another default today."""
    core_class = policy_kwargs.get("core_class") or getattr(policy_class, "core_class", None)
    if version != BEFORE_VARIANTS or not (
        isinstance(core_class, type) and issubclass(core_class, MnmCore)
    ):
        return policy_kwargs
    return {"variant": "paper"} | policy_kwargs

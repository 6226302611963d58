"""Models that earlier versions wrote."""

import sys
from collections.abc import Callable
from typing import Any, TypeVar

from stable_baselines3.common.policies import BasePolicy

from mnm_rl.cores import MnmCore

ModelT = TypeVar("ModelT")

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


def load(read: Callable[..., ModelT], *arguments: Any, **kwargs: Any) -> ModelT:
    """Load a model of version 0.1.0, which did not yet write its version, with ``read``.

    Its training goes on as it began, without normalized returns.
    """
    moved = {
        "mnm_rl.a2c.policies": "mnm_rl.algorithms.policies",
        "mnm_rl.a2c.buffers": "mnm_rl.algorithms.buffers",
        "mnm_rl.cores.recurrent": "mnm_rl.cores",
    }
    for before, now in moved.items():
        sys.modules.setdefault(before, sys.modules[now])
    model: Any = read(*arguments, **{"mnm_rl_version": "0.1.0"} | kwargs)
    model.policy_kwargs = {**model.policy_kwargs, "popart": False}
    model.policy.asked_popart = False
    return model  # type: ignore[no-any-return]

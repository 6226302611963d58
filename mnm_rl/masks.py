"""Action masks: which actions an environment allows, by the conventions of sb3-contrib's ``MaskablePPO`` and of Gymnasium.

A mask is an array of bool, true where an action may be taken: ``[n]`` for Discrete, ``[sum(nvec)]`` for MultiDiscrete, the actions
of each part one after the other, and ``[2 n]`` for MultiBinary, "may be 0" and "may be 1" for each number.
"""

from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from numpy.typing import NDArray
from stable_baselines3.common.distributions import (
    BernoulliDistribution,
    CategoricalDistribution,
    Distribution,
    MultiCategoricalDistribution,
)
from stable_baselines3.common.vec_env import VecEnv
from torch import Tensor
from torch.distributions import Bernoulli, Categorical

METHOD = "action_masks"
"""The method of an environment that gives its mask (sb3-contrib's name)."""

KEY = "action_mask"
"""What its ``info`` holds it under (Gymnasium's name)."""


def has_action_masks(env: VecEnv) -> bool:
    """Whether every environment says which actions it allows. Where they do so in their ``info``, as Gymnasium's vector
    environments do, this is known from the first ``reset`` on."""
    return env.has_attr(METHOD)


def action_masks(env: VecEnv, space: spaces.Space[Any]) -> NDArray[np.bool_]:
    """The masks of all environments as they are now, ``[n_envs, width]``.

    Raises:
        ValueError: if one has another shape than the action space asks for, or allows no action; the message names the
            environment.
    """
    return checked(env.env_method(METHOD), space, env.num_envs)


def checked(masks: Any, space: spaces.Space[Any], n: int) -> NDArray[np.bool_]:
    """Masks of n environments as ``[n, width]``; a single one may come without its first dimension.

    Raises:
        ValueError: if they do not fit the action space, or one allows no action.
    """
    sizes = choices(space)
    width = int(sizes.sum())
    rows = masks if len(masks) and np.ndim(masks[0]) > 0 else [masks]
    if len(rows) != n:
        raise ValueError(f"there must be an action mask for each of the {n} environments, got {len(rows)}")
    for i, row in enumerate(rows):
        if np.size(row) != width:
            raise ValueError(f"the action mask of environment {i} must hold {width} numbers for {space}, got {np.size(row)}")
    whole = np.asarray(rows, dtype=bool).reshape(n, width)
    possible = np.logical_or.reduceat(whole, np.cumsum(sizes) - sizes, axis=1)
    if not possible.all():
        i, part = np.argwhere(~possible)[0]
        of_part = "" if isinstance(space, spaces.Discrete) else f" in part {part} of {space}"
        raise ValueError(f"environment {i} allows no action{of_part}: its action mask is {whole[i].astype(int).tolist()}")
    return whole


def choices(space: spaces.Space[Any]) -> NDArray[np.int64]:
    """How many values each part of an action has.

    Raises:
        ValueError: if the actions are not choices.
    """
    if isinstance(space, spaces.Discrete):
        return np.array([space.n])
    if isinstance(space, spaces.MultiDiscrete):
        return np.array(space.nvec, dtype=np.int64)
    if isinstance(space, spaces.MultiBinary):
        return np.full(space.shape[0], 2)
    raise ValueError(f"action masks are for Discrete, MultiDiscrete and MultiBinary actions, not for {space}")


def mask_logits(logits: Tensor, masks: Tensor) -> Tensor:
    """Logits ``[..., n]`` whose softmax is exactly zero where ``masks [..., n]`` is false. They are finite all the same: infinities
    would make entropy and gradients NaN."""
    return logits.masked_fill(~masks, torch.finfo(logits.dtype).min)


def mask_distribution(dist: Distribution, masks: Tensor) -> Distribution:
    """The distribution with probability zero for what ``masks [B, width]`` does not allow, made in place.

    Raises:
        ValueError: if it is not one of choices.
    """
    if hasattr(dist, "apply_masking"):  # one of sb3-contrib's
        dist.apply_masking(masks)
    elif isinstance(dist, CategoricalDistribution):
        dist.distribution = Categorical(logits=mask_logits(dist.distribution.logits, masks))
    elif isinstance(dist, MultiCategoricalDistribution):
        parts = zip(dist.distribution, torch.split(masks, list(dist.action_dims), dim=1), strict=True)
        dist.distribution = [Categorical(logits=mask_logits(part.logits, mask)) for part, mask in parts]
    elif isinstance(dist, BernoulliDistribution):
        logits, may_be = dist.distribution.logits, masks.view(len(masks), -1, 2)
        highest = torch.finfo(logits.dtype).max
        only_0 = logits.masked_fill(~may_be[..., 1], -highest)
        dist.distribution = Bernoulli(logits=only_0.masked_fill(~may_be[..., 0], highest))
    else:
        raise ValueError(f"action masks are for distributions of choices, not for a {type(dist).__name__}")
    return dist

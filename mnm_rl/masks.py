"""Action masks, with the conventions of sb3-contrib's ``MaskablePPO`` and of Gymnasium.

A mask is an array of bool, true for each action that the environment allows. Its shape is ``[n]``
for Discrete and ``[sum(nvec)]`` for MultiDiscrete, the actions of each part one after the other.
For MultiBinary the shape is ``[2 n]``, "may be 0" and "may be 1" for each number.
"""

from typing import Any

import gymnasium as gym
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
from stable_baselines3.common.vec_env import VecEnv, VecEnvWrapper
from torch import Tensor
from torch.distributions import Bernoulli, Categorical

METHOD = "action_masks"
"""The method of an environment that gives its mask (sb3-contrib's name)."""

KEY = "action_mask"
"""What its ``info`` holds it under (Gymnasium's name)."""


def has_action_masks(env: VecEnv) -> bool:
    """Whether the environments have action masks.

    If the masks are in ``info``, as in Gymnasium's vector environments, the answer is known after
    the first ``reset``.

    Raises:
        ValueError: if only some environments have masks, or if the attribute for masks is not a
            method.
    """
    try:
        has = env.has_attr(METHOD)
        if has and type(innermost(env)).has_attr is VecEnv.has_attr:
            # That only looks whether get_attr raises, and some of the users' own give None for
            # anything.
            has = any(method is not None for method in env.get_attr(METHOD) or ())
    except (NotImplementedError, AttributeError):  # a VecEnv of the user's own need not know
        return False
    methods = [_attribute(single) for single in _single_envs(env)]
    for i, method in enumerate(methods):
        if method is not None and not callable(method):
            kind = type(method).__name__
            raise ValueError(
                f"{METHOD} of environment {i} must be a method that gives its mask, and is a {kind}"
            )
    if not has and any(methods):
        raise ValueError(
            f"environment {methods.index(None)} has no method {METHOD}, and others have one: add "
            "one that allows "
            "everything, or switch masking off with use_masking=False"
        )
    return has


def heeds(env: VecEnv, use_masking: bool | None) -> bool:
    """Whether to apply the masks of the environments.

    ``use_masking`` None applies masks if there are any, True requires masks, and False ignores
    masks.

    Raises:
        ValueError: as :func:`has_action_masks`, and if masks are required but missing.
    """
    has = use_masking is not False and has_action_masks(env)
    if use_masking and not has:
        raise ValueError(
            f"use_masking=True needs environments with a method {METHOD}, or Gymnasium vector "
            "environments with "
            f"info[{KEY!r}] from reset on, and these have none"
        )
    return has


def innermost(env: VecEnv) -> VecEnv:
    """Return what is inside all wrappers.

    ``unwrapped`` gives the same, but not of wrappers that were built without Stable-Baselines3's
    constructor, such as SuperSuit's.
    """
    while isinstance(env, VecEnvWrapper):
        env = env.venv
    return env


def _single_envs(env: VecEnv) -> list[gym.Env[Any, Any]]:
    """Return the environments of a DummyVecEnv or a SyncVectorEnv.

    For other vectorized environments, the list is empty.
    """
    base = innermost(env)
    inner = getattr(base, "env", base)
    envs = getattr(getattr(inner, "unwrapped", inner), "envs", None)
    return (
        [one for one in envs if isinstance(one, gym.Env)] if isinstance(envs, list | tuple) else []
    )


def _attribute(env: gym.Env[Any, Any]) -> Any:
    try:
        return env.get_wrapper_attr(METHOD)
    except AttributeError:
        return None


def action_masks(env: VecEnv, space: spaces.Space[Any]) -> NDArray[np.bool_]:
    """Return the current masks of all environments, ``[n_envs, width]``.

    An environment whose mask is None allows everything.

    Raises:
        ValueError: if the shape of a mask does not fit the action space, or a mask allows no
            action. The message names the environment.
    """
    # before environments are asked, which know as little of masks for other actions
    everything = np.ones(choices(space).sum(), bool)
    masks = env.env_method(METHOD)
    if isinstance(masks, list | tuple):
        masks = [everything if mask is None else mask for mask in masks]
    return checked(masks, space, env.num_envs)


def checked(masks: Any, space: spaces.Space[Any], n: int) -> NDArray[np.bool_]:
    """Validate the masks of n environments, and return a copy ``[n, width]``.

    A single mask may lack the first dimension. Arrays, tensors and lists are accepted, of bool or
    of numbers that are 0 or 1. The mask of an environment may have several parts, such as the tuple
    of arrays that Gymnasium's MultiDiscrete accepts for sampling.

    Raises:
        ValueError: if the masks do not fit the action space, contain anything else, or if a mask
            allows no action.
    """
    sizes = choices(space)
    width = int(sizes.sum())
    rows = _rows(masks, n, width)
    if len(rows) != n:
        raise ValueError(
            f"there must be an action mask for each of the {n} environments, got {len(rows)}"
        )
    for i, row in enumerate(rows):
        if row.size != width:
            got = row.size if row.dtype.kind in "biuf" else row.tolist()
            raise ValueError(
                f"the action mask of environment {i} must hold {width} numbers for {space}, got "
                f"{got}"
            )
    # a copy: environments may use theirs again
    whole = np.array([truths(row, i) for i, row in enumerate(rows)])
    possible = np.logical_or.reduceat(whole, np.cumsum(sizes) - sizes, axis=1)
    if not possible.all():
        i, part = np.argwhere(~possible)[0]
        of_part = "" if isinstance(space, spaces.Discrete) else f" in part {part} of {space}"
        raise ValueError(
            f"environment {i} allows no action{of_part}: its action mask is "
            f"{whole[i].astype(int).tolist()}"
        )
    return whole


_ARRAYS = (np.ndarray, Tensor, list, tuple)


def _rows(masks: Any, n: int, width: int) -> list[NDArray[Any]]:
    """Split the masks of n environments, or of one, into flat arrays."""
    if n == 1 and (one := flat(masks)).size == width:
        return [one]
    if not isinstance(masks, _ARRAYS) or getattr(masks, "ndim", 1) == 0:
        raise ValueError(
            f"action masks must be arrays of bool, one for each environment, got {masks!r}"
        )
    alone = width > 1 and not any(isinstance(row, _ARRAYS) or row is None for row in masks)
    return [flat(masks)] if alone else [flat(row) for row in masks]


def flat(mask: Any) -> NDArray[Any]:
    """Return the numbers of one mask, ``[width]``, from any nesting of parts."""
    if isinstance(mask, Tensor):
        mask = mask.detach().cpu().numpy()
    nested = isinstance(mask, list | tuple) or (
        isinstance(mask, np.ndarray) and mask.dtype == object and mask.ndim > 0
    )
    if nested and any(isinstance(part, _ARRAYS) for part in mask):
        return np.concatenate([flat(part) for part in mask])
    return np.ravel(mask)


def truths(mask: NDArray[Any], i: int = 0) -> NDArray[np.bool_]:
    """Return the flat mask of environment i as bool.

    Raises:
        ValueError: if a number is neither 0 nor 1. Examples are NaN, and additive masks for logits
            with zeros and infinities.
    """
    if mask.dtype != bool and not np.all((mask == 0) | (mask == 1)):
        raise ValueError(
            f"the action mask of environment {i} must hold 1 or 0, true or false, got "
            f"{mask.tolist()}"
        )
    return mask.astype(bool, copy=False)


def choices(space: spaces.Space[Any]) -> NDArray[np.int64]:
    """Return the number of values of each part of an action.

    Raises:
        ValueError: if the actions are not choices.
    """
    if isinstance(space, spaces.Discrete):
        return np.array([space.n])
    if isinstance(space, spaces.MultiDiscrete):
        return np.array(space.nvec, dtype=np.int64)
    if isinstance(space, spaces.MultiBinary):
        return np.full(space.shape[0], 2)
    raise ValueError(
        f"action masks are for Discrete, MultiDiscrete and MultiBinary actions, not for {space}; "
        "use_masking=False ignores them"
    )


def mask_logits(logits: Tensor, masks: Tensor) -> Tensor:
    """Return logits ``[..., n]`` whose softmax is exactly zero where ``masks [..., n]`` is false.

    These logits are finite, because infinities would make entropy and gradients NaN.
    """
    return logits.masked_fill(~masks, torch.finfo(logits.dtype).min)


def mask_distribution(dist: Distribution, masks: Tensor) -> Distribution:
    """Set the probability to zero, in place, for all actions that ``masks [B, width]`` forbids.

    Returns:
        the same distribution.

    Raises:
        ValueError: if the distribution is not over choices.
    """
    if hasattr(dist, "apply_masking"):  # one of sb3-contrib's
        dist.apply_masking(masks)
    elif isinstance(dist, CategoricalDistribution):
        dist.distribution = Categorical(logits=mask_logits(dist.distribution.logits, masks))
    elif isinstance(dist, MultiCategoricalDistribution):
        parts = zip(
            dist.distribution, torch.split(masks, list(dist.action_dims), dim=1), strict=True
        )
        dist.distribution = [
            Categorical(logits=mask_logits(part.logits, mask)) for part, mask in parts
        ]
    elif isinstance(dist, BernoulliDistribution):
        logits, may_be = dist.distribution.logits, masks.view(len(masks), -1, 2)
        highest = torch.finfo(logits.dtype).max
        only_0 = logits.masked_fill(~may_be[..., 1], -highest)
        dist.distribution = Bernoulli(logits=only_0.masked_fill(~may_be[..., 0], highest))
    else:
        raise ValueError(
            f"action masks are for distributions of choices, not for a {type(dist).__name__}"
        )
    return dist

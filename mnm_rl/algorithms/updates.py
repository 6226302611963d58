"""What the updates of all on-policy algorithms have in common, as functions."""

import math

import torch
from gymnasium import spaces
from stable_baselines3.common.logger import Logger
from stable_baselines3.common.utils import explained_variance
from torch import Tensor
from torch.nn import functional as F
from torch.nn.utils import parameters_to_vector

from mnm_rl.algorithms import distributed
from mnm_rl.algorithms.buffers import RecurrentRolloutBuffer, RolloutSequence
from mnm_rl.algorithms.checks import NotFiniteError
from mnm_rl.algorithms.recurrent_policy import RecurrentActorCriticPolicy


def evaluate(
    policy: RecurrentActorCriticPolicy, rollout: RolloutSequence
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Evaluate the policy on the steps to learn from, with gradient.

    Args:
        policy: the policy.
        rollout: the rollout, or a part of it.

    Returns:
        values ``[T, B]``, or ``[n]`` if there is nothing to learn from some of the steps
        log-probabilities of the actions, in the same shape
        entropies; minus the log-probabilities if the distribution has no closed form
        meta-loss

    Raises:
        NotFiniteError: if the policy's outputs are NaN or infinite.
    """
    actions = rollout.actions
    if isinstance(policy.action_space, spaces.Discrete):
        actions = actions.long().squeeze(-1)
    values, log_prob, entropy, meta_loss = policy.evaluate(
        rollout.observations,
        actions,
        rollout.initial_state,
        rollout.episode_starts,
        rollout.recording,
        rollout.action_masks,
    )
    values, log_prob, meta_loss = map(rollout.to_learn, (values, log_prob, meta_loss))
    return (
        values,
        log_prob,
        -log_prob if entropy is None else rollout.to_learn(entropy),
        meta_loss,
    )


def scale_advantages(advantages: Tensor, return_std: Tensor, normalize: bool) -> Tensor:
    """Scale advantages to mean 0 and standard deviation 1 (a single one stays as it is).

    Without ``normalize``, the unit is the standard deviation of the returns if the policy
    normalizes these (Hessel et al. 2019).
    """
    if not normalize or advantages.numel() * distributed.world_size() == 1:
        return advantages / return_std
    mean, std = distributed.mean_and_std(advantages)
    return (advantages - mean) / (std + 1e-8)


def value_loss(values: Tensor, returns: Tensor, return_std: Tensor) -> Tensor:
    """Mean squared error, in units of the standard deviation of the returns if the policy
    normalizes these."""
    # not divided later: squares of what is large overflow
    return F.mse_loss(returns / return_std, values / return_std)


def total_loss(
    losses: dict[str, Tensor], ent_coef: float, vf_coef: float, meta_coef: float
) -> Tensor:
    """Weighted sum of ``policy_loss``, ``entropy_loss``, ``value_loss`` and ``meta_loss``."""
    return (
        losses["policy_loss"]
        + ent_coef * losses["entropy_loss"]
        + vf_coef * losses["value_loss"]
        + meta_coef * losses["meta_loss"]
    )


def gradient_step(
    policy: RecurrentActorCriticPolicy,
    loss: Tensor,
    losses: dict[str, Tensor],
    max_grad_norm: float,
) -> Tensor:
    """Take one step of the optimizer down the clipped gradient of the loss.

    Args:
        policy: the policy.
        loss: a scalar.
        losses: the parts of the loss, scalars by name, for error messages.
        max_grad_norm: larger gradients are scaled down to this norm.

    Returns:
        the norm of the gradient before it was clipped, a scalar

    Raises:
        NotFiniteError: if a loss, the gradient or the new parameters are NaN or infinite. The
            parameters stay unchanged.
    """
    if not math.isfinite(loss.item()):
        name, value = next(
            ((n, v) for n, v in losses.items() if not v.isfinite()), ("the loss", loss)
        )
        raise NotFiniteError(f"{name} became {value.item()}")
    parameters = list(policy.parameters())
    policy.optimizer.zero_grad()
    loss.backward()  # type: ignore[no-untyped-call]
    distributed.average([p.grad for p in parameters if p.grad is not None])
    grad_norm = torch.nn.utils.clip_grad_norm_(parameters, max_grad_norm)
    if not math.isfinite(grad_norm.item()):
        raise NotFiniteError(f"the gradient norm became {grad_norm.item()}")
    with torch.no_grad():
        before = parameters_to_vector(parameters)
        policy.optimizer.step()
        if not parameters_to_vector(parameters).isfinite().all():
            for p, good in zip(
                parameters, torch.split(before, [p.numel() for p in parameters]), strict=True
            ):
                p.copy_(good.view_as(p))
            raise NotFiniteError("the parameters became NaN or infinite")
    return grad_norm


def log_update(
    logger: Logger,
    policy: RecurrentActorCriticPolicy,
    buffer: RecurrentRolloutBuffer,
    n_updates: int,
    scalars: dict[str, Tensor],
) -> None:
    """Log ``train/NAME`` for these scalars, the diagnostics of the core, and the statistics that
    every algorithm has."""
    logger.record("train/n_updates", n_updates, exclude="tensorboard")
    logger.record(
        "train/explained_variance",
        explained_variance(buffer.values.flatten(), buffer.returns.flatten()),
    )
    for name, value in scalars.items():
        logger.record(f"train/{name}", value.item())
    for name, value in policy.core.diagnostics.items():
        logger.record(name, value.item())
    if policy.normalizes_returns:
        logger.record("train/return_mean", policy.popart.mean.item())
        logger.record("train/return_std", policy.popart.std.item())
    if hasattr(policy, "log_std"):
        logger.record("train/std", torch.exp(policy.log_std).mean().item())

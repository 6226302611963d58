"""Proximal policy optimization for recurrent policies, as a Stable-Baselines3 algorithm."""

from collections.abc import Iterable
from numbers import Real
from typing import Any, ClassVar, Literal, Self, cast

import torch
from stable_baselines3.common.buffers import RolloutBuffer
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.type_aliases import GymEnv, MaybeCallback, Schedule
from stable_baselines3.common.utils import FloatSchedule
from stable_baselines3.common.vec_env import VecEnv
from torch import Tensor

from mnm_rl.algorithms import distributed
from mnm_rl.algorithms.buffers import RolloutSequence
from mnm_rl.algorithms.checks import divergence_at
from mnm_rl.algorithms.on_policy import RecurrentOnPolicyAlgorithm
from mnm_rl.algorithms.recurrent_policy import RecurrentActorCriticPolicy
from mnm_rl.algorithms.updates import (
    evaluate,
    gradient_step,
    log_update,
    scale_advantages,
    total_loss,
    value_loss,
)


class RecurrentPPO(RecurrentOnPolicyAlgorithm):
    """Proximal policy optimization (PPO, Schulman et al. 2017) for policies with a recurrent core.

    The arguments have the names and the defaults of sb3-contrib's ``RecurrentPPO``, except for
    ``learning_rate`` and ``target_kl``. Their defaults depend on the policy, and are those of
    sb3-contrib only for policies with sb3-contrib's names. ``meta_coef`` is new. The loss is

        L = L_clip + vf_coef * L_value - ent_coef * entropy + meta_coef * mean(l_t),

    where ``l_t`` is the meta-loss of the core (Munkhdalai et al. 2019, section 3.3). It is zero for
    cores without a meta-loss.

    A minibatch holds ``batch_size`` steps, as whole sequences of some environments, for
    backpropagation through time. Choose a multiple of ``n_steps``. Any other size cuts sequences.
    A cut sequence resumes from the recurrent state that the rollout had at that step.

    Args:
        policy: ``"MnmPolicy"``, ``"LstmPolicy"`` or another of ``policy_aliases``, or a policy
            class.
        env: a Gymnasium environment, its id, a Gymnasium ``VectorEnv``, or a Stable-Baselines3
            ``VecEnv``.
        learning_rate: a number, or a function of the remaining progress (from 1 to 0). ``"auto"``
            selects the rate that was tuned for the policy (see its ``ppo_defaults``).
        n_steps: rollout length per environment, and the length of backpropagation through time.
        batch_size: steps in a minibatch, or None for the whole rollout. If several processes share
            the training, this is the total over all processes.
        n_epochs: number of passes over the rollout in each update.
        gamma: discount factor.
        gae_lambda: trade-off between bias and variance of the advantages.
        clip_range: change of an action's probability beyond which the gradient is zero. A number,
            or a function of the remaining progress.
        clip_range_vf: the same for a change of the value; None disables clipping. The unit is that
            of the rewards. If the policy normalizes the returns, the unit is their standard
            deviation.
        normalize_advantage: scale the advantages of a minibatch to mean 0 and standard deviation 1.
        ent_coef: weight of the entropy bonus.
        vf_coef: weight of the value loss.
        max_grad_norm: maximum norm of the gradient. Larger gradients are scaled down.
        use_sde: generalized state-dependent exploration, for Box actions.
        sde_sample_freq: steps between new exploration matrices; -1 for once per rollout.
        target_kl: limit for the estimated divergence from the policy of the rollout. An update ends
            before the first minibatch whose divergence exceeds 1.5 times this limit. None disables
            the limit. ``"auto"`` selects the policy's own limit (0.05; None for policies with
            sb3-contrib's names).
        stats_window_size: number of episodes over which logged means are taken.
        tensorboard_log: directory of the TensorBoard logs.
        policy_kwargs: arguments of the policy, such as ``{"write_rule": "g", "hidden_size": 64}``.
        verbose: 0 for no output, 1 for information, 2 for more.
        seed: seed of all random number generators.
        device: ``"cpu"``, ``"cuda"`` or ``"auto"``.
        meta_coef: weight of the meta-loss.

    Raises:
        ValueError: if the environment's spaces are not supported, or an argument is out of range.
        TrainingDivergedError: from ``learn``, if a reward, observation, output, loss, gradient or
            parameter is NaN or infinite.
    """

    short_name: ClassVar[str] = "ppo"

    def __init__(
        self,
        policy: str | type[RecurrentActorCriticPolicy],
        env: GymEnv | str,
        learning_rate: float | Schedule | Literal["auto"] = "auto",
        n_steps: int = 128,
        batch_size: int | None = 128,
        n_epochs: int = 10,
        gamma: float = 0.99,
        gae_lambda: float = 0.95,
        clip_range: float | Schedule = 0.2,
        clip_range_vf: float | Schedule | None = None,
        normalize_advantage: bool = True,
        ent_coef: float = 0.0,
        vf_coef: float = 0.5,
        max_grad_norm: float = 0.5,
        use_sde: bool = False,
        sde_sample_freq: int = -1,
        target_kl: float | Literal["auto"] | None = "auto",
        stats_window_size: int = 100,
        tensorboard_log: str | None = None,
        policy_kwargs: dict[str, Any] | None = None,
        verbose: int = 0,
        seed: int | None = None,
        device: torch.device | str = "auto",
        meta_coef: float = 1.0,
        _init_setup_model: bool = True,
    ) -> None:
        for name, number in (("batch_size", batch_size), ("n_epochs", n_epochs)):
            if number is not None and number < 1:
                raise ValueError(f"{name} must be at least 1, got {number}")
        for name, bound in (("clip_range", clip_range), ("clip_range_vf", clip_range_vf)):
            if bound is None or callable(bound):
                continue
            if not isinstance(cast(Any, bound), Real):
                raise TypeError(f"{name} must be a number or a function, got {bound!r}")
            if bound <= 0:
                raise ValueError(f"{name} must be positive, got {bound}")
        self.batch_size = batch_size
        self.n_epochs = n_epochs
        self.clip_range = clip_range
        self.clip_range_vf = clip_range_vf
        self.target_kl: float | None = cast(Any, target_kl)  # _setup_model knows what "auto" is
        super().__init__(
            policy,
            env,
            learning_rate=learning_rate,
            n_steps=n_steps,
            gamma=gamma,
            gae_lambda=gae_lambda,
            ent_coef=ent_coef,
            vf_coef=vf_coef,
            max_grad_norm=max_grad_norm,
            use_sde=use_sde,
            sde_sample_freq=sde_sample_freq,
            normalize_advantage=normalize_advantage,
            meta_coef=meta_coef,
            stats_window_size=stats_window_size,
            tensorboard_log=tensorboard_log,
            policy_kwargs=policy_kwargs,
            verbose=verbose,
            seed=seed,
            device=device,
            _init_setup_model=_init_setup_model,
        )

    def _setup_model(self) -> None:
        if issubclass(self.policy_class, RecurrentActorCriticPolicy):  # others are refused
            given = self.policy_kwargs
            ours = self.policy_class.ppo_defaults((given.get("core_kwargs") or {}) | given)
            defaults = RecurrentActorCriticPolicy.ppo_defaults(given) | ours
            for name in ("learning_rate", "target_kl"):
                if getattr(self, name) == "auto":
                    setattr(self, name, defaults[name])
            target_kl: Any = self.target_kl
            if target_kl is not None and not isinstance(target_kl, Real):
                raise ValueError(f"target_kl must be a number, None or 'auto', got {target_kl!r}")
        super()._setup_model()

    def collect_rollouts(
        self,
        env: VecEnv,
        callback: BaseCallback,
        rollout_buffer: RolloutBuffer,
        n_rollout_steps: int,
    ) -> bool:
        self.rollout_buffer.batch_size = self.batch_size and distributed.share(
            self.batch_size, "the steps of a minibatch"
        )
        return super().collect_rollouts(env, callback, rollout_buffer, n_rollout_steps)

    def train(self) -> None:
        """Pass over the rollout ``n_epochs`` times, with one gradient step per minibatch.

        Raises:
            TrainingDivergedError: if a loss, the gradient or the new parameters are NaN or
                infinite. The parameters stay unchanged.
        """
        policy, rollout = self.policy, self.rollout_buffer.sequence()
        policy.set_training_mode(True)
        self._update_learning_rate(policy.optimizer)
        policy.take_in_returns(rollout.to_learn(rollout.returns))
        clip_range, clip_range_vf = self._now(self.clip_range), self._now(self.clip_range_vf)

        updates: list[dict[str, Tensor]] = []
        too_far = False
        for epoch in range(self.n_epochs):
            approx_kls = []
            for minibatch in rollout.minibatches(self.rollout_buffer.batch_size):
                with divergence_at(self.num_timesteps):
                    losses, log_ratio = clipped_losses(
                        policy, minibatch, clip_range, clip_range_vf, self.normalize_advantage
                    )
                if not updates:
                    policy.compare(log_ratio)
                ratio = log_ratio.exp()
                # http://joschu.net/blog/kl-approx.html
                approx_kl = (ratio - 1 - log_ratio).mean()
                if self.target_kl is not None:
                    approx_kl = distributed.mean(approx_kl)  # all stop together
                    too_far = approx_kl.item() > 1.5 * self.target_kl
                approx_kls.append(approx_kl)
                updates.append({name: value.detach() for name, value in losses.items()})
                updates[-1]["clip_fraction"] = ((ratio - 1).abs() > clip_range).float().mean()
                if too_far:
                    if self.verbose >= 1:
                        print(
                            f"Early stopping at step {epoch} due to reaching max kl: "
                            f"{approx_kl.item():.2f}"
                        )
                    break
                loss = total_loss(losses, self.ent_coef, self.vf_coef, self.meta_coef)
                with divergence_at(self.num_timesteps):
                    grad_norm = gradient_step(policy, loss, losses, self.max_grad_norm)
                updates[-1]["grad_norm"] = grad_norm
            self._n_updates += 1
            if too_far:
                break

        means = {
            name: torch.stack([u[name] for u in updates if name in u]).mean() for name in updates[0]
        }
        means["policy_gradient_loss"] = means.pop("policy_loss")
        means["approx_kl"] = torch.stack(approx_kls).mean()
        means["loss"] = total_loss(updates[-1], self.ent_coef, self.vf_coef, self.meta_coef)
        log_update(self.logger, policy, self.rollout_buffer, self._n_updates, means)
        self.logger.record("train/clip_range", clip_range)
        if clip_range_vf is not None:
            self.logger.record("train/clip_range_vf", clip_range_vf)

    def _now(self, schedule: Any) -> Any:
        """The value of a schedule, or of a number, now; None if there is none."""
        if schedule is None:
            return None
        return FloatSchedule(schedule)(self._current_progress_remaining)

    def learn(
        self,
        total_timesteps: int,
        callback: MaybeCallback = None,
        log_interval: int = 1,
        tb_log_name: str | None = None,
        reset_num_timesteps: bool = True,
        progress_bar: bool = False,
        use_masking: bool | None = None,
    ) -> Self:
        """Train like :meth:`mnm_rl.RecurrentA2C.learn`, with a log row per rollout."""
        return super().learn(
            total_timesteps,
            callback,
            log_interval,
            tb_log_name,
            reset_num_timesteps,
            progress_bar,
            use_masking,
        )


def clipped_losses(
    policy: RecurrentActorCriticPolicy,
    minibatch: list[RolloutSequence],
    clip_range: float,
    clip_range_vf: float | None,
    normalize_advantage: bool,
) -> tuple[dict[str, Tensor], Tensor]:
    """Compute the losses of a minibatch.

    Args:
        policy: the policy.
        minibatch: sequences of the rollout.
        clip_range: change of an action's probability beyond which the gradient is zero.
        clip_range_vf: the same for a change of the value; None disables clipping.
        normalize_advantage: scale the advantages to mean 0 and standard deviation 1.

    Returns:
        the losses, scalars by name
        log-probabilities of the actions minus those in the rollout, ``[n]``, without gradient
    """
    values, log_prob, entropy, meta_loss = map(
        _joined, zip(*(evaluate(policy, sequence) for sequence in minibatch), strict=True)
    )
    old_values, old_log_prob, advantages, returns = (
        _joined(sequence.to_learn(getattr(sequence, name)) for sequence in minibatch)
        for name in ("values", "log_prob", "advantages", "returns")
    )
    advantages = scale_advantages(advantages, policy.return_std, normalize_advantage)
    log_ratio = log_prob - old_log_prob
    ratio = log_ratio.exp()
    if clip_range_vf is not None:
        clip_range_vf *= policy.return_std.item()
        values = old_values + (values - old_values).clamp(-clip_range_vf, clip_range_vf)
    losses = {
        "policy_loss": -torch.min(
            advantages * ratio, advantages * ratio.clamp(1 - clip_range, 1 + clip_range)
        ).mean(),
        "value_loss": value_loss(values, returns, policy.return_std),
        "entropy_loss": -entropy.mean(),
        "meta_loss": meta_loss.mean(),
    }
    return losses, log_ratio.detach()


def _joined(parts: Iterable[Tensor]) -> Tensor:
    return torch.cat([part.flatten() for part in parts])

"""Advantage actor-critic for recurrent policies, as a Stable-Baselines3 algorithm."""

from typing import Any, ClassVar

import torch
from stable_baselines3.common.type_aliases import GymEnv, Schedule

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


class RecurrentA2C(RecurrentOnPolicyAlgorithm):
    """Advantage actor-critic (A2C, Mnih et al. 2016) for policies with a recurrent core.

    The arguments have the names and the defaults of Stable-Baselines3's ``A2C``. ``meta_coef`` is
    new. One rollout of ``n_steps`` in every environment is one sequence for backpropagation through
    time. It starts from the recurrent state at the start of the rollout. Advantages are GAE
    (Schulman et al. 2016). The loss is

        L = L_policy + vf_coef * L_value - ent_coef * entropy + meta_coef * mean(l_t),

    where ``l_t`` is the meta-loss of the core (Munkhdalai et al. 2019, section 3.3). It is zero for
    cores without a meta-loss.

    Args:
        policy: ``"MnmPolicy"``, ``"LstmPolicy"`` or another of ``policy_aliases``, or a policy
            class.
        env: a Gymnasium environment, its id, a Gymnasium ``VectorEnv``, or a Stable-Baselines3
            ``VecEnv``.
        learning_rate: a number, or a function of the remaining progress (from 1 to 0).
        n_steps: rollout length per environment, and the length of backpropagation through time.
        gamma: discount factor.
        gae_lambda: trade-off between bias and variance of the advantages.
        ent_coef: weight of the entropy bonus.
        vf_coef: weight of the value loss.
        max_grad_norm: maximum norm of the gradient. Larger gradients are scaled down.
        rms_prop_eps: epsilon of RMSprop.
        use_rms_prop: train with RMSprop (default) instead of Adam.
        use_sde: generalized state-dependent exploration, for Box actions.
        sde_sample_freq: steps between new exploration matrices; -1 for once per rollout.
        normalize_advantage: scale the advantages of a rollout to mean 0 and standard deviation 1.
        stats_window_size: number of episodes over which logged means are taken.
        tensorboard_log: directory of the TensorBoard logs.
        policy_kwargs: arguments of the policy, such as ``{"write_rule": "g", "hidden_size": 64}``.
        verbose: 0 for no output, 1 for information, 2 for more.
        seed: seed of all random number generators.
        device: ``"cpu"``, ``"cuda"`` or ``"auto"``.
        meta_coef: weight of the meta-loss.

    Raises:
        ValueError: if the environment's spaces are not supported.
        TrainingDivergedError: from ``learn``, if a reward, observation, output, loss, gradient or
            parameter is NaN or infinite.
    """

    short_name: ClassVar[str] = "a2c"
    records_rollouts: ClassVar[bool] = True

    def __init__(
        self,
        policy: str | type[RecurrentActorCriticPolicy],
        env: GymEnv | str,
        learning_rate: float | Schedule = 7e-4,
        n_steps: int = 5,
        gamma: float = 0.99,
        gae_lambda: float = 1.0,
        ent_coef: float = 0.0,
        vf_coef: float = 0.5,
        max_grad_norm: float = 0.5,
        rms_prop_eps: float = 1e-5,
        use_rms_prop: bool = True,
        use_sde: bool = False,
        sde_sample_freq: int = -1,
        normalize_advantage: bool = False,
        stats_window_size: int = 100,
        tensorboard_log: str | None = None,
        policy_kwargs: dict[str, Any] | None = None,
        verbose: int = 0,
        seed: int | None = None,
        device: torch.device | str = "auto",
        meta_coef: float = 1.0,
        _init_setup_model: bool = True,
    ) -> None:
        if use_rms_prop and "optimizer_class" not in (policy_kwargs or {}):
            rms_prop = dict(alpha=0.99, eps=rms_prop_eps, weight_decay=0)
            policy_kwargs = {
                **(policy_kwargs or {}),
                "optimizer_class": torch.optim.RMSprop,
                "optimizer_kwargs": rms_prop,
            }
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

    def train(self) -> None:
        """Take one gradient step on the whole rollout.

        Raises:
            TrainingDivergedError: if the loss, the gradient or the new parameters are NaN or
                infinite. The parameters stay unchanged.
        """
        policy, rollout = self.policy, self.rollout_buffer.sequence()
        policy.set_training_mode(True)
        self._update_learning_rate(policy.optimizer)
        policy.take_in_returns(rollout.to_learn(rollout.returns))

        with divergence_at(self.num_timesteps):
            values, log_prob, entropy, meta_loss = evaluate(policy, rollout)
            policy.compare(log_prob.detach() - rollout.to_learn(rollout.log_prob))
            returns, advantages = map(rollout.to_learn, (rollout.returns, rollout.advantages))
            advantages = scale_advantages(advantages, policy.return_std, self.normalize_advantage)
            losses = {
                "policy_loss": -(advantages * log_prob).mean(),
                "value_loss": value_loss(values, returns, policy.return_std),
                "entropy_loss": -entropy.mean(),
                "meta_loss": meta_loss.mean(),
            }
            loss = total_loss(losses, self.ent_coef, self.vf_coef, self.meta_coef)
            grad_norm = gradient_step(policy, loss, losses, self.max_grad_norm)

        self._n_updates += 1
        log_update(
            self.logger,
            policy,
            self.rollout_buffer,
            self._n_updates,
            losses | {"grad_norm": grad_norm},
        )

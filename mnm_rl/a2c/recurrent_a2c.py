"""Advantage actor-critic for recurrent policies, as a Stable-Baselines3 algorithm."""

import io
import pickle
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar, TypeVar, cast

import numpy as np
import torch
from gymnasium import spaces
from gymnasium.vector import VectorEnv
from numpy.typing import NDArray
from stable_baselines3.common.base_class import maybe_make_env
from stable_baselines3.common.buffers import RolloutBuffer
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.type_aliases import GymEnv, MaybeCallback, Schedule
from stable_baselines3.common.utils import explained_variance, obs_as_tensor
from stable_baselines3.common.vec_env import VecEnv
from torch.nn import functional as F

from mnm_rl import __version__
from mnm_rl.a2c import pretrained
from mnm_rl.a2c.buffers import RecurrentDictRolloutBuffer, RecurrentRolloutBuffer
from mnm_rl.a2c.checks import check_spaces, flattened, not_finite, outside
from mnm_rl.a2c.policies import LstmPolicy, MnmPolicy, PlasticPolicy, RecurrentActorCriticPolicy, RnnPolicy, State, state_at
from mnm_rl.cores.core import Recording
from mnm_rl.vec_env import GymnasiumVecEnv

SelfRecurrentA2C = TypeVar("SelfRecurrentA2C", bound="RecurrentA2C")


class TrainingDivergedError(RuntimeError):
    """A quantity of training became NaN or infinite; the message says which one, and at which step.

    The parameters are those of the last good update: nothing that is not finite has reached them.
    """


class RecurrentA2C(OnPolicyAlgorithm):
    """Advantage actor-critic (A2C, Mnih et al. 2016) for policies with a recurrent core.

    Arguments are named and defaulted as in Stable-Baselines3's ``A2C``; ``meta_coef`` is new. One rollout of ``n_steps``
    in every environment is one sequence for backpropagation through time, from the recurrent state that the rollout
    started with; advantages are GAE (Schulman et al. 2016). The loss is

        L = L_policy + vf_coef * L_value - ent_coef * entropy + meta_coef * mean(l_t),

    where ``l_t`` is the meta-loss of the core (Munkhdalai et al. 2019, section 3.3), zero for cores that have none.

    Args:
        policy: ``"MnmPolicy"``, ``"PlasticPolicy"``, ``"LstmPolicy"``, ``"RnnPolicy"``, or a policy class.
        env: a Gymnasium environment, its id, a Gymnasium ``VectorEnv``, or a Stable-Baselines3 ``VecEnv``.
        learning_rate: a number, or a function of the remaining progress (from 1 to 0).
        n_steps: rollout length per environment, and the length of backpropagation through time.
        gamma: discount factor.
        gae_lambda: bias against variance of the advantages.
        ent_coef: weight of the entropy bonus.
        vf_coef: weight of the value loss.
        max_grad_norm: gradient norm above which gradients are scaled down.
        rms_prop_eps: epsilon of RMSprop.
        use_rms_prop: RMSprop (default) or Adam.
        use_sde: generalized state-dependent exploration, for Box actions.
        sde_sample_freq: steps between new exploration matrices; -1 for once a rollout.
        normalize_advantage: scale the advantages of a rollout to mean 0 and standard deviation 1.
        meta_coef: weight of the meta-loss.
        stats_window_size: episodes that the logged means are taken over.
        tensorboard_log: directory of the TensorBoard logs.
        policy_kwargs: arguments of the policy, such as ``{"write_rule": "g", "hidden_size": 64}``.
        verbose: 0 for nothing, 1 for information, 2 for more.
        seed: seed of everything random.
        device: ``"cpu"``, ``"cuda"`` or ``"auto"``.

    Raises:
        ValueError: if the environment's spaces cannot be used.
        TrainingDivergedError: from ``learn``, when a reward, observation, output, loss, gradient or parameter is NaN or
            infinite.
    """

    policy_aliases: ClassVar[dict[str, type[BasePolicy]]] = {
        "MnmPolicy": MnmPolicy,
        "PlasticPolicy": PlasticPolicy,
        "LstmPolicy": LstmPolicy,
        "RnnPolicy": RnnPolicy,
    }
    policy: RecurrentActorCriticPolicy
    rollout_buffer: RecurrentRolloutBuffer | RecurrentDictRolloutBuffer

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
        meta_coef: float = 1.0,
        stats_window_size: int = 100,
        tensorboard_log: str | None = None,
        policy_kwargs: dict[str, Any] | None = None,
        verbose: int = 0,
        seed: int | None = None,
        device: torch.device | str = "auto",
        _init_setup_model: bool = True,
    ) -> None:
        if n_steps < 1:
            raise ValueError(f"n_steps must be at least 1, got {n_steps}")
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
            stats_window_size=stats_window_size,
            tensorboard_log=tensorboard_log,
            policy_kwargs=policy_kwargs,
            verbose=verbose,
            seed=seed,
            device=device,
            _init_setup_model=False,
        )
        self.normalize_advantage = normalize_advantage
        self.meta_coef = meta_coef
        self._last_state: State | None = None
        if use_rms_prop and "optimizer_class" not in self.policy_kwargs:
            self.policy_kwargs["optimizer_class"] = torch.optim.RMSprop
            self.policy_kwargs["optimizer_kwargs"] = dict(alpha=0.99, eps=rms_prop_eps, weight_decay=0)
        if _init_setup_model:
            self._setup_model()

    @staticmethod
    def _wrap_env(env: Any, verbose: int = 0, monitor_wrapper: bool = True) -> VecEnv:
        if not hasattr(env, "observation_space"):
            raise TypeError(f"env must be an environment of Gymnasium or Stable-Baselines3, or an id, not a {type(env).__name__}")
        env = flattened(env)
        if isinstance(env, VectorEnv):
            env = GymnasiumVecEnv(env)
        check_spaces(env.observation_space, env.action_space)
        return OnPolicyAlgorithm._wrap_env(env, verbose, monitor_wrapper)

    def _setup_model(self) -> None:
        if not issubclass(self.policy_class, RecurrentActorCriticPolicy):
            names = ", ".join(self.policy_aliases)
            raise ValueError(f"RecurrentA2C needs a recurrent policy ({names}, or your own), not {self.policy_class.__name__}")
        is_dict = isinstance(self.observation_space, spaces.Dict)
        self.rollout_buffer_class = RecurrentDictRolloutBuffer if is_dict else RecurrentRolloutBuffer
        super()._setup_model()
        self._last_state = None

    def _excluded_save_params(self) -> list[str]:
        # A loaded model begins with new episodes: their observations go with the recurrent state, which is large.
        return [*super()._excluded_save_params(), "_last_state", "_last_obs", "_last_episode_starts"]

    @classmethod
    def load(  # type: ignore[override]
        cls: type[SelfRecurrentA2C],
        path: str | Path | io.BufferedIOBase,
        env: GymEnv | VectorEnv[Any, Any, Any] | str | None = None,
        device: torch.device | str = "auto",
        **kwargs: Any,
    ) -> SelfRecurrentA2C:
        """Load what ``save`` wrote. **This runs code from the file**, as every pickle does: for files from strangers, see
        :meth:`from_pretrained`.

        Args:
            path: the file.
            env: environments to go on training in, of the same spaces; their number may differ. Training begins new episodes.
            device: ``"cpu"``, ``"cuda"`` or ``"auto"``.
            kwargs: the other arguments of Stable-Baselines3's ``load``, and attributes to change.

        Raises:
            FileNotFoundError: if there is no such file.
            ValueError: if it is no model of this version of this library, or its spaces are not those of ``env``.
        """
        if isinstance(path, str | Path) and Path(path).is_dir():
            raise ValueError(f"{path} is a directory: what export wrote is read by from_pretrained")
        if env is not None:
            env = cls._wrap_env(maybe_make_env(cast(GymEnv, env), 0))
        try:
            return super().load(path, env, device, **kwargs)
        except (ValueError, TypeError, RuntimeError, KeyError, AssertionError, AttributeError, pickle.UnpicklingError) as error:
            if "spaces do not match" in str(error) or "wasn't a zip-file" in str(error):
                raise  # it says it already
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
            raise ValueError(f"{path} is not a model that mnm_rl {__version__} can load: {reason}") from error

    def export(self, directory: str | Path) -> None:
        """Write the policy's parameters and a description of the model, for :meth:`from_pretrained`.

        Unlike :meth:`save`, it keeps no optimizer state and no code: arguments that JSON cannot hold (a learning rate
        schedule, a features extractor of your own) are named in the file and have to be given again.

        Args:
            directory: where ``config.json`` and ``model.safetensors`` go; made if missing.

        Raises:
            ValueError: if the policy is not one of ``policy_aliases``.
        """
        pretrained.export(self, Path(directory))

    @classmethod
    def from_pretrained(
        cls: type[SelfRecurrentA2C],
        directory: str | Path,
        env: GymEnv | VectorEnv[Any, Any, Any] | str | None = None,
        **arguments: Any,
    ) -> SelfRecurrentA2C:
        """Read what :meth:`export` wrote. No code from the files is run: safe for files from strangers.

        Args:
            directory: what was given to :meth:`export`.
            env: environments to go on training in, of the same spaces.
            arguments: arguments of the constructor to give anew; ``policy_kwargs`` are added to the model's.

        Raises:
            FileNotFoundError: if one of the files is missing.
            ValueError: if they cannot be read, are of another version, leave out an argument that is not given again, or
                describe spaces that are not those of ``env``.
        """
        return cast(SelfRecurrentA2C, pretrained.from_pretrained(cls, Path(directory), env, **arguments))

    def _setup_learn(self, *args: Any, **kwargs: Any) -> tuple[int, BaseCallback]:
        total_timesteps, callback = super()._setup_learn(*args, **kwargs)
        _check_observation(self._last_obs, self.observation_space, self.num_timesteps)
        return total_timesteps, callback

    def collect_rollouts(self, env: VecEnv, callback: BaseCallback, rollout_buffer: RolloutBuffer, n_rollout_steps: int) -> bool:
        """Collect ``n_rollout_steps`` steps of every environment; the recurrent state goes on from the last rollout.

        Returns:
            False if a callback stopped the training.

        Raises:
            TrainingDivergedError: if the environment gives a reward or an observation that is NaN or infinite.
        """
        assert self._last_obs is not None, "No previous observation was provided"
        self.policy.set_training_mode(False)
        rollout_buffer.reset()
        if self._last_state is None:
            self._last_state = self.policy.initial_state(env.num_envs)
        recording = self.policy.core.record(self._last_state, n_rollout_steps, reuse=self.rollout_buffer.recording)
        self.rollout_buffer.recording = recording
        if self.use_sde:
            self.policy.reset_noise(env.num_envs)
        callback.on_rollout_start()

        for n_steps in range(n_rollout_steps):
            if self.use_sde and self.sde_sample_freq > 0 and n_steps % self.sde_sample_freq == 0:
                self.policy.reset_noise(env.num_envs)
            with torch.no_grad(), self._divergence_named():
                obs_tensor = obs_as_tensor(cast(Any, self._last_obs), self.device)
                actions_tensor, values, log_probs, _ = self.policy(obs_tensor, recording, self._episode_starts_tensor())
            actions = actions_tensor.cpu().numpy()

            clipped_actions = actions
            if isinstance(self.action_space, spaces.Box):
                if self.policy.squash_output:
                    clipped_actions = self.policy.unscale_action(clipped_actions)
                else:
                    clipped_actions = np.clip(actions, self.action_space.low, self.action_space.high)

            try:
                new_obs, rewards, dones, infos = env.step(clipped_actions)
            except (EOFError, BrokenPipeError, ConnectionResetError) as error:
                raise RuntimeError(
                    f"the process of an environment ended at step {self.num_timesteps:,}; what it printed before may say why"
                ) from error
            self.num_timesteps += env.num_envs
            _check_finite(rewards, "reward", self.num_timesteps)
            _check_observation(new_obs, self.observation_space, self.num_timesteps)

            callback.update_locals(locals())
            if not callback.on_step():
                self._last_obs, self._last_episode_starts, self._last_state = new_obs, dones, recording.state  # type: ignore[assignment]
                return False
            self._update_info_buffer(infos, dones)

            rewards = self._bootstrap_truncated(rewards, dones, infos, recording)
            rollout_buffer.add(
                cast(Any, self._last_obs),
                actions.reshape(-1, 1) if isinstance(self.action_space, spaces.Discrete) else actions,
                rewards,
                cast(Any, self._last_episode_starts),
                values,
                log_probs,
            )
            self._last_obs = new_obs  # type: ignore[assignment]
            self._last_episode_starts = dones

        self._last_state = state = recording.state
        with torch.no_grad():
            values = self.policy.predict_values(obs_as_tensor(new_obs, self.device), state, self._episode_starts_tensor())  # type: ignore[arg-type]
        with np.errstate(all="ignore"):  # what overflows is named when it reaches the loss
            rollout_buffer.compute_returns_and_advantage(last_values=values, dones=dones)
        callback.update_locals(locals())
        callback.on_rollout_end()
        return True

    @contextmanager
    def _divergence_named(self) -> Iterator[None]:
        """Say what it means when torch refuses the parameters of an action distribution."""
        try:
            yield
        except (ValueError, RuntimeError) as error:
            if not any(refusal in str(error) for refusal in ("Expected parameter", "probability tensor contains")):
                raise
            raise TrainingDivergedError(f"the policy's outputs became NaN or infinite at step {self.num_timesteps:,}") from error

    def _episode_starts_tensor(self) -> torch.Tensor:
        return torch.as_tensor(self._last_episode_starts, device=self.device, dtype=torch.bool)

    def _bootstrap_truncated(
        self, rewards: NDArray[np.float32], dones: NDArray[np.bool_], infos: list[dict[str, Any]], recording: Recording[Any]
    ) -> NDArray[np.float32]:
        """Add the discounted value of the final observation, seen in the state that the episode ended in, where an
        episode was cut short rather than ended."""
        cut = [
            i
            for i in dones.nonzero()[0]
            if infos[i].get("TimeLimit.truncated") and infos[i].get("terminal_observation") is not None
        ]
        if not cut:
            return rewards
        final = [infos[i]["terminal_observation"] for i in cut]
        stacked = {key: np.stack([o[key] for o in final]) for key in final[0]} if isinstance(final[0], dict) else np.stack(final)
        with torch.no_grad():
            obs, _ = self.policy.obs_to_tensor(stacked)
            starts = torch.zeros(len(cut), dtype=torch.bool, device=self.device)
            values = self.policy.predict_values(obs, state_at(recording.state, np.array(cut)), starts)
        rewards = rewards.astype(np.float32)  # SubprocVecEnv hands on integers as they are
        rewards[cut] += self.gamma * values.flatten().cpu().numpy()
        return rewards

    def train(self) -> None:
        """One gradient step on the whole rollout.

        Raises:
            TrainingDivergedError: if the loss, the gradient or the new parameters are NaN or infinite; the parameters are left as
            they were.
        """
        self.policy.set_training_mode(True)
        self._update_learning_rate(self.policy.optimizer)
        rollout = self.rollout_buffer.sequence()
        actions = rollout.actions
        if isinstance(self.action_space, spaces.Discrete):
            actions = actions.long().squeeze(-1)

        with self._divergence_named():
            values, log_prob, entropy, meta_loss = self.policy.evaluate_actions(
                rollout.observations, actions, rollout.recording, rollout.episode_starts
            )
        advantages = rollout.advantages
        if self.normalize_advantage:
            advantages = (advantages - advantages.mean()) / (advantages.std() + 1e-8)
        losses = {
            "policy_loss": -(advantages * log_prob).mean(),
            "value_loss": F.mse_loss(rollout.returns, values),
            "entropy_loss": log_prob.mean() if entropy is None else -entropy.mean(),
            "meta_loss": meta_loss.mean(),
        }
        for name, value in losses.items():
            if not torch.isfinite(value):
                raise TrainingDivergedError(f"{name} became {value.item()} at step {self.num_timesteps:,}")
        loss = (
            losses["policy_loss"]
            + self.ent_coef * losses["entropy_loss"]
            + self.vf_coef * losses["value_loss"]
            + self.meta_coef * losses["meta_loss"]
        )

        self.policy.optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        grad_norm = torch.nn.utils.clip_grad_norm_(self.policy.parameters(), self.max_grad_norm)
        if not torch.isfinite(grad_norm):
            raise TrainingDivergedError(f"the gradient norm became {grad_norm.item()} at step {self.num_timesteps:,}")
        parameters = list(self.policy.parameters())
        before = [p.detach().clone() for p in parameters]
        self.policy.optimizer.step()
        if not torch.isfinite(torch.nn.utils.get_total_norm(parameters)):
            for p, good in zip(parameters, before, strict=True):
                p.data.copy_(good)
            raise TrainingDivergedError(f"the parameters became NaN or infinite at step {self.num_timesteps:,}")

        self._n_updates += 1
        buffer = self.rollout_buffer
        self.logger.record("train/n_updates", self._n_updates, exclude="tensorboard")
        self.logger.record("train/explained_variance", explained_variance(buffer.values.flatten(), buffer.returns.flatten()))
        self.logger.record("train/grad_norm", grad_norm.item())
        for name, value in losses.items() | self.policy.core.diagnostics.items():
            self.logger.record(f"train/{name}", value.item())
        if hasattr(self.policy, "log_std"):
            self.logger.record("train/std", torch.exp(self.policy.log_std).mean().item())

    def learn(
        self: SelfRecurrentA2C,
        total_timesteps: int,
        callback: MaybeCallback = None,
        log_interval: int = 100,
        tb_log_name: str = "RecurrentA2C",
        reset_num_timesteps: bool = True,
        progress_bar: bool = False,
    ) -> SelfRecurrentA2C:
        """Train for ``total_timesteps`` environment steps; arguments as for every Stable-Baselines3 algorithm.

        Raises:
            TrainingDivergedError: when a reward, observation, loss or gradient is NaN or infinite.
        """
        return super().learn(total_timesteps, callback, log_interval, tb_log_name, reset_num_timesteps, progress_bar)


def _check_observation(observations: Any, space: spaces.Space[Any], step: int, what: str = "observation") -> None:
    if isinstance(space, spaces.Dict):
        for key, part in space.spaces.items():
            _check_observation(observations[key], part, step, f"observation {key!r}")
        return
    _check_finite(observations, what, step)
    if (env := outside(observations, space)) is not None:
        raise ValueError(f"the {what} of environment {env} is outside of {space} at step {step:,}: {observations[env]}")


def _check_finite(array: NDArray[Any], what: str, step: int) -> None:
    if (env := not_finite(array)) is not None:
        raise TrainingDivergedError(f"the {what} of environment {env} is NaN or infinite at step {step:,}")

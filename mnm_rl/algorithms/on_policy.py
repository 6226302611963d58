"""The common part of all on-policy algorithms for recurrent policies.

Each algorithm has its own file for the rest.
"""

import io
import json
import math
import sys
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from difflib import get_close_matches
from pathlib import Path
from textwrap import shorten
from typing import Any, ClassVar, Self, cast

import numpy as np
import torch
from gymnasium import spaces
from gymnasium.vector import VectorEnv
from numpy.typing import NDArray
from stable_baselines3.common.buffers import RolloutBuffer
from stable_baselines3.common.callbacks import BaseCallback, CallbackList, ConvertCallback
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.save_util import json_to_data, open_path
from stable_baselines3.common.type_aliases import GymEnv, MaybeCallback
from stable_baselines3.common.utils import explained_variance, obs_as_tensor
from stable_baselines3.common.vec_env import VecEnv
from torch import Tensor
from torch.nn import functional as F
from torch.nn.utils import parameters_to_vector

from mnm_rl._version import __version__
from mnm_rl.algorithms import distributed
from mnm_rl.algorithms.buffers import (
    RecurrentDictRolloutBuffer,
    RecurrentRolloutBuffer,
    RolloutSequence,
)
from mnm_rl.algorithms.checks import (
    NotFiniteError,
    OtherSpacesError,
    TrainingDivergedError,
    check_same_spaces,
    check_spaces,
    checked_rewards,
    flattened,
    made,
    not_finite,
    outside,
)
from mnm_rl.algorithms.earlier import policy_kwargs_of
from mnm_rl.algorithms.policies import POLICIES, RecurrentActorCriticPolicy, State
from mnm_rl.algorithms.pretrained import ExportableAlgorithm
from mnm_rl.cores.implementations import Trace
from mnm_rl.fused.announcement import announce_aloud
from mnm_rl.masks import action_masks, choices, heeds
from mnm_rl.vec_env import GymnasiumVecEnv, failures_named


class RecurrentOnPolicyAlgorithm(ExportableAlgorithm):
    """Base class of on-policy algorithms for policies with a recurrent core.

    It contains everything except the constructor and ``train`` of an algorithm. One rollout of
    ``n_steps`` in every environment is one sequence for backpropagation through time. The sequence
    starts from the recurrent state at the start of the rollout. Advantages are GAE (Schulman et
    al. 2016).

    A subclass has every hyperparameter as an argument of its constructor and as an attribute of the
    same name. :meth:`export` writes these attributes. ``train`` of the subclass reads
    ``self.rollout_buffer.sequence()``, whole or in minibatches, and updates the policy with
    :meth:`_gradient_step`.

    Args:
        policy: the name of one of ``policy_aliases``, or a policy class.
        env: a Gymnasium environment, its id, a Gymnasium ``VectorEnv``, or a Stable-Baselines3
            ``VecEnv``.
        n_steps: rollout length per environment, and the length of backpropagation through time.
        normalize_advantage: scale the advantages to mean 0 and standard deviation 1.
        meta_coef: weight of the meta-loss.
        arguments: arguments of Stable-Baselines3's ``OnPolicyAlgorithm``.

    Raises:
        ValueError: if the environment's spaces are not supported, or ``n_steps`` is not positive.
    """

    policy_aliases: ClassVar[dict[str, type[BasePolicy]]] = POLICIES
    policy: RecurrentActorCriticPolicy
    rollout_buffer: RecurrentRolloutBuffer
    _asked_masking: bool | None = None
    _masking = False  # whether the environments' action masks are heeded

    def __init__(
        self,
        policy: str | type[RecurrentActorCriticPolicy],
        env: GymEnv | str,
        *,
        n_steps: int,
        normalize_advantage: bool,
        meta_coef: float,
        _init_setup_model: bool = True,
        **arguments: Any,
    ) -> None:
        if n_steps < 1:
            raise ValueError(f"n_steps must be at least 1, got {n_steps}")
        super().__init__(policy, env, n_steps=n_steps, **arguments, _init_setup_model=False)
        self.normalize_advantage = normalize_advantage
        self.meta_coef = meta_coef
        self._last_state = None
        self._is_first_evaluation = False
        self._unlogged: tuple[dict[str, Any], dict[str, Any]] | None = None
        if _init_setup_model:
            self._setup_model()

    @staticmethod
    def _wrap_env(env: Any, verbose: int = 0, monitor_wrapper: bool = True) -> VecEnv:
        if not hasattr(env, "observation_space"):
            raise TypeError(
                "env must be an environment of Gymnasium or Stable-Baselines3, or an id, not a "
                f"{type(env).__name__}"
            )
        env = flattened(env)
        if isinstance(env, VectorEnv):
            env = GymnasiumVecEnv(env)
        check_spaces(env.observation_space, env.action_space)
        return OnPolicyAlgorithm._wrap_env(env, verbose, monitor_wrapper)

    def _get_policy_from_name(self, policy_name: str) -> type[BasePolicy]:
        if policy_name in self.policy_aliases:
            return self.policy_aliases[policy_name]
        lower = {name.lower(): name for name in self.policy_aliases}
        near = [lower[name] for name in get_close_matches(policy_name.lower(), lower, n=1)]
        meant = f"; did you mean {near[0]!r}?" if near else "."
        raise ValueError(
            f"there is no policy {policy_name!r}{meant} There are "
            f"{', '.join(self.policy_aliases)}, and classes"
        )

    def _setup_model(self) -> None:
        if not issubclass(self.policy_class, RecurrentActorCriticPolicy):
            names = ", ".join(self.policy_aliases)
            other = f"{self.policy_class.__module__}.{self.policy_class.__qualname__}"
            raise ValueError(
                f"{type(self).__name__} needs a recurrent policy of mnm_rl ({names}, or your "
                f"own), not {other}"
            )
        is_dict = isinstance(self.observation_space, spaces.Dict)
        self.rollout_buffer_class = (
            RecurrentDictRolloutBuffer if is_dict else RecurrentRolloutBuffer
        )
        if self.verbose >= 1:
            announce_aloud()
        written_by = getattr(self, "mnm_rl_version", __version__)  # load has set it
        self.policy_kwargs = policy_kwargs_of(written_by, self.policy_class, self.policy_kwargs)
        super()._setup_model()
        self._last_state = None
        self.mnm_rl_version = __version__  # goes into the file that save writes

    def _excluded_save_params(self) -> list[str]:
        # A loaded model begins with new episodes: their observations go with the recurrent state,
        # which is large.
        new_episodes = ["_moment", "_last_obs", "_last_episode_starts"]
        return [*super()._excluded_save_params(), *new_episodes, "rollout_buffer_class"]

    @classmethod
    def load(  # type: ignore[override]
        cls,
        path: str | Path | io.BufferedIOBase,
        env: GymEnv | VectorEnv[Any, Any, Any] | str | None = None,
        device: torch.device | str = "auto",
        **kwargs: Any,
    ) -> Self:
        """Load a model that ``save`` wrote.

        **This runs code from the file**, as every pickle does. For files from strangers, use
        :meth:`from_pretrained`.

        Args:
            path: the file.
            env: environments for further training, with the same spaces. Their number may differ.
                Training starts new episodes.
            device: ``"cpu"``, ``"cuda"`` or ``"auto"``.
            kwargs: the other arguments of Stable-Baselines3's ``load``, and attributes to change.

        Raises:
            FileNotFoundError: if the file does not exist.
            OtherSpacesError: if the model's spaces differ from those of ``env``; a ValueError.
            ValueError: if the file is not a model that this version of the library can read.
        """
        if isinstance(path, str | Path) and Path(path).is_dir():
            raise ValueError(f"{path} is a directory: what export wrote is read by from_pretrained")
        if env is not None:
            env = cls._wrap_env(made(env))
        saved: dict[str, Any] = {}
        try:
            saved = _saved_attributes(path)
            if (library := _other_library(saved)) is not None:
                raise ValueError(
                    f"{library} saved it, whose networks have other parts: load it there, or "
                    "train a model here, where arguments "
                    "and policies of the same names mean the same"
                )
            if env is not None:
                both = json.dumps(
                    {name: saved[name] for name in ("observation_space", "action_space")}
                )
                check_same_spaces(env, **json_to_data(both, kwargs.get("custom_objects")))
            of_0_1_0 = "mnm_rl_version" not in saved
            if of_0_1_0:
                _find_classes_of_version_0_1_0()
                kwargs = {"mnm_rl_version": "0.1.0"} | kwargs
            model = super().load(path, env, device, **kwargs)
            if of_0_1_0:  # it goes on as it began
                model.policy_kwargs = {**model.policy_kwargs, "popart": False}
                model.policy.asked_popart = False
            for name, tensor in model.policy.state_dict().items():
                if not tensor.isfinite().all():
                    raise ValueError(f"{name} of the policy is NaN or infinite")
            return model
        except OtherSpacesError:
            raise
        except Exception as error:  # a damaged pickle may raise anything
            if isinstance(error, OSError) and error.filename is not None:
                raise  # there is no such file, or it must not be read
            reason = shorten(str(error), 300) or type(error).__name__
            version = saved.get("mnm_rl_version", "0.1.0, or another library")
            told = not saved or version == __version__ or _other_library(saved) is not None
            by = "" if told else f" (saved by version {version})"
            raise ValueError(
                f"{path} is not a model that mnm_rl {__version__} can load: {reason}{by}"
            ) from error

    @property
    def _last_state(self) -> State | None:
        """The current recurrent state, which belongs to ``_last_obs``; None for new episodes."""
        return None if self._moment is None else self._moment.state()

    @_last_state.setter
    def _last_state(self, state: State | None) -> None:
        self._moment = None if state is None else _Moment(state)

    def set_random_seed(self, seed: int | None = None) -> None:
        """Seed all random number generators.

        Processes that share a training get different seeds, as if all environments were numbered
        consecutively.
        """
        before = distributed.rank() * (0 if self.env is None else self.env.num_envs)
        super().set_random_seed(seed if seed is None or before == 0 else (seed + before) % 2**32)

    def begin_episodes(self, seed: int) -> None:
        """Seed with :meth:`set_random_seed`, and start new episodes in all environments.

        If the environments depend only on their seeds, all further training depends only on the
        seed and on the contents of ``save``.
        """
        assert self.env is not None, "there are no environments"
        self.set_random_seed(seed)
        with failures_named(self.env, f"at step {self.num_timesteps:,}"):
            self._last_obs = self.env.reset()  # type: ignore[assignment]
        _check_observation(self._last_obs, self.observation_space, self.num_timesteps)
        self._last_episode_starts = np.ones(self.env.num_envs, dtype=bool)
        self._last_state = None

    def save(self, path: str | Path | io.BufferedIOBase, *args: Any, **kwargs: Any) -> None:
        """Save the model, including the log entries since the last row.

        The arguments are those of every Stable-Baselines3 algorithm. The figures of an update
        appear in the log row of the next rollout, so the file has to keep them.
        """
        if "_logger" in vars(self):
            self._unlogged = dict(self.logger.name_to_value), dict(self.logger.name_to_excluded)
        try:
            super().save(path, *args, **kwargs)
        finally:
            self._unlogged = None

    def record_unlogged(self) -> None:
        """Restore the log entries of a loaded model that were not yet written when it was saved."""
        values, excluded = self._unlogged or ({}, {})
        for name, value in values.items():
            self.logger.record(name, value, tuple(excluded[name]))
        self._unlogged = None

    def dump_logs(self, iteration: int = 0) -> None:
        """Write the log.

        ``time/iterations`` counts all rollouts, including those before the model was loaded.
        """
        super().dump_logs(
            iteration
            and self.num_timesteps // (self.n_steps * self.n_envs * distributed.world_size())
        )

    def predict(
        self,
        observation: NDArray[Any] | dict[str, NDArray[Any]],
        state: tuple[NDArray[Any], ...] | None = None,
        episode_start: NDArray[np.bool_] | None = None,
        deterministic: bool = False,
        action_masks: NDArray[Any] | None = None,
    ) -> tuple[NDArray[Any], tuple[NDArray[Any], ...] | None]:
        """Return the policy's actions, see :meth:`mnm_rl.RecurrentActorCriticPolicy.predict`."""
        masks = {} if action_masks is None else {"action_masks": action_masks}
        return self.policy.predict(observation, state, episode_start, deterministic, **masks)

    def _setup_learn(self, *args: Any, **kwargs: Any) -> tuple[int, BaseCallback]:
        with failures_named(self.env, f"at step {self.num_timesteps:,}", note=False):
            total_timesteps, callback = super()._setup_learn(*args, **kwargs)
        distributed.begin_alike(
            self.policy, n_envs=self.n_envs, n_steps=self.n_steps, num_timesteps=self.num_timesteps
        )
        _check_observation(self._last_obs, self.observation_space, self.num_timesteps)
        assert self.env is not None, "there are no environments"
        self._masking = heeds(self.env, self._asked_masking)
        if self._masking:
            choices(self.action_space)
        return total_timesteps, callback

    def _masks_now(self, env: VecEnv) -> Tensor | None:
        """The action masks of all environments, ``[B, width]``; None if there are none, or they are
        not heeded."""
        if not self._masking:
            return None
        with failures_named(env, f"at step {self.num_timesteps:,}"):
            return torch.as_tensor(action_masks(env, self.action_space), device=self.device)

    def collect_rollouts(
        self,
        env: VecEnv,
        callback: BaseCallback,
        rollout_buffer: RolloutBuffer,
        n_rollout_steps: int,
    ) -> bool:
        """Collect ``n_rollout_steps`` steps of every environment.

        The recurrent state carries over from the previous rollout.

        Returns:
            False if a callback stopped the training.

        Raises:
            TrainingDivergedError: if the environment returns a reward or an observation that is NaN
                or infinite.
        """
        assert self._last_obs is not None, "No previous observation was provided"
        callback.on_rollout_start()  # which may begin new episodes
        self.policy.set_training_mode(False)
        rollout_buffer.reset()
        if self._last_state is None:
            self._last_state = self.policy.initial_state(env.num_envs)
        self.rollout_buffer.trace = None  # its memory serves the next one
        trace = self.rollout_buffer.trace = self.policy.trace(self._last_state, n_rollout_steps)
        if self.use_sde:
            self._reset_noise()

        now: Any = self._last_obs, self._last_episode_starts, _Moment(trace)
        others_act, as_built = not _does_nothing(callback), self.policy.acts_as_built
        try:
            for n_steps in range(n_rollout_steps):
                self._last_obs, self._last_episode_starts, self._moment = now
                if (
                    self.use_sde
                    and self.sde_sample_freq > 0
                    and n_steps % self.sde_sample_freq == 0
                ):
                    self._reset_noise()
                masks = self._masks_now(env)
                with torch.no_grad(), self._divergence_named():
                    obs_tensor = obs_as_tensor(cast(Any, self._last_obs), self.device)
                    starts = self._episode_starts_tensor()
                    actions_tensor, values, log_probs = self.policy.step(
                        obs_tensor, trace, starts, as_built, masks
                    )
                actions = actions_tensor.cpu().numpy()

                clipped_actions = actions
                if isinstance(self.action_space, spaces.Box):
                    if self.policy.squash_output:
                        clipped_actions = self.policy.unscale_action(clipped_actions)
                    else:
                        clipped_actions = np.clip(
                            actions, self.action_space.low, self.action_space.high
                        )

                with failures_named(env, f"at step {self.num_timesteps:,}"):
                    new_obs, rewards, dones, infos = env.step(clipped_actions)
                now = new_obs, dones, _Moment(trace, n_steps + 1)
                self.num_timesteps += env.num_envs * distributed.world_size()
                rewards = checked_rewards(rewards, env.num_envs, self.num_timesteps)
                _check_observation(new_obs, self.observation_space, self.num_timesteps)
                done = dones.nonzero()[0].tolist()
                for i in done:
                    if (final := infos[i].get("terminal_observation")) is not None:
                        _check_observation(
                            _batch_of_one(final),
                            self.observation_space,
                            self.num_timesteps,
                            "final observation",
                            i,
                        )

                callback.update_locals(locals())
                if not callback.on_step():
                    return False
                if others_act:
                    trace.look()
                    as_built = self.policy.acts_as_built
                self._update_info_buffer(infos, dones)

                if done:
                    rewards = self._bootstrap_truncated(rewards, done, infos, trace)
                    self._leave_out_resets(rewards, values, done, infos)
                self.rollout_buffer.add(
                    cast(Any, self._last_obs),
                    actions.reshape(-1, 1)
                    if isinstance(self.action_space, spaces.Discrete)
                    else actions,
                    rewards,
                    cast(Any, self._last_episode_starts),
                    values,
                    log_probs,
                    action_masks=masks,
                )
        finally:
            # Whatever interrupts a rollout, learning goes on from where the environments are.
            self._last_obs, self._last_episode_starts, moment = now
            self._last_state = moment.state()

        state = self._last_state
        with torch.no_grad():
            obs: Any = obs_as_tensor(new_obs, self.device)  # type: ignore[arg-type]
            values = self.policy.predict_values(obs, state, self._episode_starts_tensor())
            for i, info in enumerate(infos):
                if info.get("reset_follows") and not info["TimeLimit.truncated"]:
                    values[i] = 0
        with np.errstate(all="ignore"):  # what overflows is named when it reaches the loss
            rollout_buffer.compute_returns_and_advantage(last_values=values, dones=dones)
        callback.update_locals(locals())
        callback.on_rollout_end()
        return True

    def _reset_noise(self) -> None:
        with self._divergence_named():
            self.policy.reset_noise(self.n_envs)

    @contextmanager
    def _divergence_named(self) -> Iterator[None]:
        """Say at which step the policy's outputs became NaN or infinite."""
        try:
            yield
        except NotFiniteError as error:
            raise TrainingDivergedError(f"{error} at step {self.num_timesteps:,}") from error

    def _episode_starts_tensor(self) -> torch.Tensor:
        return torch.as_tensor(self._last_episode_starts, device=self.device, dtype=torch.bool)

    def _bootstrap_truncated(
        self,
        rewards: NDArray[np.float32],
        done: list[int],
        infos: list[dict[str, Any]],
        trace: Trace[Any],
    ) -> NDArray[np.float32]:
        """Add the discounted value of the final observation, seen in the state that the episode
        ended in, where an episode was cut short rather than ended."""
        cut = [
            i
            for i in done
            if infos[i].get("TimeLimit.truncated")
            and infos[i].get("terminal_observation") is not None
            and not infos[i].get("reset_step")
        ]
        if not cut:
            return rewards
        final = [infos[i]["terminal_observation"] for i in cut]
        stacked = (
            {key: np.stack([o[key] for o in final]) for key in final[0]}
            if isinstance(final[0], dict)
            else np.stack(final)
        )
        with torch.no_grad():
            obs, _ = self.policy.obs_to_tensor(stacked)
            starts = torch.zeros(len(cut), dtype=torch.bool, device=self.device)
            values = self.policy.predict_values(
                obs, trace.state(torch.tensor(cut, device=self.device)), starts
            )
        rewards = rewards.astype(np.float32)  # SubprocVecEnv hands on integers as they are
        rewards[cut] += self.gamma * values.flatten().cpu().numpy()
        return rewards

    def _leave_out_resets(
        self, rewards: NDArray[Any], values: Tensor, done: list[int], infos: list[dict[str, Any]]
    ) -> None:
        """Where an environment only reset (see :class:`GymnasiumVecEnv`), let the episode end in
        the step before, with the value of the final observation, which the policy saw in this one,
        if it was cut short, and with none if not."""
        resets = [i for i in done if infos[i].get("reset_step")]
        for i in resets:  # this step's own advantage is 0
            if infos[i]["TimeLimit.truncated"]:
                rewards[i] = values[i].item()
            else:
                rewards[i] = values[i] = 0
        if resets:
            self.rollout_buffer.mark_resets(resets)

    def _evaluate(self, rollout: RolloutSequence) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Values, log-probabilities, entropies and meta-loss of the steps to learn from, with
        gradient, ``[T, B]`` or ``[n]``, see ``evaluate_actions``; an entropy that has no closed
        form is estimated by the action that was taken."""
        actions = rollout.actions
        if isinstance(self.action_space, spaces.Discrete):
            actions = actions.long().squeeze(-1)
        with self._divergence_named():
            values, log_prob, entropy, meta_loss = self.policy.evaluate(
                rollout.observations,
                actions,
                rollout.initial_state,
                rollout.episode_starts,
                rollout.trace,
                rollout.action_masks,
            )
        if self._is_first_evaluation:
            self._is_first_evaluation = False
            self.policy.compare(rollout.log_prob, log_prob)
        values, log_prob, meta_loss = map(rollout.to_learn, (values, log_prob, meta_loss))
        return (
            values,
            log_prob,
            -log_prob if entropy is None else rollout.to_learn(entropy),
            meta_loss,
        )

    def _begin_update(self) -> RolloutSequence:
        """The rollout to learn from, after the learning rate and the scale of the values have been
        brought up to date."""
        self.policy.set_training_mode(True)
        self._update_learning_rate(self.policy.optimizer)
        rollout = self.rollout_buffer.sequence()
        self.policy.take_in_returns(rollout.to_learn(rollout.returns))
        self._is_first_evaluation = True
        return rollout

    def _scaled(self, advantages: Tensor) -> Tensor:
        """The advantages, with mean 0 and standard deviation 1 if ``normalize_advantage`` (one
        alone stays as it is), or else in units of the standard deviation of the returns, where the
        policy normalizes these (Hessel et al. 2019)."""
        if not self.normalize_advantage or advantages.numel() * distributed.world_size() == 1:
            return advantages / self.policy.return_std
        mean, std = distributed.mean_and_std(advantages)
        return (advantages - mean) / (std + 1e-8)

    def _value_loss(self, returns: Tensor, values: Tensor) -> Tensor:
        """Mean squared error, in units of the standard deviation of the returns where the policy
        normalizes these."""
        std = self.policy.return_std
        # not divided later: squares of what is large overflow
        return F.mse_loss(returns / std, values / std)

    def _loss(self, losses: dict[str, Tensor]) -> Tensor:
        """The weighted sum of ``policy_loss``, ``value_loss``, ``entropy_loss`` and
        ``meta_loss``."""
        return (
            losses["policy_loss"]
            + self.ent_coef * losses["entropy_loss"]
            + self.vf_coef * losses["value_loss"]
            + self.meta_coef * losses["meta_loss"]
        )

    def _gradient_step(self, losses: dict[str, Tensor]) -> Tensor:
        """One step of the optimizer down the weighted sum of the losses, its gradient clipped.

        Args:
            losses: scalars ``policy_loss``, ``value_loss``, ``entropy_loss`` and ``meta_loss``.

        Returns:
            The norm of the gradient, before it was clipped.

        Raises:
            TrainingDivergedError: if a loss, the gradient or the new parameters are NaN or
                infinite; the parameters are left as they were.
        """
        loss = self._loss(losses)
        if not math.isfinite(loss.item()):
            name, value = next(
                ((n, v) for n, v in losses.items() if not v.isfinite()), ("the loss", loss)
            )
            raise TrainingDivergedError(
                f"{name} became {value.item()} at step {self.num_timesteps:,}"
            )
        parameters = list(self.policy.parameters())
        self.policy.optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        distributed.average([p.grad for p in parameters if p.grad is not None])
        grad_norm = torch.nn.utils.clip_grad_norm_(parameters, self.max_grad_norm)
        if not math.isfinite(grad_norm.item()):
            raise TrainingDivergedError(
                f"the gradient norm became {grad_norm.item()} at step {self.num_timesteps:,}"
            )
        with torch.no_grad():
            before = parameters_to_vector(parameters)
            self.policy.optimizer.step()
            if not parameters_to_vector(parameters).isfinite().all():
                for p, good in zip(
                    parameters, torch.split(before, [p.numel() for p in parameters]), strict=True
                ):
                    p.copy_(good.view_as(p))
                raise TrainingDivergedError(
                    f"the parameters became NaN or infinite at step {self.num_timesteps:,}"
                )
        return grad_norm

    def _log_update(self, scalars: dict[str, Tensor]) -> None:
        """Log ``train/<name>`` for these scalars, the core's diagnostics, and what every algorithm
        has."""
        buffer = self.rollout_buffer
        self.logger.record("train/n_updates", self._n_updates, exclude="tensorboard")
        self.logger.record(
            "train/explained_variance",
            explained_variance(buffer.values.flatten(), buffer.returns.flatten()),
        )
        for name, value in scalars.items():
            self.logger.record(f"train/{name}", value.item())
        for name, value in self.policy.core.diagnostics.items():
            self.logger.record(name, value.item())
        if self.policy.normalizes_returns:
            self.logger.record("train/return_mean", self.policy.popart.mean.item())
            self.logger.record("train/return_std", self.policy.popart.std.item())
        if hasattr(self.policy, "log_std"):
            self.logger.record("train/std", torch.exp(self.policy.log_std).mean().item())

    def learn(
        self,
        total_timesteps: int,
        callback: MaybeCallback = None,
        log_interval: int = 100,
        tb_log_name: str | None = None,
        reset_num_timesteps: bool = True,
        progress_bar: bool = False,
        use_masking: bool | None = None,
    ) -> Self:
        """Train for ``total_timesteps`` environment steps.

        The arguments are those of every Stable-Baselines3 algorithm. Logs are named after the
        class.

        Args:
            total_timesteps: total over all environments.
            callback: one or more callbacks, called at every step.
            log_interval: number of rollouts per row of the log.
            tb_log_name: name of this training in TensorBoard.
            reset_num_timesteps: count from 0, and start new episodes.
            progress_bar: show a progress bar.
            use_masking: apply the action masks of the environments (:mod:`mnm_rl.masks`). None
                applies masks if there are any, True requires masks, and False ignores masks.

        Raises:
            TrainingDivergedError: if a reward, observation, loss or gradient is NaN or infinite.
            ValueError: if masks are required but missing, or if a mask allows no action.
        """
        self._asked_masking = use_masking
        if progress_bar:
            announce_aloud()
        name = tb_log_name or type(self).__name__
        return super().learn(
            total_timesteps, callback, log_interval, name, reset_num_timesteps, progress_bar
        )


def _does_nothing(callback: BaseCallback) -> bool:
    """Whether a callback is what Stable-Baselines3 makes of none."""
    return (isinstance(callback, ConvertCallback) and callback.callback is None) or (
        type(callback) is CallbackList and all(map(_does_nothing, callback.callbacks))
    )


class _Moment:
    """The recurrent state at a moment: after some steps of a trace, or a state itself. A copy of it
    is the latter."""

    def __init__(self, origin: Trace[Any] | State, steps: int = 0) -> None:
        self._origin, self._steps = origin, steps

    def state(self) -> State:
        return cast(
            State,
            self._origin.state_after(self._steps)
            if isinstance(self._origin, Trace)
            else self._origin,
        )

    def __reduce__(self) -> tuple[Any, ...]:
        return _Moment, (self.state(),)


def _batch_of_one(observation: Any) -> Any:
    if isinstance(observation, dict):
        return {key: _batch_of_one(part) for key, part in observation.items()}
    return np.asarray(observation)[np.newaxis]


def _check_observation(
    observations: Any,
    space: spaces.Space[Any],
    step: int,
    what: str = "observation",
    first_env: int = 0,
) -> None:
    """Check a batch of observations; the first is that of ``first_env``."""
    if isinstance(space, spaces.Dict):
        for key, part in space.spaces.items():
            _check_observation(observations[key], part, step, f"{what} {key!r}", first_env)
        return
    _check_finite(observations, what, step, first_env)
    if (row := outside(observations, space)) is not None:
        raise ValueError(
            f"the {what} of environment {first_env + row} is outside of {space} at step {step:,}: "
            f"{observations[row]}"
        )


def _check_finite(array: NDArray[Any], what: str, step: int, first_env: int = 0) -> None:
    if (row := not_finite(array)) is not None:
        raise TrainingDivergedError(
            f"the {what} of environment {first_env + row} is NaN or infinite at step {step:,}"
        )


def _saved_attributes(path: str | Path | io.BufferedIOBase) -> dict[str, Any]:
    """The attributes in a file that ``save`` wrote, as JSON: pickles are text, and stay closed."""
    file = open_path(path, "r", suffix="zip")
    try:
        with zipfile.ZipFile(file) as archive:
            if "data" not in archive.namelist():
                raise ValueError("there is no data of a model in it")
            return cast(dict[str, Any], json.loads(archive.read("data")))
    finally:
        if isinstance(path, str | Path):
            file.close()


def _other_library(saved: dict[str, Any]) -> str | None:
    """Which of the libraries whose files look like ours has saved these attributes, or None if that
    was this one."""
    policy_class = saved.get("policy_class")
    library = (
        str(policy_class.get("__module__")).split(".")[0]
        if isinstance(policy_class, dict)
        else None
    )
    return library if library in ("stable_baselines3", "sb3_contrib") else None


def _find_classes_of_version_0_1_0() -> None:
    """Let the pickles of version 0.1.0, which did not yet write its version, find the classes that
    have moved since."""
    moved = {
        "mnm_rl.a2c.policies": "mnm_rl.algorithms.policies",
        "mnm_rl.a2c.buffers": "mnm_rl.algorithms.buffers",
        "mnm_rl.cores.recurrent": "mnm_rl.cores",
    }
    for before, now in moved.items():
        sys.modules.setdefault(before, sys.modules[now])

"""The common part of all on-policy algorithms for recurrent policies.

Each algorithm has its own file for the rest.
"""

import io
from difflib import get_close_matches
from functools import cache
from pathlib import Path
from typing import Any, ClassVar, Literal, Self, cast

import numpy as np
import torch
from gymnasium import spaces
from gymnasium.vector import VectorEnv
from numpy.typing import NDArray
from stable_baselines3.common.buffers import RolloutBuffer
from stable_baselines3.common.callbacks import BaseCallback, CallbackList, ConvertCallback
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.type_aliases import GymEnv, MaybeCallback
from stable_baselines3.common.utils import obs_as_tensor
from stable_baselines3.common.vec_env import VecEnv, unwrap_vec_normalize
from torch import Tensor

from mnm_rl._version import __version__
from mnm_rl.algorithms import distributed, pretrained, saving
from mnm_rl.algorithms.buffers import RecurrentDictRolloutBuffer, RecurrentRolloutBuffer
from mnm_rl.algorithms.checks import (
    check_final_observation,
    check_observation,
    check_spaces,
    checked_rewards,
    divergence_at,
    flattened,
    made,
)
from mnm_rl.algorithms.copies import state_of_copy, state_to_copy
from mnm_rl.algorithms.earlier import policy_kwargs_of
from mnm_rl.algorithms.onnx import export_onnx
from mnm_rl.algorithms.recurrent_policy import POLICIES, RecurrentActorCriticPolicy, State
from mnm_rl.cores.implementations import Stepper, log_once
from mnm_rl.kernels.announcement import announce_aloud
from mnm_rl.masks import action_masks, choices, heeds, innermost
from mnm_rl.vec_env import GymnasiumVecEnv, failures_named

ALGORITHMS: dict[str, "type[RecurrentOnPolicyAlgorithm]"] = {}
"""Every algorithm by its short name: the subclasses of :class:`RecurrentOnPolicyAlgorithm` that
have a ``short_name``."""


class RecurrentOnPolicyAlgorithm(OnPolicyAlgorithm):
    """Base class of on-policy algorithms for policies with a recurrent core.

    It contains everything except the constructor and ``train`` of an algorithm. One rollout of
    ``n_steps`` in every environment is one sequence for backpropagation through time. The sequence
    starts from the recurrent state at the start of the rollout. Advantages are GAE (Schulman et
    al. 2016).

    A subclass has every hyperparameter as an argument of its constructor and as an attribute of the
    same name. :meth:`export` writes these attributes. ``train`` of the subclass reads
    ``self.rollout_buffer.sequence()``, whole or in minibatches, and updates the policy with the
    functions of :mod:`mnm_rl.algorithms.updates`.

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

    short_name: ClassVar[str]
    """The name in :data:`ALGORITHMS`."""
    policy_aliases: ClassVar[dict[str, type[BasePolicy]]] = POLICIES
    policy: RecurrentActorCriticPolicy
    rollout_buffer: RecurrentRolloutBuffer
    records_rollouts: ClassVar[bool] = False
    """Whether rollouts keep what the gradient of all their steps needs, for updates that evaluate
    the whole rollout with the weights that collected it."""
    _asked_masking: bool | None = None
    _masking = False  # whether the environments' action masks are heeded

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if "short_name" in vars(cls):
            ALGORITHMS[cls.short_name] = cls

    def __init__(
        self,
        policy: str | type[RecurrentActorCriticPolicy],
        env: GymEnv | str,
        *,
        n_steps: int,
        normalize_advantage: bool,
        meta_coef: float,
        verbose: int = 0,
        device: torch.device | str = "auto",
        _init_setup_model: bool = True,
        **arguments: Any,
    ) -> None:
        if not isinstance(policy, str | type):
            raise TypeError(
                f"policy must be a name ({', '.join(self.policy_aliases)}) or a policy class, not "
                f"a {type(policy).__name__}"
            )
        if n_steps < 1:
            raise ValueError(f"n_steps must be at least 1, got {n_steps}")
        super().__init__(
            policy,
            made(env, verbose),
            n_steps=n_steps,
            verbose=verbose,
            device=device,
            **arguments,
            _init_setup_model=False,
        )
        if device == "auto" and self.device.type != "cpu":
            _announce_gpu(str(self.device), aloud=verbose >= 1)
        self.normalize_advantage = normalize_advantage
        self.meta_coef = meta_coef
        self._last_state = None
        self._unlogged: tuple[dict[str, Any], dict[str, Any]] | None = None
        if _init_setup_model:
            self._setup_model()

    @staticmethod
    def _wrap_env(env: Any, verbose: int = 0, monitor_wrapper: bool = True) -> VecEnv:
        env = made(env, verbose)
        if isinstance(env, type) or not hasattr(env, "observation_space"):
            wrong = (
                f"the class {env.__name__}; call it: {env.__name__}()"
                if isinstance(env, type)
                else f"a {type(env).__name__}, which has no observation_space"
            )
            raise TypeError(
                "env must be an environment of Gymnasium or Stable-Baselines3, or an id, not "
                f"{wrong}"
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

    def __getstate__(self) -> dict[str, Any]:
        return state_to_copy(vars(self))

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state_of_copy(state))
        self._vec_normalize_env = unwrap_vec_normalize(self.env) if self.env is not None else None

    def _excluded_save_params(self) -> list[str]:
        # A loaded model begins with new episodes: their observations go with the recurrent state,
        # which is large.
        new_episodes = ["_moment", "_last_obs", "_last_episode_starts"]
        return [*super()._excluded_save_params(), *new_episodes, "rollout_buffer_class"]

    @classmethod
    def hyperparameters(cls) -> list[str]:
        """Return the names of the constructor arguments that define the model.

        All arguments count, except those that say where and how the model runs.
        """
        return pretrained.hyperparameters(cls)

    @classmethod
    def load(
        cls,
        path: str | Path | io.BufferedIOBase,
        env: GymEnv | VectorEnv[Any, Any, Any] | str | None = None,
        device: torch.device | str = "auto",
        custom_objects: dict[str, Any] | None = None,
        print_system_info: bool = False,
        force_reset: bool = True,
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
            custom_objects: attributes to take instead of those of the file.
            print_system_info: print the system that saved the model, and this one.
            force_reset: start new episodes, as is done in any case.
            kwargs: attributes to change.

        Raises:
            FileNotFoundError: if the file does not exist.
            OtherSpacesError: if the model's spaces differ from those of ``env``; a ValueError.
            ValueError: if the file is not a model that this version of the library can read.
        """
        of_env = None if env is None else cls._wrap_env(env)
        return saving.load(
            super().load,
            path,
            of_env,
            device,
            custom_objects=custom_objects,
            print_system_info=print_system_info,
            force_reset=force_reset,
            **kwargs,
        )

    def export(
        self, path: str | Path, format: Literal["safetensors", "onnx"] = "safetensors"
    ) -> None:
        """Write the policy for use elsewhere, without the optimizer's state.

        ``"safetensors"`` is the format for :meth:`from_pretrained`: the parameters and a
        description of the model. The format contains no code. Arguments that JSON cannot hold (a
        learning rate schedule, your own features extractor or core) are named in the file. Pass
        them again to :meth:`from_pretrained`.

        ``"onnx"`` is the format for ONNX Runtime: one step of B environments, without PyTorch and
        without this library. The inputs are

        - ``observation [B, ...]``, as in the policy's observation space. A Dict space has one input
          ``observation_KEY`` per key, and images have channels first.
        - ``episode_start [B]`` bool.
        - the state, ``state_NAME [B, ...]``. At the start of an episode, any numbers are valid.

        The outputs are

        - ``action [B, ...]``, the most likely action, within the bounds of a Box.
        - ``logits`` of all choices side by side, or the ``action_mean`` of a Gaussian.
        - the new state, in the order of the inputs.

        Args:
            path: a directory for ``config.json`` and ``model.safetensors``, created if missing; or
                the file of the ONNX model.
            format: ``"safetensors"`` or ``"onnx"``.

        Raises:
            ValueError: if the format is unknown, or, except for ONNX, if the policy is not one of
                ``policy_aliases``.
            ImportError: if the format is ONNX and the packages of the extra ``onnx`` are missing.
        """
        if format == "onnx":
            export_onnx(self.policy, path)
            return
        if format != "safetensors":
            raise ValueError(f"format must be 'safetensors' or 'onnx', got {format!r}")
        pretrained.export_weights(self, path)

    @classmethod
    def from_pretrained(
        cls,
        directory: str | Path,
        env: GymEnv | VectorEnv[Any, Any, Any] | str | None = None,
        **arguments: Any,
    ) -> Self:
        """Read a model that :meth:`export` wrote.

        No code from the files runs, so files from strangers are safe. Nothing is built before the
        shapes in the description match those of the weights. The time and memory for reading
        therefore depend only on the size of the files.

        Args:
            directory: the directory given to :meth:`export`, or the name of a model that comes with
                the package, such as ``"mnm/Maze-v0:mnm-p"``
                (:func:`mnm_rl.trained.trained_models`).
            env: environments for further training, with the same spaces.
            arguments: constructor arguments that replace those of the model. ``policy_kwargs`` are
                added to the model's.

        Raises:
            FileNotFoundError: if one of the files is missing, or no model has this name.
            OtherSpacesError: if the model's spaces differ from those of ``env``; a ValueError.
            ValueError: if the files cannot be read, are of another version or algorithm, or lack an
                argument that was not passed again.
        """
        return pretrained.read_weights(cls, directory, env, **arguments)

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
        check_observation(self._last_obs, self.observation_space, self.num_timesteps)
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
        if self.env is None:
            raise ValueError("there are no environments to learn in: give set_env or load some")
        with failures_named(self.env, f"at step {self.num_timesteps:,}", note=False):
            total_timesteps, callback = super()._setup_learn(*args, **kwargs)
        distributed.begin_alike(
            self.policy, n_envs=self.n_envs, n_steps=self.n_steps, num_timesteps=self.num_timesteps
        )
        check_observation(self._last_obs, self.observation_space, self.num_timesteps)
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
        buffer, policy = self.rollout_buffer, self.policy
        policy.set_training_mode(False)
        buffer.reset()
        callback.on_rollout_start()  # which may begin new episodes
        if self._last_state is None:
            self._last_state = policy.initial_state(env.num_envs)
        buffer.recording = None  # its memory serves the next one
        if self.records_rollouts:
            buffer.recording = policy.record(self._last_state, n_rollout_steps)
            stepper = buffer.recording.stepper
        else:
            stepper = policy.stepper(self._last_state)
        if self.use_sde:
            self._reset_noise()

        now: Any = self._last_obs, self._last_episode_starts, _Moment(stepper)
        base = innermost(env)
        of_gymnasium = base if isinstance(base, GymnasiumVecEnv) else None
        others_act, as_built = not _does_nothing(callback), policy.acts_as_built
        try:
            for n_steps in range(n_rollout_steps):
                self._last_obs, self._last_episode_starts, self._moment = now
                if (
                    self.use_sde
                    and self.sde_sample_freq > 0
                    and n_steps % self.sde_sample_freq == 0
                ):
                    self._reset_noise()
                if buffer.starts_sequence:
                    buffer.keep_state(stepper.state())
                masks = self._masks_now(env)
                with torch.no_grad(), divergence_at(self.num_timesteps):
                    obs_tensor = obs_as_tensor(cast(Any, self._last_obs), self.device)
                    episode_starts = self._episode_starts_tensor()
                    actions_tensor, values, log_probs = policy.step(
                        obs_tensor, stepper, episode_starts, as_built, masks
                    )
                actions = actions_tensor.cpu().numpy()

                clipped_actions = actions
                if isinstance(self.action_space, spaces.Box):
                    if policy.squash_output:
                        clipped_actions = policy.unscale_action(clipped_actions)
                    else:
                        clipped_actions = np.clip(
                            actions, self.action_space.low, self.action_space.high
                        )

                with failures_named(env, f"at step {self.num_timesteps:,}"):
                    new_obs, rewards, dones, infos = env.step(clipped_actions)
                now = new_obs, dones, _Moment(stepper, n_steps + 1)
                self.num_timesteps += env.num_envs * distributed.world_size()
                rewards = checked_rewards(rewards, env.num_envs, self.num_timesteps)
                check_observation(new_obs, self.observation_space, self.num_timesteps)
                done = dones.nonzero()[0].tolist()
                for i in done:
                    final = infos[i].get("terminal_observation")
                    if final is not None and infos[i].get("TimeLimit.truncated"):
                        # Others have no value: a simulator may have ended there because it blew up.
                        check_final_observation(
                            final, self.observation_space, self.num_timesteps, i
                        )

                callback.update_locals(locals())
                if not callback.on_step():
                    return False
                if others_act:
                    stepper.look()
                    as_built = policy.acts_as_built
                self._update_info_buffer(infos, dones)

                if done:
                    resets = [i for i in done if of_gymnasium and of_gymnasium.resets[i]]
                    ended = [i for i in done if i not in resets]
                    rewards = self._bootstrap_truncated(rewards, ended, infos, stepper)
                    self._leave_out_resets(rewards, values, resets, infos)
                buffer.add(
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
            values = policy.predict_values(obs, state, self._episode_starts_tensor())
            for i in of_gymnasium.ended if of_gymnasium else ():
                if not infos[i]["TimeLimit.truncated"]:
                    values[i] = 0
        with np.errstate(all="ignore"):  # what overflows is named when it reaches the loss
            buffer.compute_returns_and_advantage(last_values=values, dones=dones)
        callback.update_locals(locals())
        callback.on_rollout_end()
        return True

    def _reset_noise(self) -> None:
        with divergence_at(self.num_timesteps):
            self.policy.reset_noise(self.n_envs)

    def _episode_starts_tensor(self) -> torch.Tensor:
        return torch.as_tensor(self._last_episode_starts, device=self.device, dtype=torch.bool)

    def _bootstrap_truncated(
        self,
        rewards: NDArray[np.float32],
        ended: list[int],
        infos: list[dict[str, Any]],
        stepper: Stepper[Any],
    ) -> NDArray[np.float32]:
        """Add the discounted value of the final observation, seen in the state that the episode
        ended in, where an episode was cut short rather than ended."""
        cut = [
            i
            for i in ended
            if infos[i].get("TimeLimit.truncated")
            and infos[i].get("terminal_observation") is not None
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
                obs, stepper.state(torch.tensor(cut, device=self.device)), starts
            )
        rewards = rewards.astype(np.float32)  # SubprocVecEnv hands on integers as they are
        rewards[cut] += self.gamma * values.flatten().cpu().numpy()
        return rewards

    def _leave_out_resets(
        self, rewards: NDArray[Any], values: Tensor, resets: list[int], infos: list[dict[str, Any]]
    ) -> None:
        """Where an environment only reset (see :class:`GymnasiumVecEnv`), let the episode end in
        the step before, with the value of the final observation, which the policy saw in this one,
        if it was cut short, and with none if not."""
        for i in resets:  # this step's own advantage is 0
            if infos[i]["TimeLimit.truncated"]:
                rewards[i] = values[i].item()
            else:
                rewards[i] = values[i] = 0
        if resets:
            self.rollout_buffer.mark_resets(resets)

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
    """The recurrent state at a moment, which may cost something to find: after some steps of a
    stepper, or a state itself. A copy holds the state."""

    def __init__(self, origin: Stepper[Any] | State, steps: int = 0) -> None:
        self._origin, self._steps = origin, steps

    def state(self) -> State:
        return cast(
            State,
            self._origin.state_after(self._steps)
            if isinstance(self._origin, Stepper)
            else self._origin,
        )

    def __reduce__(self) -> tuple[Any, ...]:
        return _Moment, (self.state(),)


@cache
def _announce_gpu(device: str, aloud: bool) -> None:
    """Say, once a process, what the choice of a GPU may cost: the user has not made it."""
    message = (
        f"device='auto' has picked {device}: small recurrent models with few environments are "
        "faster on the CPU, "
        "some of them ten times; set device='cpu' to use it"
    )
    log_once(message)
    if aloud:
        print(message)

"""The actor-critic policy around a recurrent core, of which the named policies are subclasses.

Stable-Baselines3's feature extractors come before the core, and its heads after the core.
"""

import inspect
import logging
import math
from collections.abc import Mapping
from copy import copy
from functools import cache
from operator import attrgetter
from typing import Any, ClassVar, Literal, cast, get_args

import numpy as np
import torch
from gymnasium import spaces
from numpy.typing import NDArray
from stable_baselines3.common.distributions import (
    BernoulliDistribution,
    CategoricalDistribution,
    DiagGaussianDistribution,
    Distribution,
    MultiCategoricalDistribution,
    StateDependentNoiseDistribution,
)
from stable_baselines3.common.policies import ActorCriticPolicy, BasePolicy
from stable_baselines3.common.preprocessing import is_image_space, is_image_space_channels_first
from stable_baselines3.common.torch_layers import (
    BaseFeaturesExtractor,
    CombinedExtractor,
    FlattenExtractor,
    MlpExtractor,
    NatureCNN,
)
from stable_baselines3.common.type_aliases import PyTorchObs, Schedule
from torch import Tensor

from mnm_rl.algorithms.checks import NotFiniteError, not_finite, outside, unchecked_distributions
from mnm_rl.algorithms.popart import PopArt
from mnm_rl.cores import RecurrentCore
from mnm_rl.cores.composite import ActorAndCritic, Layers, NoMemory
from mnm_rl.cores.core import make_state
from mnm_rl.cores.implementations import (
    Plain,
    Recording,
    Stepper,
    hooked,
    log_once,
    parts,
    recorded,
)
from mnm_rl.masks import checked, mask_distribution, mask_logits

State = tuple[Tensor, ...]
CriticCore = Literal["shared", "detached", "own", "none"]

POLICIES: dict[str, type[BasePolicy]] = {}
"""Every policy by its name: :class:`RecurrentActorCriticPolicy`, and its subclasses that name their
core."""


class RecurrentActorCriticPolicy(ActorCriticPolicy):
    """Actor and critic on the outputs of one recurrent core.

    Use one of the subclasses, or a core of your own. Pass the core as ``core_class`` in
    ``policy_kwargs``, or give it a name. These two lines make ``"MyPolicy"`` known to every
    algorithm, and a later class of the same name replaces it::

        class MyPolicy(RecurrentActorCriticPolicy):
            core_class = MyCore

    Arguments that are not listed here go to the core if its constructor accepts them. The others
    are those of Stable-Baselines3's ``ActorCriticPolicy``, with the same meaning. ``net_arch``
    comes after the core and is empty by default.

    Args:
        observation_space: any space for which Stable-Baselines3 has a features extractor. Unless
            ``features_extractor_class`` is given, the space selects the extractor. Images use
            Stable-Baselines3's CNN, or are flattened if they are smaller than 36 x 36, its minimum.
            Dict combines all keys. All other spaces are flattened.
        action_space: Discrete, Box, MultiDiscrete or MultiBinary.
        lr_schedule: learning rate as a function of the remaining progress (from 1 to 0).
        core_layers: number of stacked cores.
        core_dropout: share of the outputs between two of these layers that is dropped in training.
        critic_core: the memory of the critic: that of the actor (``"shared"``), the same without
            its gradient (``"detached"``), one of its own (``"own"``), or none (``"none"``).
        popart: normalize the returns that the critic learns, so that rewards may have any scale
            (see :class:`mnm_rl.algorithms.popart.PopArt`). None normalizes if the critic's gradient
            reaches the actor's memory (``critic_core`` is ``"shared"``) and ``value_net`` is the
            one that this class built.
        ortho_init: use Stable-Baselines3's initialization. This initialization shrinks the action
            head a hundredfold, and with it the gradients that reach the memory. Off by default, and
            on for the policies with sb3-contrib's names.
        core_class: the core, built as ``core_class(input_size, **core_kwargs)``. Not allowed in
            subclasses that name their core.
        core_kwargs: further arguments of the core. Use it for arguments whose names
            ``ActorCriticPolicy`` also has.

    Raises:
        TypeError: for an argument that neither the policy nor its core accepts, and if there is no
            core, or two.
        ValueError: if ``share_features_extractor`` is false although actor and critic share one
            memory. One extractor feeds this memory.

    Subclasses and policy objects may override Stable-Baselines3's methods and modules.
    ``extract_features``, ``_build_mlp_extractor``, ``action_net``, ``value_net``, ``action_dist``,
    ``_get_action_dist_from_latent``, ``get_distribution`` and ``predict_values`` take effect in
    rollouts, updates and ``predict``. ``forward`` takes effect in rollouts and in ``predict``,
    ``evaluate_actions`` in updates, and ``_predict`` in ``predict``.
    """

    core_class: type[RecurrentCore[Any]]
    ppo_learning_rate: ClassVar[float] = 2e-3
    """The learning rate of :meth:`ppo_defaults`."""
    _last_like: tuple[tuple[Any, ...], State] | None = None

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if "core_class" in vars(cls):
            POLICIES[cls.__name__] = cls

    def __init__(
        self,
        observation_space: spaces.Space[Any],
        action_space: spaces.Space[Any],
        lr_schedule: Schedule,
        core_class: type[RecurrentCore[Any]] | None = None,
        core_kwargs: dict[str, Any] | None = None,
        net_arch: list[int] | dict[str, list[int]] | None = None,
        features_extractor_class: type[BaseFeaturesExtractor] | None = None,
        share_features_extractor: bool = True,
        core_layers: int = 1,
        core_dropout: float = 0.0,
        critic_core: CriticCore = "shared",
        popart: bool | None = None,
        ortho_init: bool = False,
        **kwargs: Any,
    ) -> None:
        if critic_core not in get_args(CriticCore):
            raise ValueError(
                f"critic_core must be one of {', '.join(get_args(CriticCore))}, got {critic_core!r}"
            )
        if core_layers < 1:
            raise ValueError(f"core_layers must be at least 1, got {core_layers}")
        self.core_layers, self.core_dropout, self.critic_core = (
            core_layers,
            core_dropout,
            critic_core,
        )
        self.asked_popart = popart
        if not share_features_extractor and critic_core in ("shared", "detached"):
            raise ValueError(
                "share_features_extractor=False is not possible: actor and critic share one "
                "memory and its input"
            )
        name = type(self).__name__
        if (core_class is None) != hasattr(type(self), "core_class"):
            raise TypeError(
                f"{name} needs a core_class"
                if core_class is None
                else f"{name} has a core_class of its own"
            )
        if core_class is not None:
            self.core_class = core_class
        self.core_kwargs = (core_kwargs or {}) | _pop_core_kwargs(self.core_class, kwargs, name)
        if features_extractor_class is None:
            if isinstance(observation_space, spaces.Dict):
                features_extractor_class = DictExtractor
            elif _takes_cnn(observation_space, kwargs.get("normalize_images", True)):
                features_extractor_class = NatureCNN
            else:
                features_extractor_class = FlattenExtractor
        if (
            kwargs.get("optimizer_class", torch.optim.Adam) is torch.optim.Adam
            and kwargs.get("optimizer_kwargs") is None
        ):
            # Stable-Baselines3's, with all parameters in one call
            kwargs["optimizer_kwargs"] = {"eps": 1e-5, "fused": True}
        super().__init__(
            observation_space,
            action_space,
            lr_schedule,
            net_arch=[] if net_arch is None else net_arch,
            features_extractor_class=features_extractor_class,
            share_features_extractor=share_features_extractor,
            ortho_init=ortho_init,
            **kwargs,
        )
        if not hasattr(self, "core"):
            raise TypeError(
                f"_build of {name} must call super()._build, or _build_cores before anything "
                "else: it left no core"
            )

    @classmethod
    def ppo_defaults(cls, policy_kwargs: dict[str, Any]) -> dict[str, Any]:
        """Return the defaults of :class:`mnm_rl.RecurrentPPO` that were tuned for this policy.

        These are ``learning_rate`` and ``target_kl`` (docs/results.md), for these arguments of the
        policy, including those in ``core_kwargs``. They apply unless the user passes other values.
        Your own policy may return only one of the two.
        """
        return {"learning_rate": cls.ppo_learning_rate, "target_kl": 0.05}

    def _build(self, lr_schedule: Schedule) -> None:
        self._build_cores()
        super()._build(lr_schedule)
        self.popart.normalize(self.value_net)
        if type(self.mlp_extractor) is not MlpExtractor:
            self._check_mlp_extractor()

    def _check_mlp_extractor(self) -> None:
        was_training, width = self.mlp_extractor.training, self.actor_core.output_size
        try:
            with torch.no_grad():
                self.mlp_extractor.eval().forward_actor(torch.zeros(2, width, device=self.device))
        except (RuntimeError, ValueError) as error:
            raise ValueError(
                f"mlp_extractor must take the outputs of actor_core, [B, {width}], not features "
                "(features_dim is "
                f"{self.features_dim}): {error}"
            ) from error
        self.mlp_extractor.train(was_training)

    def _build_cores(self) -> None:
        actor = self._build_core()
        if self.critic_core in ("shared", "detached"):
            self.core = actor
        else:
            critic = (
                self._build_core()
                if self.critic_core == "own"
                else NoMemory(self.features_dim, actor.output_size)
            )
            self.core = ActorAndCritic(actor, critic, own_inputs=not self.share_features_extractor)
        self.popart = PopArt()

    def _build_mlp_extractor(self) -> None:
        """Build ``mlp_extractor``, the layers after the core.

        Their input is the output of ``actor_core``, ``[B, output_size]``.
        """
        self.mlp_extractor = MlpExtractor(
            self.actor_core.output_size, self.net_arch, self.activation_fn, self.device
        )

    def _build_core(self) -> RecurrentCore[Any]:
        layers = [self.core_class(self.features_dim, **self.core_kwargs)]
        for _ in range(1, self.core_layers):
            layers.append(self.core_class(layers[-1].output_size, **self.core_kwargs))
        return layers[0] if len(layers) == 1 else Layers(layers, self.core_dropout)

    @property
    def actor_core(self) -> RecurrentCore[Any]:
        """The core of the actor, the only memory that playing needs."""
        return self.core.actor if isinstance(self.core, ActorAndCritic) else self.core

    def _get_constructor_parameters(self) -> dict[str, Any]:
        data = super()._get_constructor_parameters() | {
            name: getattr(self, name)
            for name in ("share_features_extractor", "core_layers", "core_dropout", "critic_core")
        }
        data["popart"] = self.asked_popart
        own = {} if hasattr(type(self), "core_class") else {"core_class": self.core_class}
        return data | own | {"core_kwargs": self.core_kwargs}

    def load_state_dict(
        self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False
    ) -> Any:
        if strict and not any(key.startswith("popart.") for key in state_dict):
            # Weights of version 0.1.0 have no statistics: theirs are mean 0 and deviation 1.
            of_popart = PopArt().state_dict().items()
            state_dict = {**state_dict, **{f"popart.{name}": value for name, value in of_popart}}
        return super().load_state_dict(state_dict, strict, assign)

    def __getstate__(self) -> dict[str, Any]:
        # The distribution that was asked for last holds a graph, which cannot be copied; the noise
        # of exploration is kept.
        dist = copy(self.action_dist)
        for name, part in vars(dist).items():
            setattr(dist, name, part.detach() if isinstance(part, Tensor) else part)
        vars(dist).update(
            {name: None for name in ("distribution", "weights_dist") if name in vars(dist)}
        )
        return self.__dict__ | {"action_dist": dist}

    def initial_state(self, n_envs: int) -> State:
        """Return the state of ``n_envs`` new episodes, without gradient."""
        with torch.no_grad():
            return cast(State, self.core.initial_state(n_envs))

    def stepper(self, state: State) -> Stepper[Any]:
        """Continue from a state, by calls of :meth:`step`."""
        if self.acts_as_built:
            return self.core.stepper(state)
        return Stepper(Plain(self.core), state)

    def record(self, state: State, steps: int) -> Recording[Any]:
        """Continue from a state by ``steps`` calls of :meth:`step`, and keep what their gradient
        needs."""
        if self.acts_as_built:
            return self.core.record(state, steps)
        return Recording(self.stepper(state))

    def _own(self, *methods: str) -> bool:
        """Whether neither a class nor this policy object overrides any of these methods."""
        own, kind = self.__dict__, type(self)
        # A loop, since this runs at every step: all(...) takes twice as long.
        for name in methods:
            if name in own or getattr(kind, name) is not _METHODS[name]:
                return False
        return True

    @property
    def acts_as_built(self) -> bool:
        """Whether a rollout step may skip :meth:`forward`, because the result would be the same.

        Then nothing observes whether :meth:`forward` is called.
        """
        return self._own("__call__", "forward", "get_distribution", "predict_values") and not (
            hooked(self) or hooked(self.core)
        )

    @property
    def predicts_as_built(self) -> bool:
        """Whether ``predict`` acts by :meth:`get_distribution`, overridden or not."""
        of_distribution = not self._own("get_distribution") or self._own("__call__", "forward")
        return self._own("_predict") and of_distribution

    @property
    def _is_plain_categorical(self) -> bool:
        """Whether actions are plain samples from the softmax of ``action_net``'s outputs."""
        dist = self.action_dist
        return (
            type(dist) is CategoricalDistribution
            and self._own("_get_action_dist_from_latent")
            and _methods_of(CategoricalDistribution) == _CATEGORICAL
            and _NAMES.isdisjoint(vars(dist))
        )

    def _features(self, obs: PyTorchObs, *batch: int, actor_only: bool = False) -> Tensor:
        """Map observations ``[*batch, ...]`` to the core's inputs ``[*batch, F]``.

        If actor and critic have separate extractors, the result holds the features of both.
        """
        # in the shapes of the space: the buffer gives Discrete observations one dimension more
        rows: PyTorchObs
        if isinstance(self.observation_space, spaces.Dict):
            assert isinstance(obs, dict)
            parts = self.observation_space.spaces
            rows = {
                key: o.reshape(-1, *cast(tuple[int, ...], parts[key].shape))
                for key, o in obs.items()
            }
        else:
            assert isinstance(obs, Tensor)
            rows = obs.reshape(-1, *cast(tuple[int, ...], self.observation_space.shape))
        features: Any
        if actor_only and not self.share_features_extractor and self._own("extract_features"):
            features = BasePolicy.extract_features(self, rows, self.pi_features_extractor)
        else:
            features = self.extract_features(rows)
        if not isinstance(features, Tensor):
            features = features[0] if actor_only else torch.cat(features, dim=-1)
        extractors = 1 if self.share_features_extractor or actor_only else 2
        width = features.shape[-1] // extractors
        if width != self.features_dim and self._own("extract_features"):
            raise ValueError(
                f"{self.features_extractor_class.__name__} gives {width} features, and its "
                f"features_dim is {self.features_dim}"
            )
        return cast(Tensor, features).view(*batch, -1)

    def _one_step(
        self, obs: PyTorchObs, state: State, episode_starts: Tensor
    ) -> tuple[Tensor, State]:
        features = self._features(obs, 1, episode_starts.shape[0])
        outputs, state, _ = self.core(features, state, _truths(episode_starts).unsqueeze(0))
        return outputs[0], state

    def forward(  # type: ignore[override]
        self,
        obs: PyTorchObs,
        state: State,
        episode_starts: Tensor,
        deterministic: bool = False,
        action_masks: Tensor | None = None,
    ) -> tuple[Tensor, Tensor, Tensor, State]:
        """Take one step.

        ``action_masks [B, width]`` bool is false for forbidden actions (:mod:`mnm_rl.masks`). None
        allows all actions.

        Returns:
            actions ``[B, *action_shape]``
            values ``[B, 1]``
            log-probabilities ``[B]``
            the new state
        """
        latent, new_state = self._one_step(obs, state, episode_starts)
        if self._own("get_distribution", "predict_values"):
            return *self._act(latent, deterministic, action_masks), new_state
        distribution, _ = self.get_distribution(
            obs,
            self._of_actor(state),
            episode_starts,
            **_given(self.get_distribution, action_masks),
        )
        actions = distribution.get_actions(deterministic=deterministic)
        log_prob = distribution.log_prob(actions)
        return (
            self._shaped(actions),
            self.predict_values(obs, state, episode_starts),
            log_prob,
            new_state,
        )

    def step(
        self,
        obs: PyTorchObs,
        stepper: Stepper[Any],
        episode_starts: Tensor,
        as_built: bool = False,
        action_masks: Tensor | None = None,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Take one step of a rollout like :meth:`forward`, with the state in a stepper.

        The step advances the stepper.

        Args:
            obs: ``[B, ...]``.
            stepper: from :meth:`stepper` or :meth:`record`.
            episode_starts: ``[B]`` bool.
            as_built: the value of :attr:`acts_as_built`, if the caller knows this value.
            action_masks: as for :meth:`forward`.

        Returns:
            actions ``[B, *action_shape]``
            values ``[B, 1]``
            log-probabilities ``[B]``
        """
        if as_built or self.acts_as_built:
            latent = stepper.step(self._features(obs, len(episode_starts)), episode_starts)
            return self._act(latent, action_masks=action_masks)
        what = "actions, values, log-probabilities and the new state"
        results = self(obs, stepper.state(), episode_starts, **_given(self.forward, action_masks))
        actions, values, log_prob, state = self._returned("forward", results, 4, what)
        stepper.go_to(make_state(stepper.initial_state, state))
        return actions, values, log_prob

    def _returned(self, method: str, results: Any, n: int, what: str) -> Any:
        """What an overridden method returned, if these are so many things."""
        if not isinstance(results, tuple) or len(results) != n:
            got = (
                f"{len(results)} things"
                if isinstance(results, tuple)
                else f"a {type(results).__name__}"
            )
            raise TypeError(
                f"{method} of {type(self).__name__} must return {what}, it returned {got}"
            )
        return results

    def _of_actor(self, state: State) -> State:
        """The actor's part of the state."""
        return cast(
            State,
            self.core.parts(cast(Any, state))[0]
            if isinstance(self.core, ActorAndCritic)
            else state,
        )

    def _latents(self, latent: Tensor) -> tuple[Tensor, Tensor]:
        """What actor and critic make of the core's outputs ``[B, D]``."""
        actor, critic = latent, latent
        if self.critic_core == "detached":
            critic = latent.detach()
        elif self.critic_core != "shared":
            actor, critic = latent.chunk(2, dim=-1)
        return self.mlp_extractor.forward_actor(actor), self.mlp_extractor.forward_critic(critic)

    def _act(
        self, latent: Tensor, deterministic: bool = False, action_masks: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Actions ``[B, *action_shape]``, values ``[B, 1]`` and log-probabilities ``[B]`` of the
        core's outputs ``[B, D]``."""
        latent_pi, latent_vf = self._latents(latent)
        if self._is_plain_categorical:
            logits = self._logits(latent_pi, action_masks)
            actions = _chosen(logits, deterministic)
            log_prob = logits.log_softmax(dim=1).gather(1, actions.unsqueeze(1)).squeeze(1)
        else:
            distribution = self._distribution(latent_pi, action_masks)
            actions = distribution.get_actions(deterministic=deterministic)
            log_prob = distribution.log_prob(actions)
        return self._shaped(actions), self.value_net(latent_vf), log_prob

    def _shaped(self, actions: Tensor) -> Tensor:
        return actions.reshape((-1, *cast(tuple[int, ...], self.action_space.shape)))

    @property
    def normalizes_returns(self) -> bool:
        """Whether the critic learns normalized returns."""
        asked = self.critic_core == "shared" if self.asked_popart is None else self.asked_popart
        return asked and self.popart.normalizes(self.value_net)

    @property
    def return_std(self) -> Tensor:
        """Standard deviation of the returns, a scalar; 1 without normalized returns."""
        return (
            self.popart.std
            if self.popart.normalizes(self.value_net)
            else torch.ones_like(self.popart.std)
        )

    def take_in_returns(self, returns: Tensor) -> None:
        """Adapt a normalized value head to the scale of the returns; values stay the same.

        Raises:
            ValueError: if ``popart=True`` was requested, but ``value_net`` is not the one that this
                class built.
        """
        if self.normalizes_returns:
            self.popart.update(returns, self.value_net)
        elif self.asked_popart:
            raise ValueError(
                "popart=True rescales the linear layer that the policy has as its value_net, and "
                "cannot do so with the "
                f"{type(self.value_net).__name__} that was put in its place: leave out popart, or "
                "set it to False"
            )

    def _action_parameters(self, latent_pi: Tensor) -> Tensor:
        """Logits or means of the action distributions, ``[B, ...]``; torch would refuse those that
        are not finite."""
        parameters = self.action_net(latent_pi)
        # A sum takes a fraction of isfinite's time at every step, and misses nothing; it may be too
        # large where no part is. What is recorded has no numbers to look at.
        known = not recorded() and isinstance(parameters, Tensor)
        if (
            known
            and not math.isfinite(parameters.detach().sum())
            and not parameters.isfinite().all()
        ):
            raise NotFiniteError("the policy's outputs became NaN or infinite")
        return cast(Tensor, parameters)

    def _logits(self, latent_pi: Tensor, action_masks: Tensor | None) -> Tensor:
        logits = self._action_parameters(latent_pi)
        return logits if action_masks is None else mask_logits(logits, action_masks)

    def _distribution(self, latent_pi: Tensor, action_masks: Tensor | None) -> Distribution:
        distribution = self._get_action_dist_from_latent(latent_pi)
        return (
            distribution if action_masks is None else mask_distribution(distribution, action_masks)
        )

    def _get_action_dist_from_latent(self, latent_pi: Tensor) -> Distribution:
        parameters, dist = [self._action_parameters(latent_pi)], self.action_dist
        if isinstance(dist, DiagGaussianDistribution | StateDependentNoiseDistribution):
            self._check_spread()
            parameters += (
                [self.log_std, latent_pi]
                if isinstance(dist, StateDependentNoiseDistribution)
                else [self.log_std]
            )
        elif not isinstance(
            dist, CategoricalDistribution | MultiCategoricalDistribution | BernoulliDistribution
        ):
            raise ValueError(
                f"the distribution {type(dist).__name__} is none of Stable-Baselines3's: override "
                "_get_action_dist_from_latent, "
                "which makes it from the actor's latents"
            )
        return _unchecked(dist, *parameters) if recorded() else dist.proba_distribution(*parameters)

    def _check_spread(self) -> None:
        dist = self.action_dist
        std = (
            dist.get_std(self.log_std)
            if isinstance(dist, StateDependentNoiseDistribution)
            else self.log_std.exp()
        )
        if not recorded() and not (std.isfinite() & (std > 0)).all():
            raise NotFiniteError(
                "the standard deviation of the policy's actions became zero or infinite"
            )

    def reset_noise(self, n_envs: int = 1) -> None:
        """Draw new matrices of state-dependent exploration for ``n_envs`` environments."""
        if self.use_sde:
            self._check_spread()
        super().reset_noise(n_envs)

    def predict_values(self, obs: PyTorchObs, state: State, episode_starts: Tensor) -> Tensor:  # type: ignore[override]
        """Return values ``[B, 1]`` of observations ``[B, ...]`` in ``state``."""
        latent, _ = self._one_step(obs, state, episode_starts)
        return cast(Tensor, self.value_net(self._latents(latent)[1]))

    def get_distribution(  # type: ignore[override]
        self,
        obs: PyTorchObs,
        state: State,
        episode_starts: Tensor,
        action_masks: Tensor | None = None,
    ) -> tuple[Distribution, State]:
        """Return the action distribution for observations ``[B, ...]``, and the new state.

        The policy sees the observations in ``state``. Both states are those of ``actor_core``.
        """
        latent_pi, state = self._actor_latent(obs, state, episode_starts)
        return self._distribution(latent_pi, action_masks), state

    def _actor_latent(
        self, obs: PyTorchObs, state: State, episode_starts: Tensor
    ) -> tuple[Tensor, State]:
        features = self._features(obs, 1, episode_starts.shape[0], actor_only=True)
        latent, state, _ = self.actor_core(features, state, _truths(episode_starts).unsqueeze(0))
        return self.mlp_extractor.forward_actor(latent[0]), state

    def evaluate_actions(  # type: ignore[override]
        self,
        obs: PyTorchObs,
        actions: Tensor,
        state: State,
        episode_starts: Tensor,
        recording: Recording[Any] | None = None,
        action_masks: Tensor | None = None,
    ) -> tuple[Tensor, Tensor, Tensor | None, Tensor]:
        """Compute values, log-probabilities and entropies of a rollout, with gradient.

        Args:
            obs: ``[T, B, ...]``.
            actions: ``[T, B, action_dim]``, or ``[T, B]`` for Discrete.
            state: recurrent state before the first step, batch first.
            episode_starts: ``[T, B]`` bool.
            recording: the steps as the rollout recorded them, to avoid a second run.
            action_masks: the masks of the rollout, ``[T, B, width]`` bool; None if there were none.

        Returns:
            values ``[T, B]``
            log-probabilities ``[T, B]``
            entropies ``[T, B]``, None if the distribution has no closed form
            meta-loss ``[T, B]``
        """
        episode_starts = _truths(episode_starts)
        features = self._features(obs, *episode_starts.shape)
        if recording is None:
            outputs, _, meta_loss = self.core(features, state, episode_starts)
        else:
            outputs, meta_loss = recording.replay(features, episode_starts)
        latent_pi, latent_vf = self._latents(outputs.flatten(0, 1))
        taken, masks = (
            actions.flatten(0, 1),
            None if action_masks is None else action_masks.flatten(0, 1),
        )
        entropy: Tensor | None
        if not self._own("get_distribution", "predict_values"):
            values, log_prob, entropy = self._asked(
                obs, actions, state, episode_starts, action_masks
            )
        elif self._is_plain_categorical:
            # as in _act
            values, log_probs = (
                self.value_net(latent_vf),
                self._logits(latent_pi, masks).log_softmax(dim=1),
            )
            log_prob = log_probs.gather(1, taken.long().unsqueeze(1))
            entropy = -(log_probs.exp() * log_probs).sum(dim=1)
        else:
            values, distribution = self.value_net(latent_vf), self._distribution(latent_pi, masks)
            log_prob, entropy = distribution.log_prob(taken), distribution.entropy()
        values, log_prob = values.view_as(meta_loss), log_prob.view_as(meta_loss)
        return values, log_prob, None if entropy is None else entropy.view_as(meta_loss), meta_loss

    def evaluate(
        self,
        obs: PyTorchObs,
        actions: Tensor,
        state: State,
        episode_starts: Tensor,
        recording: Recording[Any] | None,
        action_masks: Tensor | None = None,
    ) -> tuple[Tensor, Tensor, Tensor | None, Tensor]:
        """Call :meth:`evaluate_actions`.

        An overridden :meth:`evaluate_actions` does not receive the recording.
        """
        if self._own("evaluate_actions"):
            return self.evaluate_actions(
                obs, actions, state, episode_starts, recording, action_masks
            )
        what = "values, log-probabilities, entropies and meta-loss, [T, B] each"
        masks = _given(self.evaluate_actions, action_masks)
        given = self.evaluate_actions(obs, actions, state, episode_starts, **masks)
        results = self._returned("evaluate_actions", given, 4, what)
        return tuple(
            result if result is None else result.view(episode_starts.shape) for result in results
        )  # type: ignore[return-value]

    def compare(self, log_ratio: Tensor) -> None:
        """Log a warning, once, if an override acts only in rollouts or only in updates.

        Args:
            log_ratio: log-probabilities of the rollout's actions in the update, minus those in the
                rollout, with the same weights.
        """
        if self._own("forward") == self._own("evaluate_actions"):
            return
        difference = log_ratio.abs().max().item()
        if not difference < 0.01:
            one, other = (
                ("forward", "evaluate_actions")
                if self._own("evaluate_actions")
                else ("evaluate_actions", "forward")
            )
            log_once(
                f"{one} of {type(self).__name__} is overridden, and {other} is not: they give the "
                "same actions log-probabilities "
                f"that differ by up to {difference:.2g}, and the policy learns from the one of "
                "what the other did",
                logging.WARNING,
            )

    def _asked(
        self,
        obs: PyTorchObs,
        actions: Tensor,
        state: State,
        episode_starts: Tensor,
        action_masks: Tensor | None,
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """Values, log-probabilities and entropies of :meth:`evaluate_actions`, ``[T B]``, from what
        :meth:`predict_values` and :meth:`get_distribution` say of each step."""
        values, log_probs, entropies = [], [], []
        for t, starts in enumerate(episode_starts):
            now = {key: part[t] for key, part in obs.items()} if isinstance(obs, dict) else obs[t]
            masks = None if action_masks is None else action_masks[t]
            distribution, _ = self.get_distribution(
                now, self._of_actor(state), starts, **_given(self.get_distribution, masks)
            )
            log_probs.append(distribution.log_prob(actions[t]))
            entropies.append(distribution.entropy())
            values.append(self.predict_values(now, state, starts).flatten())
            _, state = self._one_step(now, state, starts)
        known = [entropy for entropy in entropies if entropy is not None]
        return (
            torch.cat(values),
            torch.cat(log_probs),
            torch.cat(known) if len(known) == len(entropies) else None,
        )

    def _predict(  # type: ignore[override]
        self,
        observation: PyTorchObs,
        state: State,
        episode_starts: Tensor,
        deterministic: bool = False,
        action_masks: Tensor | None = None,
    ) -> tuple[Tensor, State]:
        """Return actions for observations ``[B, ...]`` in ``state``, and the new state.

        ``state`` and the new state are those of ``actor_core``.
        """
        if not self._own("get_distribution"):
            distribution, state = self.get_distribution(
                observation, state, episode_starts, **_given(self.get_distribution, action_masks)
            )
            return distribution.get_actions(deterministic=deterministic), state
        if not self._own("__call__", "forward"):
            # the critic's part, which predict does not carry, has no say in actions
            if isinstance(self.core, ActorAndCritic):
                # len would be a constant in a record
                whole = self.initial_state(episode_starts.shape[0])
                state = make_state(whole, (*state, *whole[len(state) :]))
            asked = {"deterministic": True} if deterministic else {}
            actions, *_, state = self(
                observation, state, episode_starts, **asked, **_given(self.forward, action_masks)
            )
            return actions, self._of_actor(state)
        latent_pi, state = self._actor_latent(observation, state, episode_starts)
        if self._is_plain_categorical:
            return _chosen(self._logits(latent_pi, action_masks), deterministic), state
        return self._distribution(latent_pi, action_masks).get_actions(
            deterministic=deterministic
        ), state

    def predict(
        self,
        observation: NDArray[Any] | dict[str, NDArray[Any]],
        state: tuple[NDArray[Any], ...] | None = None,
        episode_start: NDArray[np.bool_] | None = None,
        deterministic: bool = False,
        action_masks: NDArray[Any] | None = None,
    ) -> tuple[NDArray[Any], tuple[NDArray[Any], ...] | None]:
        """Return actions for observations, like Stable-Baselines3's recurrent algorithms.

        Args:
            observation: one observation, or a batch of B.
            state: the state that the previous call returned, or None at the start. The batch size
                may differ from that in training.
            episode_start: ``[B]`` bool. True resets the state of that environment before the step.
            deterministic: take the most likely action instead of a sample.
            action_masks: allowed actions, ``[width]`` or ``[B, width]`` bool (:mod:`mnm_rl.masks`);
                None allows all.

        Returns:
            actions, without batch dimension if the observation had none
            the state, a tuple of arrays, batch first

        Raises:
            ValueError: if the observation is not in the observation space (values beyond the bounds
                of a Box are allowed). Also if ``state``, ``episode_start`` or ``action_masks`` do
                not fit the observation, if a mask allows no action, or if the policy computes NaN
                or infinite values.
        """
        if any(part.training for part in parts(self)):
            self.set_training_mode(False)
        obs, vectorized = self.obs_to_tensor(self._checked_observation(observation))
        any_obs = next(iter(obs.values())) if isinstance(obs, dict) else obs
        B = len(any_obs)
        starts = (
            np.zeros(B, dtype=bool)
            if episode_start is None
            else np.asarray(episode_start, dtype=bool).reshape(-1)
        )
        if len(starts) != B:
            raise ValueError(
                f"episode_start must have one entry for each of the {B} observations, got "
                f"{len(starts)}"
            )
        masks = None
        if action_masks is not None:
            masks = torch.from_numpy(checked(action_masks, self.action_space, B)).to(any_obs.device)
        with torch.no_grad():
            starts_tensor = torch.from_numpy(starts).to(any_obs.device)
            state_now, given = self._checked_state(state, B), _given(self._predict, masks)
            actions, new_state = self._predict(
                obs, state_now, starts_tensor, deterministic, **given
            )
        shape = cast(tuple[int, ...], self.action_space.shape)
        out: NDArray[Any] = actions.cpu().numpy().reshape((-1, *shape))
        if isinstance(self.action_space, spaces.Box):
            out = (
                self.unscale_action(out)
                if self.squash_output
                else np.clip(out, self.action_space.low, self.action_space.high)
            )
        return out if vectorized else out.squeeze(axis=0), tuple(s.cpu().numpy() for s in new_state)

    def _checked_observation(self, observation: Any) -> Any:
        space = self.observation_space
        if isinstance(observation, dict) != isinstance(space, spaces.Dict) or isinstance(
            observation, tuple
        ):
            if isinstance(observation, tuple) and isinstance(observation[-1], dict):
                advice = " (reset gives an observation and an info)"
            elif isinstance(space, spaces.Box):
                advice = (
                    "; what training flattened is flattened with gymnasium.spaces.flatten(space, "
                    "observation), or by gymnasium.wrappers.FlattenObservation around the "
                    "environment"
                )
            else:
                advice = ""
            raise ValueError(
                f"the observation must be in {space}, got a {type(observation).__name__}{advice}"
            )
        if isinstance(space, spaces.Dict) and observation.keys() != space.spaces.keys():
            raise ValueError(
                f"the observation must have the keys {sorted(space.spaces)}, got "
                f"{sorted(observation)}"
            )
        parts = space.spaces if isinstance(space, spaces.Dict) else {None: space}
        for key, part in parts.items():
            array, what = (
                (observation, "the observation")
                if key is None
                else (observation[key], f"the observation {key!r}")
            )
            array = np.asarray(array)
            if array.dtype.kind not in "biuf":
                raise ValueError(f"{what} must be in {part}, got {array.dtype}")
            if not_finite(array) is not None:
                raise ValueError(f"{what} is NaN or infinite")
            if outside(np.atleast_1d(array), part) is not None:
                raise ValueError(f"{what} is outside of {part}: {array}")
        return observation

    def _checked_state(self, state: tuple[NDArray[Any], ...] | None, n_envs: int) -> State:
        core = self.actor_core
        if state is None:
            with torch.no_grad():
                return cast(State, core.initial_state(n_envs))
        like = self._state_like()
        arrays = [
            np.asarray(part) for part in (state if isinstance(state, tuple | list) else [state])
        ]
        wanted = [(n_envs, *part.shape[1:]) for part in like]
        if [array.shape for array in arrays] != wanted or any(
            array.dtype.kind != "f" for array in arrays
        ):
            got = ", ".join(f"{array.dtype} {list(array.shape)}" for array in arrays)
            raise ValueError(
                f"state must be what predict returned for {n_envs} environments (float arrays of "
                "the shapes "
                f"{', '.join(str(list(shape)) for shape in wanted)}) or None, got {got}"
            )
        if any(not_finite(array) is not None for array in arrays):
            raise ValueError("state holds a NaN or an infinity")
        parts = (torch.from_numpy(array) for array in arrays)
        return make_state(
            like,
            (
                p if p.dtype == s.dtype and s.is_cpu else p.to(s)
                for p, s in zip(parts, like, strict=True)
            ),
        )

    def _state_like(self) -> State:
        """A state of no environments, made anew only if the actor's core or its numbers are of
        another kind than before."""
        core = self.actor_core
        first = next(core.parameters(), None)
        kind = (core,) if first is None else (core, first.dtype, first.device)
        if self._last_like is None or self._last_like[0] != kind:
            with torch.no_grad():
                one = core.initial_state(1)
            self._last_like = (
                kind,
                make_state(one, (part.new_empty((0, *part.shape[1:])) for part in one)),
            )
        return self._last_like[1]


_METHODS = {
    name: getattr(RecurrentActorCriticPolicy, name)
    for name in (
        *(
            "__call__",
            "forward",
            "evaluate_actions",
            "get_distribution",
            "predict_values",
            "_predict",
        ),
        *("_get_action_dist_from_latent", "extract_features"),
    )
}
_NAMES = frozenset(("proba_distribution", "log_prob", "entropy", "sample", "mode", "get_actions"))
_methods_of = attrgetter(*_NAMES)
_CATEGORICAL = _methods_of(CategoricalDistribution)


def _given(method: Any, action_masks: Tensor | None) -> dict[str, Any]:
    """The argument of a method that may be overridden by one that knows of no masks.

    Raises:
        TypeError: if it is, and there are masks.
    """
    if action_masks is None:
        return {}
    if not _takes_masks(getattr(method, "__func__", method)):
        raise TypeError(
            f"{method.__qualname__} must take the argument action_masks=None to act with action "
            "masks, as the method "
            "that it overrides does; use_masking=False ignores masks"
        )
    return {"action_masks": action_masks}


@cache
def _takes_masks(function: Any) -> bool:
    parameters = inspect.signature(function).parameters
    return "action_masks" in parameters or any(p.kind is p.VAR_KEYWORD for p in parameters.values())


def _chosen(logits: Tensor, deterministic: bool) -> Tensor:
    """Actions ``[B]`` of logits ``[B, n]``: what torch's Categorical gives, which takes most of its
    time for checks."""
    return (
        logits.argmax(dim=1)
        if deterministic
        else torch.multinomial(logits.softmax(dim=1), 1).squeeze(1)
    )


def _unchecked(dist: Distribution, *parameters: Tensor) -> Distribution:
    """The distribution with these parameters, for a record: without checks of the numbers, which it
    has not."""
    with unchecked_distributions():
        dist = dist.proba_distribution(*parameters)
    of_torch: Any = dist.distribution
    for part in of_torch if isinstance(of_torch, list) else [of_torch]:
        part._validate_args = False
    return dist


def _truths(episode_starts: Tensor) -> Tensor:
    """Episode starts as bool: those of sb3-contrib are floats."""
    return episode_starts if episode_starts.dtype is torch.bool else episode_starts.bool()


def _takes_cnn(space: spaces.Space[Any], normalize_images: bool) -> bool:
    """Whether a space is one of images for Stable-Baselines3's CNN: of whole numbers up to 255, or,
    if it says that they are normalized, of any, with the channels first."""
    if _too_small_for_cnn(space):
        return False
    if normalize_images or not isinstance(space, spaces.Box) or space.dtype == np.uint8:
        return is_image_space(space)
    return (
        len(space.shape) == 3
        and is_image_space_channels_first(space)
        and is_image_space(space, check_channels=True, normalized_image=True)
    )


def _too_small_for_cnn(space: spaces.Space[Any]) -> bool:
    return isinstance(space, spaces.Box) and len(space.shape) == 3 and sorted(space.shape)[1] < 36


class DictExtractor(CombinedExtractor):
    """Stable-Baselines3's, but small images are flattened."""

    def __init__(self, observation_space: spaces.Dict, **kwargs: Any) -> None:
        shown = {
            key: spaces.Box(0, 1, (spaces.flatdim(space),)) if _too_small_for_cnn(space) else space
            for key, space in observation_space.spaces.items()
        }
        super().__init__(spaces.Dict(shown), **kwargs)


POLICIES["RecurrentActorCriticPolicy"] = RecurrentActorCriticPolicy


def _pop_core_kwargs(core: type[Any], kwargs: dict[str, Any], policy: str) -> dict[str, Any]:
    """Take the arguments of the core out of those of the policy; Stable-Baselines3's policy keeps
    what both know."""
    given = kwargs.keys() - inspect.signature(ActorCriticPolicy).parameters
    parameters = list(inspect.signature(core).parameters.values())[1:]  # the first is input_size
    names = [
        parameter.name for parameter in parameters if parameter.kind is not parameter.VAR_KEYWORD
    ]
    unknown = given.difference(names)
    if unknown and len(names) == len(parameters):
        raise TypeError(
            f"{policy} got an unexpected argument {min(unknown)!r}; its core takes "
            f"{', '.join(names) or 'none'}"
        )
    return {name: kwargs.pop(name) for name in list(kwargs) if name in given}

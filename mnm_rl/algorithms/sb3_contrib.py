"""sb3-contrib's recurrent policies, with its names, arguments, defaults and states."""

from typing import Any, ClassVar

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray
from stable_baselines3.common.torch_layers import (
    BaseFeaturesExtractor,
    FlattenExtractor,
    NatureCNN,
)
from stable_baselines3.common.type_aliases import Schedule

from mnm_rl.algorithms.recurrent_policy import DictExtractor, RecurrentActorCriticPolicy
from mnm_rl.cores import LstmCore


class MlpLstmPolicy(RecurrentActorCriticPolicy):
    """sb3-contrib's policy of this name: an LSTM each for actor and critic, then layers.

    Args:
        observation_space: as for the base class, like all arguments that are not listed here.
        action_space: the same.
        lr_schedule: the same.
        net_arch: layers after the LSTM, for the actor and for the critic; by default ``[64, 64]``,
            and none after a CNN.
        lstm_hidden_size: width of the LSTM.
        n_lstm_layers: number of stacked LSTM layers.
        shared_lstm: the critic uses the actor's LSTM, without training it.
        enable_critic_lstm: the critic has its own LSTM. If false and not shared, the critic has no
            memory.
        lstm_kwargs: ``{"dropout": share}``.
        features_extractor_class: the features extractor before the LSTM.
        share_features_extractor: actor and critic share one features extractor.

    Raises:
        AssertionError: for contradictory combinations, as in sb3-contrib.
        TypeError: for arguments of ``nn.LSTM`` other than ``dropout``.
    """

    core_class = LstmCore
    default_extractor: ClassVar[type[BaseFeaturesExtractor]] = FlattenExtractor

    @classmethod
    def ppo_defaults(cls, policy_kwargs: dict[str, Any]) -> dict[str, Any]:
        """Return the defaults of sb3-contrib."""
        return {"learning_rate": 3e-4, "target_kl": None}

    def __init__(
        self,
        observation_space: spaces.Space[Any],
        action_space: spaces.Space[Any],
        lr_schedule: Schedule,
        net_arch: list[int] | dict[str, list[int]] | None = None,
        *,
        lstm_hidden_size: int = 256,
        n_lstm_layers: int = 1,
        shared_lstm: bool = False,
        enable_critic_lstm: bool = True,
        lstm_kwargs: dict[str, Any] | None = None,
        features_extractor_class: type[BaseFeaturesExtractor] | None = None,
        share_features_extractor: bool = True,
        ortho_init: bool = True,
        **kwargs: Any,
    ) -> None:
        assert not (shared_lstm and enable_critic_lstm), (
            "the critic's LSTM is either shared, or its own, or there is none"
        )
        assert share_features_extractor or not shared_lstm, (
            "a shared LSTM needs a shared features extractor"
        )
        if unknown := (lstm_kwargs or {}).keys() - {"dropout"}:
            raise TypeError(f"lstm_kwargs may hold dropout, not {', '.join(sorted(unknown))}")
        self._given = dict(
            lstm_hidden_size=lstm_hidden_size,
            n_lstm_layers=n_lstm_layers,
            shared_lstm=shared_lstm,
            enable_critic_lstm=enable_critic_lstm,
            lstm_kwargs=lstm_kwargs,
            share_features_extractor=share_features_extractor,
        )
        features_extractor_class = features_extractor_class or self.default_extractor
        if net_arch is None:
            net_arch = [] if features_extractor_class is NatureCNN else [64, 64]
        super().__init__(
            observation_space,
            action_space,
            lr_schedule,
            net_arch=net_arch,
            features_extractor_class=features_extractor_class,
            share_features_extractor=share_features_extractor,
            core_kwargs={"hidden_size": lstm_hidden_size, "init": "pytorch"},
            core_layers=n_lstm_layers,
            core_dropout=(lstm_kwargs or {}).get("dropout", 0.0),
            critic_core="detached" if shared_lstm else "own" if enable_critic_lstm else "none",
            ortho_init=ortho_init,
            **kwargs,
        )

    def _get_constructor_parameters(self) -> dict[str, Any]:
        fixed = {"core_layers", "core_dropout", "critic_core", "core_kwargs"}
        data = super()._get_constructor_parameters()
        return {name: value for name, value in data.items() if name not in fixed} | self._given

    @property
    def lstm_output_dim(self) -> int:
        """Input width for ``_build_mlp_extractor``, under sb3-contrib's name."""
        return self.actor_core.output_size

    def predict(
        self,
        observation: NDArray[Any] | dict[str, NDArray[Any]],
        state: tuple[NDArray[Any], ...] | None = None,
        episode_start: NDArray[np.bool_] | None = None,
        deterministic: bool = False,
        action_masks: NDArray[Any] | None = None,
    ) -> tuple[NDArray[Any], tuple[NDArray[Any], ...] | None]:
        """Return actions as every policy does, but with a state in the form of sb3-contrib.

        The state is h and c of the actor's LSTM, both ``[n_lstm_layers, B, lstm_hidden_size]``.
        """
        if state is not None:
            h, c = state
            state = tuple(part for layer in zip(h, c, strict=True) for part in layer)
        actions, state = super().predict(
            observation, state, episode_start, deterministic, action_masks
        )
        assert state is not None
        return actions, (np.stack(state[0::2]), np.stack(state[1::2]))


class CnnLstmPolicy(MlpLstmPolicy):
    """sb3-contrib's policy of this name, for images, see :class:`MlpLstmPolicy`."""

    core_class = LstmCore
    default_extractor = NatureCNN


class MultiInputLstmPolicy(MlpLstmPolicy):
    """sb3-contrib's policy of this name, for Dict observations, see :class:`MlpLstmPolicy`."""

    core_class = LstmCore
    default_extractor = DictExtractor

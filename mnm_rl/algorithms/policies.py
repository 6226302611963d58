"""The library's policies, one for each memory, by their names."""

from typing import Any

from mnm_rl.algorithms.recurrent_policy import DictExtractor, RecurrentActorCriticPolicy
from mnm_rl.algorithms.sb3_contrib import CnnLstmPolicy, MlpLstmPolicy, MultiInputLstmPolicy
from mnm_rl.cores import (
    GruCore,
    LstmCore,
    MinGruCore,
    MnmCore,
    NtmCore,
    PlasticCore,
    RnnCore,
    SaluCore,
)
from mnm_rl.memory.rules import of_one_layer

__all__ = [
    "CnnLstmPolicy",
    "GruPolicy",
    "LstmPolicy",
    "MinGruPolicy",
    "MlpLstmPolicy",
    "MnmPolicy",
    "MultiInputLstmPolicy",
    "NtmPolicy",
    "PlasticPolicy",
    "RecurrentActorCriticPolicy",
    "RnnPolicy",
    "SaluPolicy",
]

_CombinedExtractor = DictExtractor  # its name in policies that earlier versions saved


class MnmPolicy(RecurrentActorCriticPolicy):
    """Policy with a metalearned neural memory.

    The policy takes the arguments of :class:`mnm_rl.MnmCore` and of the base class.
    """

    core_class = MnmCore

    @classmethod
    def ppo_defaults(cls, policy_kwargs: dict[str, Any]) -> dict[str, Any]:
        rule = policy_kwargs.get("write_rule", "p")
        variant = policy_kwargs.get("variant") or ("paper" if of_one_layer(rule) else "bounded")
        rate = 4e-3 if variant == "bounded" else 1e-3 if rule == "g" else 2e-3
        return super().ppo_defaults(policy_kwargs) | {"learning_rate": rate}


class PlasticPolicy(RecurrentActorCriticPolicy):
    """Policy with differentiable plasticity.

    The policy takes the arguments of :class:`mnm_rl.PlasticCore` and of the base class.
    """

    core_class = PlasticCore


class LstmPolicy(RecurrentActorCriticPolicy):
    """Policy with an LSTM.

    The policy takes the arguments of :class:`mnm_rl.LstmCore` and of the base class.
    """

    core_class = LstmCore
    ppo_learning_rate = 4e-3


class GruPolicy(RecurrentActorCriticPolicy):
    """Policy with a GRU.

    The policy takes the arguments of :class:`mnm_rl.GruCore` and of the base class.
    """

    core_class = GruCore
    ppo_learning_rate = 4e-3


class MinGruPolicy(RecurrentActorCriticPolicy):
    """Policy with a minGRU.

    The policy takes the arguments of :class:`mnm_rl.MinGruCore` and of the base class.
    """

    core_class = MinGruCore
    ppo_learning_rate = 4e-3


class RnnPolicy(RecurrentActorCriticPolicy):
    """Policy with a vanilla RNN.

    The policy takes the arguments of :class:`mnm_rl.RnnCore` and of the base class.
    """

    core_class = RnnCore


class SaluPolicy(RecurrentActorCriticPolicy):
    """Policy with a soft-attention look-up.

    The policy takes the arguments of :class:`mnm_rl.SaluCore` and of the base class.
    """

    core_class = SaluCore


class NtmPolicy(RecurrentActorCriticPolicy):
    """Policy with a Neural Turing Machine.

    The policy takes the arguments of :class:`mnm_rl.NtmCore` and of the base class.
    """

    core_class = NtmCore

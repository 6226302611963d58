"""Metalearned neural memory for reinforcement learning, with Stable-Baselines3 around it."""

import mnm_rl.kernels  # noqa: F401  (makes the fast implementations known to the cores)
from mnm_rl._version import __version__
from mnm_rl.algorithms.a2c import RecurrentA2C
from mnm_rl.algorithms.checks import OtherSpacesError, TrainingDivergedError
from mnm_rl.algorithms.policies import (
    CnnLstmPolicy,
    GruPolicy,
    LstmPolicy,
    MinGruPolicy,
    MlpLstmPolicy,
    MnmPolicy,
    MultiInputLstmPolicy,
    NtmPolicy,
    PlasticPolicy,
    RecurrentActorCriticPolicy,
    RnnPolicy,
    SaluPolicy,
)
from mnm_rl.algorithms.ppo import RecurrentPPO
from mnm_rl.cores import (
    GruCore,
    LstmCore,
    MinGruCore,
    MnmCore,
    NtmCore,
    PlasticCore,
    RecurrentCore,
    RnnCore,
    SaluCore,
)
from mnm_rl.memory import NeuralMemory
from mnm_rl.vec_env import GymnasiumVecEnv

__all__ = [
    "CnnLstmPolicy",
    "GruCore",
    "GruPolicy",
    "GymnasiumVecEnv",
    "LstmCore",
    "LstmPolicy",
    "MinGruCore",
    "MinGruPolicy",
    "MlpLstmPolicy",
    "MnmCore",
    "MnmPolicy",
    "MultiInputLstmPolicy",
    "NeuralMemory",
    "NtmCore",
    "NtmPolicy",
    "OtherSpacesError",
    "PlasticCore",
    "PlasticPolicy",
    "RecurrentA2C",
    "RecurrentActorCriticPolicy",
    "RecurrentCore",
    "RecurrentPPO",
    "RnnCore",
    "RnnPolicy",
    "SaluCore",
    "SaluPolicy",
    "TrainingDivergedError",
    "__version__",
]

"""Metalearned neural memory for reinforcement learning, with Stable-Baselines3 around it."""

__version__ = "0.1.0"

from mnm_rl import fused as _fused  # makes the fast implementations known
from mnm_rl.a2c import (
    LstmPolicy,
    MnmPolicy,
    PlasticPolicy,
    RecurrentA2C,
    RecurrentActorCriticPolicy,
    RnnPolicy,
    TrainingDivergedError,
)
from mnm_rl.cores import GruCore, LstmCore, MnmCore, PlasticCore, RecurrentCore, RnnCore
from mnm_rl.memory import NeuralMemory
from mnm_rl.vec_env import GymnasiumVecEnv

__all__ = [
    "GymnasiumVecEnv",
    "LstmCore",
    "LstmPolicy",
    "MnmCore",
    "MnmPolicy",
    "NeuralMemory",
    "PlasticCore",
    "PlasticPolicy",
    "RecurrentA2C",
    "RecurrentActorCriticPolicy",
    "RecurrentCore",
    "RnnCore",
    "RnnPolicy",
    "TrainingDivergedError",
]

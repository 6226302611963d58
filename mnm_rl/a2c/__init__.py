"""Recurrent A2C, its policies and its rollout buffer: all that knows Stable-Baselines3's algorithms."""

from mnm_rl.a2c.policies import LstmPolicy, MnmPolicy, PlasticPolicy, RecurrentActorCriticPolicy, RnnPolicy
from mnm_rl.a2c.recurrent_a2c import RecurrentA2C, TrainingDivergedError

__all__ = [
    "LstmPolicy",
    "MnmPolicy",
    "PlasticPolicy",
    "RecurrentA2C",
    "RecurrentActorCriticPolicy",
    "RnnPolicy",
    "TrainingDivergedError",
]

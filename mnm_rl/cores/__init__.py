"""Recurrent cores behind one interface: MNM, plastic RNNs, LSTM and vanilla RNN. No Stable-Baselines3 in here."""

from mnm_rl.cores.core import RecurrentCore
from mnm_rl.cores.mnm import MnmCore, MnmState
from mnm_rl.cores.plastic import PlasticCore, PlasticState
from mnm_rl.cores.recurrent import LstmCore, LstmState, RnnCore, RnnState

__all__ = [
    "LstmCore",
    "LstmState",
    "MnmCore",
    "MnmState",
    "PlasticCore",
    "PlasticState",
    "RecurrentCore",
    "RnnCore",
    "RnnState",
]

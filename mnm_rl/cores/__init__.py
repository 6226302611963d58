"""Recurrent cores behind one interface: their equations in plain PyTorch. No Stable-Baselines3 and
no kernel in here."""

from mnm_rl.cores.core import RecurrentCore
from mnm_rl.cores.gru import GruCore, GruState
from mnm_rl.cores.lstm import LstmCore, LstmState
from mnm_rl.cores.mingru import MinGruCore, MinGruState
from mnm_rl.cores.mnm import MnmCore, MnmState
from mnm_rl.cores.ntm import NtmCore, NtmState
from mnm_rl.cores.plastic import PlasticCore, PlasticState
from mnm_rl.cores.rnn import RnnCore, RnnState
from mnm_rl.cores.salu import SaluCore, SaluState

__all__ = [
    "GruCore",
    "GruState",
    "LstmCore",
    "LstmState",
    "MinGruCore",
    "MinGruState",
    "MnmCore",
    "MnmState",
    "NtmCore",
    "NtmState",
    "PlasticCore",
    "PlasticState",
    "RecurrentCore",
    "RnnCore",
    "RnnState",
    "SaluCore",
    "SaluState",
]

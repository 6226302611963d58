"""The agents that are trained and compared: one file each, with its hyperparameters and where they come from."""

from agents.agent import Agent
from agents.lstm import Lstm
from agents.mnm_g import MnmG
from agents.mnm_p import MnmP
from agents.plastic import Plastic
from agents.plastic_modulated import PlasticModulated
from agents.rnn import Rnn

AGENTS: dict[str, type[Agent]] = {
    "mnm-g": MnmG,
    "mnm-p": MnmP,
    "plastic": Plastic,
    "plastic-modulated": PlasticModulated,
    "lstm": Lstm,
    "rnn": Rnn,
}

__all__ = ["AGENTS", "Agent", "Lstm", "MnmG", "MnmP", "Plastic", "PlasticModulated", "Rnn"]

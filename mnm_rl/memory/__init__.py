"""The neural memory: its function, its two write rules and its recall loss. No reinforcement learning in here."""

from mnm_rl.memory.neural_memory import NeuralMemory, recall_loss

__all__ = ["NeuralMemory", "recall_loss"]

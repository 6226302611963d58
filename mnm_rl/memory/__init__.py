"""What a memory is: no reinforcement learning, no controller, and nothing that makes it fast.

- :mod:`~mnm_rl.memory.function`: the memory function, the update of its weights, the recall loss;
- :mod:`~mnm_rl.memory.rules`: one file a write rule;
- :mod:`~mnm_rl.memory.neural_memory`: a memory that can be written and read, with its slow weights;
- :mod:`~mnm_rl.memory.adjoint`: the gradient of a write and a read, by hand;
- :mod:`~mnm_rl.memory.plain`, :mod:`~mnm_rl.memory.reversible`: a sequence of them, as autograd
  does it, and in constant memory.
"""

from mnm_rl.memory.function import FastWeights, recall_loss
from mnm_rl.memory.neural_memory import NeuralMemory
from mnm_rl.memory.plain import PlainMemory, RunningMemory
from mnm_rl.memory.reversible import ReversibleMemory
from mnm_rl.memory.rules import WRITE_RULES, FeedbackInputs, WriteRule, WriteRuleName

__all__ = [
    "WRITE_RULES",
    "FastWeights",
    "FeedbackInputs",
    "NeuralMemory",
    "PlainMemory",
    "ReversibleMemory",
    "RunningMemory",
    "WriteRule",
    "WriteRuleName",
    "recall_loss",
]

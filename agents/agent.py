"""What all agents have in common: the hyperparameters of the algorithm, and the width and initial weights of the core."""

from dataclasses import dataclass, fields
from typing import Any, ClassVar, get_type_hints

from mnm_rl.initialization import Init


@dataclass(frozen=True, kw_only=True)
class Agent:
    """Hyperparameters of recurrent A2C; each agent adds those of its own memory.

    Each is an argument of that name: of the algorithm where its constructor takes it, else of the policy. What an agent leaves
    no choice about is a class variable instead of a field.

    Raises:
        ValueError: if a number is out of range.
    """

    name: ClassVar[str]
    """The agent on the command line and in run directories, such as ``"mnm-g"``."""
    policy: ClassVar[str]
    """The policy, by the name that the algorithm knows it by, such as ``"MnmPolicy"``."""

    hidden_size: int = 100
    """Width of the core (both papers use 100 for the maze)."""
    init: Init = "scaled"
    """Initial weights: scaled so that the memory is at work from the first update, or PyTorch's (docs/mathematics.md)."""
    learning_rate: float = 2e-3
    """Step size of Adam (tuned, see docs/results.md)."""
    n_steps: int | None = None
    """Rollout length and reach of backpropagation through time; None for a whole episode of the maze, 100 elsewhere."""
    gamma: float = 0.95
    """Discount factor."""
    gae_lambda: float = 0.95
    """Bias against variance of the advantages (Schulman et al. 2016)."""
    ent_coef: float = 0.01
    """Weight of the entropy bonus (Mnih et al. 2016; tuned, see docs/results.md)."""
    vf_coef: float = 0.5
    """Weight of the value loss (Mnih et al. 2016)."""
    max_grad_norm: float = 0.5
    """Gradient norm above which gradients are scaled down (Stable-Baselines3's default)."""
    adam_eps: float = 1e-8
    """Epsilon of Adam (PyTorch's default; Stable-Baselines3's is 1e-5)."""
    ortho_init: bool = False
    """Stable-Baselines3's initialization: it shrinks the action head, and the gradients through it, a hundredfold, which holds
    up the learning of a memory (docs/results.md)."""
    normalize_advantage: bool = True
    """Scale the advantages of each rollout to mean 0 and standard deviation 1."""
    reward_scale: float = 0.1
    """What rewards are multiplied by for training, so that value targets are near 1; returns are reported unscaled."""

    def __post_init__(self) -> None:
        ranges = {
            "hidden_size": (1, 10_000),
            "learning_rate": (0, 1),
            "n_steps": (1, 1_000_000),
            "gamma": (0, 1),
            "gae_lambda": (0, 1),
            "adam_eps": (1e-30, 1),
            "max_grad_norm": (1e-30, 1e30),
            "reward_scale": (1e-30, 1e30),
        }
        for field in fields(self):
            value = getattr(self, field.name)
            low, high = ranges.get(field.name, (0, 1e30))
            if isinstance(value, int | float) and not low <= value <= high:
                raise ValueError(f"--{field.name.replace('_', '-')} must be from {low:,} to {high:,}, got {value}")

    def arguments(self) -> dict[str, Any]:
        """All hyperparameters by name: the fields, and the class variables except for name and policy."""
        return {name: getattr(self, name) for name in get_type_hints(type(self)) if name not in ("name", "policy")}

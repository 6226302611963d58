"""What all agents have in common: the hyperparameters of the algorithm, and the width and initial
weights of the core."""

from dataclasses import dataclass, fields
from typing import Any, ClassVar, Literal, Self, get_type_hints


@dataclass(frozen=True, kw_only=True)
class Agent:
    """Hyperparameters of recurrent PPO or A2C; each agent adds those of its own memory.

    Each is an argument of that name: of the algorithm where its constructor takes it, else of the
    policy. What an agent leaves no choice about is a class variable instead of a field. The
    defaults are those for PPO.

    Raises:
        ValueError: if a number is out of range; the message begins with its name.
    """

    name: ClassVar[str]
    """The agent on the command line and in run directories, such as ``"mnm-g"``."""
    policy: ClassVar[str]
    """The policy, by the name that the algorithm knows it by, such as ``"MnmPolicy"``."""

    a2c: ClassVar[dict[str, Any]] = {"learning_rate": 2e-3}
    """The hyperparameters that have another default with A2C."""

    of_ppo: ClassVar[tuple[str, ...]] = ("n_epochs", "n_minibatches", "clip_range", "target_kl")
    """The hyperparameters that A2C does not have."""

    algorithm: Literal["ppo", "a2c"] = "ppo"
    """PPO (Schulman et al. 2017), or A2C, the algorithm of the papers."""
    hidden_size: int = 100
    """Width of the core (both papers use 100 for the maze)."""
    init: Literal["scaled", "pytorch"] = "scaled"
    """Initial weights: PyTorch's, or scaled so that the memory works from the first update on."""
    learning_rate: float = 2e-3
    """Step size of Adam (tuned, see docs/results.md)."""
    anneal_lr: bool = True
    """Let the step size fall linearly to zero over the training (docs/results.md)."""
    n_steps: int | None = None
    """Length of rollouts and of backpropagation; None for an episode of a maze, 100 elsewhere."""
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
    """Stable-Baselines3's initial weights, which slow a memory's learning (docs/results.md)."""
    normalize_advantage: bool = True
    """Scale the advantages of each rollout or minibatch to mean 0 and standard deviation 1."""
    popart: bool = True
    """Let the critic learn normalized returns, for any scale (van Hasselt et al. 2016)."""
    reward_scale: float = 1.0
    """What rewards are multiplied by for training; returns are reported unscaled."""
    n_epochs: int = 4
    """PPO: how many times an update goes through the rollout."""
    n_minibatches: int = 4
    """PPO: minibatches that the environments are parted into."""
    clip_range: float = 0.2
    """PPO: change of an action's probability beyond which there is no gradient."""
    target_kl: float | None = 0.05
    """PPO: an update ends at 1.5 times this KL divergence from the rollout (docs/results.md)."""

    def __post_init__(self) -> None:
        ranges = {
            "hidden_size": (1, 10_000),
            "memory_size": (1, 10_000),
            "memory_layers": (1, 100),
            "heads": (1, 1_000),
            "learning_rate": (0, 1),
            "n_steps": (1, 1_000_000),
            "n_epochs": (1, 1_000),
            "n_minibatches": (1, 1_000_000),
            "clip_range": (1e-30, 1e30),
            "target_kl": (1e-30, 1e30),
            "gamma": (0, 1),
            "gae_lambda": (0, 1),
            "adam_eps": (1e-30, 1),
            "max_grad_norm": (1e-30, 1e30),
            "reward_scale": (1e-30, 1e30),
            "write_bias": (-100, 100),
            "read_bias": (-100, 100),
        }
        for field in fields(self):
            value = getattr(self, field.name)
            low, high = ranges.get(field.name, (0, 1e30))
            if isinstance(value, int | float) and not low <= value <= high:
                raise ValueError(f"{field.name} must be from {low:,} to {high:,}, got {value}")

    @classmethod
    def defaults(cls, algorithm: str) -> Self:
        """The hyperparameters tuned for ``"ppo"`` or ``"a2c"``."""
        return (
            cls(algorithm="a2c", **{"anneal_lr": False} | cls.a2c) if algorithm == "a2c" else cls()
        )

    def arguments(self) -> dict[str, Any]:
        """The hyperparameters by name: the fields, and the class variables that describe the
        memory."""
        about = {
            "name",
            "policy",
            "a2c",
            "of_ppo",
            "algorithm",
            *(self.of_ppo if self.algorithm == "a2c" else ()),
        }
        return {
            name: getattr(self, name) for name in get_type_hints(type(self)) if name not in about
        }

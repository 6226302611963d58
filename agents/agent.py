"""What all agents have in common: the hyperparameters of the algorithm, of the policy and of the
core."""

from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any, ClassVar, Literal, Self, get_type_hints


@dataclass(frozen=True, kw_only=True)
class Part:
    """Hyperparameters by the names of the arguments that they are.

    Raises:
        ValueError: if a number is out of range; the message begins with its name.
    """

    def __post_init__(self) -> None:
        ranges = {
            "hidden_size": (1, 10_000),
            "memory_size": (1, 10_000),
            "memory_layers": (1, 100),
            "heads": (1, 1_000),
            "core_layers": (1, 100),
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
        for own in fields(self):
            value = getattr(self, own.name)
            low, high = ranges.get(own.name, (0, 1e30))
            if isinstance(value, int | float) and not low <= value <= high:
                raise ValueError(f"{own.name} must be from {low:,} to {high:,}, got {value}")


@dataclass(frozen=True, kw_only=True)
class Algorithm(Part):
    """Hyperparameters of recurrent PPO or A2C, with the defaults for PPO."""

    of_ppo: ClassVar[tuple[str, ...]] = ("n_epochs", "n_minibatches", "clip_range", "target_kl")
    """Those that A2C does not have."""

    algorithm: Literal["ppo", "a2c"] = "ppo"
    """PPO (Schulman et al. 2017), or A2C, the algorithm of the papers."""
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
    normalize_advantage: bool = True
    """Scale the advantages of each rollout or minibatch to mean 0 and standard deviation 1."""
    meta_coef: float = 1.0
    """Weight of the meta-loss of a memory that has one (the paper's)."""
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


@dataclass(frozen=True, kw_only=True)
class Policy(Part):
    """Hyperparameters of every policy, whatever its core."""

    adam_eps: float = 1e-8
    """Epsilon of Adam (PyTorch's default; Stable-Baselines3's is 1e-5)."""
    ortho_init: bool = False
    """Stable-Baselines3's initial weights, which slow a memory's learning (docs/results.md)."""
    popart: bool = True
    """Let the critic learn normalized returns, for any scale (van Hasselt et al. 2016)."""
    core_layers: int = 1
    """Cores one on another."""


@dataclass(frozen=True, kw_only=True)
class Agent(Part):
    """Hyperparameters of a core; each agent adds those of its own memory.

    What an agent leaves no choice about is a class variable instead of a field.
    """

    name: ClassVar[str]
    """The agent on the command line and in run directories, such as ``"mnm-g"``."""
    policy: ClassVar[str]
    """The policy, by the name that the algorithm knows it by, such as ``"MnmPolicy"``."""

    ppo: ClassVar[dict[str, Any]] = {}
    """What was tuned for PPO: other defaults than those of :class:`Algorithm` and
    :class:`Policy`."""
    a2c: ClassVar[dict[str, Any]] = {"learning_rate": 2e-3}
    """What was tuned for A2C."""

    hidden_size: int = 100
    """Width of the core (both papers use 100 for the maze)."""
    init: Literal["scaled", "pytorch"] = "scaled"
    """Initial weights: PyTorch's, or scaled so that the memory works from the first update on."""

    def arguments(self) -> dict[str, Any]:
        """The arguments of the core: the fields, and the class variables that describe it."""
        about = get_type_hints(Agent).keys() - {own.name for own in fields(Agent)}
        return {
            name: getattr(self, name) for name in get_type_hints(type(self)) if name not in about
        }

    @classmethod
    def defaults(cls, algorithm: str = "ppo") -> "Hyperparameters":
        """All hyperparameters, as tuned for ``"ppo"`` or ``"a2c"``."""
        hyperparameters = Hyperparameters(core=cls())
        if algorithm == "a2c":
            return hyperparameters.changed(algorithm="a2c", **{"anneal_lr": False} | cls.a2c)
        return hyperparameters.changed(**cls.ppo)


@dataclass(frozen=True, kw_only=True)
class Hyperparameters:
    """All hyperparameters of an agent, by what takes them."""

    algorithm: Algorithm = field(default_factory=Algorithm)
    """Of the algorithm."""
    policy: Policy = field(default_factory=Policy)
    """Of the policy, whatever its core."""
    core: Agent
    """Of the agent's core."""

    def flat(self) -> dict[str, Any]:
        """All by name, as on the command line."""
        return asdict(self.algorithm) | asdict(self.policy) | asdict(self.core)

    def changed(self, **values: Any) -> Self:
        """The same with other values of some.

        Raises:
            ValueError: if the agent has no hyperparameter of a name, or a value is out of range.
        """
        known = self.flat()
        for name in values:
            if name not in known:
                raise ValueError(f"{self.core.name} has no {name!r}; it has {', '.join(known)}")
        parts: dict[str, Any] = {
            name: replace(part, **{key: values[key] for key in vars(part) if key in values})
            for name, part in vars(self).items()
        }
        return replace(self, **parts)

"""What all agents have in common: the hyperparameters of the algorithm, and how a model is built from them."""

from dataclasses import dataclass, fields
from typing import Any, ClassVar

import torch
from stable_baselines3.common.vec_env import VecEnv

from agents.command_line import Count, check_types
from mnm_rl import RecurrentA2C
from mnm_rl.initialization import Init


@dataclass(frozen=True, kw_only=True)
class Agent:
    """Hyperparameters of recurrent A2C; each agent adds those of its own memory."""

    policy: ClassVar[str]

    hidden_size: Count = 100
    """Width of the core (both papers use 100 for the maze)."""
    init: Init = "scaled"
    """Initial weights: scaled so that the memory is at work from the first update, or PyTorch's (docs/mathematics.md)."""
    learning_rate: float = 4e-3
    """Step size of Adam (tuned, see docs/results.md)."""
    n_steps: Count | None = None
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
        check_types(self)
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

    def core_kwargs(self) -> dict[str, Any]:
        """Arguments of the policy's core."""
        return {"hidden_size": self.hidden_size, "init": self.init}

    def algorithm_kwargs(self) -> dict[str, Any]:
        """Arguments of the algorithm that only this agent has."""
        return {}

    def build(self, env: VecEnv, n_steps: int, seed: int, device: str) -> RecurrentA2C:
        """A model that is ready to learn.

        Args:
            env: the training environments.
            n_steps: rollout length, for when the hyperparameter leaves it open.
            seed: seed of everything random.
            device: ``"cpu"``, ``"cuda"`` or ``"auto"``.
        """
        return RecurrentA2C(
            self.policy,
            env,
            learning_rate=self.learning_rate,
            n_steps=n_steps if self.n_steps is None else self.n_steps,
            gamma=self.gamma,
            gae_lambda=self.gae_lambda,
            ent_coef=self.ent_coef,
            vf_coef=self.vf_coef,
            max_grad_norm=self.max_grad_norm,
            normalize_advantage=self.normalize_advantage,
            stats_window_size=max(100, 2 * env.num_envs),
            policy_kwargs=self.core_kwargs()
            | {"ortho_init": self.ortho_init, "optimizer_class": torch.optim.Adam, "optimizer_kwargs": {"eps": self.adam_eps}},
            seed=seed,
            device=device,
            **self.algorithm_kwargs(),
        )

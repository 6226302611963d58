"""Steps of A2C until a policy balances CartPole without seeing its velocities, memory by memory.

python -m studies.hidden_velocity [--seeds 3] [--json FILE] [--plot FILE]
"""

import json
import os
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import torch
import tyro
from rich.console import Console
from rich.table import Table
from stable_baselines3 import A2C
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import VecNormalize

from examples.cartpole import hide_velocity
from mnm_rl import RecurrentA2C

THRESHOLD = 400.0
"""Mean return of the last 100 episodes of training, of 500."""

HYPERPARAMETERS: dict[str, Any] = dict(
    learning_rate=2e-3, n_steps=32, gae_lambda=0.95, use_rms_prop=False
)


def make_env(seed: int) -> VecNormalize:
    """16 environments, their observations and rewards brought to a common scale."""
    return VecNormalize(
        make_vec_env("CartPole-v1", n_envs=16, seed=seed, wrapper_class=hide_velocity)
    )


# Name: policy, arguments of the policy. The same hyperparameters for all.
POLICIES: dict[str, tuple[str, dict[str, Any]]] = {
    "mnm-p": ("MnmPolicy", {"write_rule": "p"}),
    "mnm-g": ("MnmPolicy", {"write_rule": "g"}),
    "mnm-p-paper": ("MnmPolicy", {"write_rule": "p", "variant": "paper"}),
    "mnm-g-paper": ("MnmPolicy", {"write_rule": "g", "variant": "paper"}),
    "deltanet": ("MnmPolicy", {"write_rule": "delta", "memory_layers": 1}),
    "plastic": ("PlasticPolicy", {}),
    "gru": ("GruPolicy", {}),
    "lstm": ("LstmPolicy", {}),
    "rnn": ("RnnPolicy", {}),
    "A2C without memory": ("MlpPolicy", {}),
}


@dataclass
class Options:
    seeds: int = 3
    """Seeds a policy, from 0."""
    total_timesteps: int = 600_000
    """Environment steps of each training."""
    json: Path | None = None
    """Where to write the figures."""
    plot: Path | None = None
    """Where to draw the learning curves."""
    processes: int = os.cpu_count() or 1
    """Trainings at once."""


class Curve(BaseCallback):
    """Steps and mean return of the last 100 episodes, after every rollout."""

    def __init__(self) -> None:
        super().__init__()
        self.points: list[tuple[int, float]] = []

    def _on_step(self) -> bool:
        return True

    def _on_rollout_end(self) -> None:
        episodes = self.model.ep_info_buffer
        if episodes is not None and len(episodes) == episodes.maxlen:
            self.points.append(
                (self.num_timesteps, float(np.mean([episode["r"] for episode in episodes])))
            )


def train(name: str, seed: int, total_timesteps: int) -> dict[str, Any]:
    torch.set_num_threads(1)
    policy, policy_kwargs = POLICIES[name]
    algorithm = A2C if policy == "MlpPolicy" else RecurrentA2C
    env = make_env(seed)
    policy_kwargs = {"ortho_init": False} | policy_kwargs
    model: BaseAlgorithm = algorithm(
        policy, env, policy_kwargs=policy_kwargs, **HYPERPARAMETERS, seed=seed, device="cpu"
    )
    curve, start = Curve(), time.perf_counter()
    model.learn(total_timesteps, callback=curve)
    seconds = time.perf_counter() - start
    reached = [steps for steps, mean in curve.points if mean >= THRESHOLD]
    return {
        "policy": name,
        "seed": seed,
        "steps_to_threshold": reached[0] if reached else None,
        "best": max(mean for _, mean in curve.points),
        "last": curve.points[-1][1],
        "seconds": round(seconds, 1),
        "curve": curve.points[:: max(1, len(curve.points) // 100)],
    }


def main(options: Options) -> None:
    jobs = [
        (name, seed, options.total_timesteps) for name in POLICIES for seed in range(options.seeds)
    ]
    with ProcessPoolExecutor(options.processes) as pool:
        runs = list(pool.map(train, *zip(*jobs, strict=True)))
    table = Table(
        title=(
            f"CartPole without velocities, {options.total_timesteps:,} steps, {options.seeds} seeds"
        )
    )
    for column in (
        "policy",
        f"steps to {THRESHOLD:.0f}, each seed",
        "best mean return",
        "last",
        "seconds",
    ):
        table.add_column(column)
    for name in POLICIES:
        own = [run for run in runs if run["policy"] == name]
        steps = ", ".join(
            "never" if run["steps_to_threshold"] is None else f"{run['steps_to_threshold']:,}"
            for run in own
        )
        columns = [
            ", ".join(f"{run[key]:.0f}" for run in own) for key in ("best", "last", "seconds")
        ]
        table.add_row(name, steps, *columns)
    Console(width=None if sys.stdout.isatty() else 120).print(table)
    if options.json is not None:
        options.json.write_text(
            json.dumps(
                {
                    "options": {"seeds": options.seeds, "total_timesteps": options.total_timesteps},
                    "runs": runs,
                }
            )
            + "\n"
        )
    if options.plot is not None:
        draw(runs, options.plot)


def draw(runs: list[dict[str, Any]], path: Path) -> None:
    """The median over the seeds, and their range."""
    names = [name for name in POLICIES if any(run["policy"] == name for run in runs)]
    rows = -(-len(names) // 4)
    figure, all_axes = plt.subplots(
        rows, 4, figsize=(11, 2.25 * rows), sharex=True, sharey=True, layout="constrained"
    )
    for axes in all_axes.flat[len(names) :]:
        axes.set_visible(False)
    for axes, name in zip(all_axes.flat, names, strict=False):
        curves = [np.array(run["curve"]).T for run in runs if run["policy"] == name]
        steps = np.linspace(max(c[0, 0] for c in curves), min(c[0, -1] for c in curves), 100)
        means = np.array([np.interp(steps, *curve) for curve in curves])
        axes.fill_between(steps / 1e3, means.min(axis=0), means.max(axis=0), alpha=0.3, linewidth=0)
        axes.plot(steps / 1e3, np.median(means, axis=0))
        axes.axhline(THRESHOLD, color="gray", linestyle=":", linewidth=1)
        axes.set(title=name, ylim=(0, 510))
        axes.spines[["top", "right"]].set_visible(False)
    figure.supxlabel("thousand steps", fontsize="medium")
    figure.supylabel("mean return of the last 100 episodes", fontsize="medium")
    figure.savefig(path, dpi=120)


if __name__ == "__main__":
    main(tyro.cli(Options))

"""Does a learning rate that falls to zero end the late falls: python -m studies.annealing AGENT
[--seeds 0 1 2].

Trains an agent on the small maze as ``train.py`` does, but with a learning rate that falls linearly
from the agent's to zero, and plays 512 episodes. What is measured is kept in docs/annealing.json,
so that a study that was stopped goes on. One thread.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
import tyro
from stable_baselines3.common.logger import Logger
from stable_baselines3.common.utils import LinearSchedule

from agents import AGENTS
from experiments.command_line import FINAL_EPISODES, FINAL_SEED
from experiments.run import Run
from mnm_rl.callbacks import EpisodeMeans
from mnm_rl.evaluation import evaluate_episodes

FILE = Path(__file__).parent.parent / "docs" / "annealing.json"


class Curve(EpisodeMeans):
    """Steps and goals, rollout by rollout."""

    def __init__(self) -> None:
        super().__init__("goals")
        self.points: list[tuple[int, float]] = []

    def _on_rollout_end(self) -> None:
        super()._on_rollout_end()
        if (goals := self.mean) is not None:
            self.points.append((self.num_timesteps, goals))


def measure(agent: str, seed: int, total_timesteps: int) -> dict[str, Any]:
    """One training, and the goals of its episodes."""
    run = Run(
        hyperparameters=AGENTS[agent](),
        env="mnm/MazeSmall-v0",
        env_kwargs={},
        total_timesteps=total_timesteps,
        n_envs=64,
        seed=seed,
        checkpoint_interval=total_timesteps,
    )
    env = run.make_env(run.n_envs)
    model = run.build(env, "cpu")
    model.learning_rate = LinearSchedule(run.hyperparameters.learning_rate, 0.0, 1.0)
    model._setup_lr_schedule()
    model.set_logger(Logger(None, []))
    curve = Curve()
    model.learn(total_timesteps, curve)
    env.seed(FINAL_SEED)
    goals = [episode["goals"] for episode in evaluate_episodes(model, env, FINAL_EPISODES)]
    soon = next((steps for steps, mean in curve.points if mean >= 20), None)
    lowest = min(mean for steps, mean in curve.points if steps > total_timesteps / 2)
    return {
        "agent": agent,
        "seed": seed,
        "steps to 20": soon,
        "lowest after half": round(lowest, 1),
        "goals": round(float(np.mean(goals)), 2),
    }


def main(
    agent: tyro.conf.Positional[str],
    seeds: tuple[int, ...] = (0, 1, 2, 3, 4),
    total_timesteps: int = 1_000_000,
) -> None:
    """Train what the file does not have yet."""
    torch.set_num_threads(1)
    rows = json.loads(FILE.read_text()) if FILE.exists() else []
    for seed in seeds:
        if not any((row["agent"], row["seed"]) == (agent, seed) for row in rows):
            rows.append(measure(agent, seed, total_timesteps))
            FILE.write_text("[\n" + ",\n".join(map(json.dumps, rows)) + "\n]\n")
            print(rows[-1], flush=True)


if __name__ == "__main__":
    tyro.cli(main, description=__doc__)

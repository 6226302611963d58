"""How fast the agents train on the maze, end to end: python -m benchmarks.training_speed [--threads N].

For each agent: environment steps per second of rollout and update together, after a warm-up rollout, with 64 environments on
mnm/MazeSmall-v0 and default hyperparameters. The first line is the machine: the rate of a large float32 matrix product.
"""

import time
from dataclasses import dataclass

import gymnasium as gym
import numpy as np
import torch
import tyro
from stable_baselines3.common.logger import Logger

from agents import AGENTS
from agents.run import Run
from train import keep_freed_memory


@dataclass
class Options:
    threads: int = 1
    """CPU threads."""
    rollouts: int = 5
    """Rollouts to time; the best of them counts, as anything else on the machine can only slow one down."""


def matrix_product_rate(size: int = 2048, repeats: int = 20) -> float:
    """GFLOP/s of a float32 matrix product, the best of some."""
    a, b = torch.randn(2, size, size)
    best = 0.0
    for _ in range(repeats):
        start = time.perf_counter()
        a @ b
        best = max(best, 2 * size**3 / (time.perf_counter() - start) / 1e9)
    return best


def steps_per_second(agent: str, rollouts: int) -> float:
    """Environment steps per second of training."""
    run = Run(
        agent=agent,
        hyperparameters=AGENTS[agent](),
        env="mnm/MazeSmall-v0",
        env_kwargs={},
        total_timesteps=1,
        n_envs=64,
        seed=0,
    )
    model = run.build(run.make_env(run.n_envs, run.hyperparameters.reward_scale), "cpu")
    model.set_logger(Logger(None, []))
    _, callback = model._setup_learn(0)
    best = 0.0
    for timed in range(rollouts + 1):
        start = time.perf_counter()
        assert model.env is not None
        model.collect_rollouts(model.env, callback, model.rollout_buffer, model.n_steps)
        model.train()
        if timed:
            best = max(best, model.n_steps * run.n_envs / (time.perf_counter() - start))
    return best


def maze_steps_per_second(num_envs: int = 1024, steps: int = 1000) -> float:
    """Environment steps per second of the batched maze alone, with actions drawn beforehand."""
    env = gym.make_vec("mnm/Maze-v0", num_envs=num_envs)
    env.reset(seed=0)
    actions = np.random.default_rng(0).integers(4, size=(steps, num_envs))
    start = time.perf_counter()
    for a in actions:
        env.step(a)
    return steps * num_envs / (time.perf_counter() - start)


if __name__ == "__main__":
    options = tyro.cli(Options)
    torch.set_num_threads(options.threads)
    keep_freed_memory()
    print(f"machine: float32 matrix product {matrix_product_rate():.0f} GFLOP/s on {options.threads} thread(s)")
    for name in AGENTS:
        print(f"{name:18s} {steps_per_second(name, options.rollouts):>9,.0f} steps/s")
    print(f"{'maze alone':18s} {maze_steps_per_second():>9,.0f} steps/s, 1,024 environments")

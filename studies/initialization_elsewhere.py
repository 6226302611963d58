"""The default initialization beside PyTorch's on other tasks: Pendulum without velocity, MiniGrid's
Memory, the maze in pictures.

python -m studies.initialization_elsewhere [--tasks pendulum image] [--seeds 3] [--json FILE]
"""

import json
import os
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import torch
import tyro
from gymnasium import spaces
from rich.console import Console
from rich.table import Table
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import VecEnv, VecEnvWrapper, VecNormalize

import envs  # noqa: F401  (registers the maze)
from mnm_rl import GymnasiumVecEnv, RecurrentA2C

POLICIES: dict[str, tuple[str, dict[str, Any]]] = {
    "mnm-p-paper": ("MnmPolicy", {"write_rule": "p", "variant": "paper"}),
    "mnm-g-paper": ("MnmPolicy", {"write_rule": "g", "variant": "paper"}),
    "plastic": ("PlasticPolicy", {}),
    "lstm": ("LstmPolicy", {}),
}


class MazeInPictures(VecEnvWrapper):
    """The maze's neighbourhood as a picture of 36 x 36 pixels for a CNN; the other numbers beside
    it."""

    def __init__(self, env: VecEnv) -> None:
        self.view = 3
        picture = spaces.Box(0, 255, (1, 36, 36), np.uint8)
        rest = spaces.Box(-np.inf, np.inf, (7,), np.float32)
        super().__init__(env, spaces.Dict({"picture": picture, "rest": rest}))

    def _shown(self, obs: Any) -> dict[str, Any]:
        n = self.view**2
        cells = np.asarray(obs)[..., :n].reshape(*obs.shape[:-1], 1, self.view, self.view)
        pixels = (
            (255 * cells)
            .astype(np.uint8)
            .repeat(36 // self.view, axis=-2)
            .repeat(36 // self.view, axis=-1)
        )
        return {"picture": pixels, "rest": np.asarray(obs)[..., n:]}

    def reset(self) -> Any:
        return self._shown(self.venv.reset())

    def step_wait(self) -> Any:
        obs, rewards, dones, infos = self.venv.step_wait()
        for info in infos:
            if "terminal_observation" in info:
                info["terminal_observation"] = self._shown(info["terminal_observation"])
        return self._shown(obs), 0.1 * rewards, dones, infos


@dataclass(frozen=True)
class Task:
    make_env: Callable[[int], VecEnv]
    hyperparameters: dict[str, Any]
    policy_kwargs: dict[str, Any]
    total_timesteps: int
    policies: tuple[str, ...]


def _task(name: str) -> Task:
    if name == "pendulum":
        from examples import pendulum

        def swing(seed: int) -> VecEnv:
            env = make_vec_env(
                "Pendulum-v1", n_envs=16, seed=seed, wrapper_class=pendulum.hide_velocity
            )
            return VecNormalize(env, norm_obs=False, gamma=0.9)

        settings = dict(
            learning_rate=3e-3, n_steps=50, gamma=0.9, gae_lambda=0.95, use_rms_prop=False
        )
        return Task(
            swing,
            settings,
            {"ortho_init": False},
            300_000,
            ("mnm-p-paper", "mnm-g-paper", "plastic", "lstm"),
        )
    if name == "minigrid":
        from examples import minigrid_memory

        settings = dict(
            learning_rate=2e-3, n_steps=64, gae_lambda=0.95, ent_coef=0.01, use_rms_prop=False
        )
        make_env = partial(minigrid_memory.make_env, n_envs=16)
        return Task(make_env, settings, minigrid_memory.POLICY_KWARGS, 200_000, ("mnm-p-paper",))
    assert name == "image", f"there is no task {name}"

    def maze(seed: int) -> VecEnv:
        env = MazeInPictures(GymnasiumVecEnv(gym.make_vec("mnm/MazeSmall-v0", num_envs=64)))
        env.seed(seed)
        return env

    # As the maze's agents have it.
    hyperparameters = dict(
        learning_rate=2e-3,
        n_steps=100,
        gamma=0.95,
        gae_lambda=0.95,
        ent_coef=0.01,
        use_rms_prop=False,
        normalize_advantage=True,
    )
    policy_kwargs = {
        "ortho_init": False,
        "optimizer_class": torch.optim.Adam,
        "optimizer_kwargs": {"eps": 1e-8},
    }
    return Task(maze, hyperparameters, policy_kwargs, 600_000, ("mnm-p-paper", "lstm"))


TASKS = ("pendulum", "minigrid", "image")


@dataclass
class Options:
    tasks: tuple[str, ...] = TASKS
    """Which tasks."""
    seeds: int = 3
    """Seeds of each, from 0."""
    json: Path | None = None
    """Where to write the figures."""
    processes: int = os.cpu_count() or 1
    """Trainings at once."""


class Returns(BaseCallback):
    """Mean return of the last episodes, after every rollout."""

    def __init__(self) -> None:
        super().__init__()
        self.means: list[float] = []

    def _on_step(self) -> bool:
        return True

    def _on_rollout_end(self) -> None:
        if self.model.ep_info_buffer:
            self.means.append(
                float(np.mean([episode["r"] for episode in self.model.ep_info_buffer]))
            )


def train(task_name: str, policy: str, init: str, seed: int) -> dict[str, Any]:
    torch.set_num_threads(1)
    task, (policy_name, core_kwargs) = _task(task_name), POLICIES[policy]
    model = RecurrentA2C(
        policy_name,
        task.make_env(seed),
        policy_kwargs=task.policy_kwargs | core_kwargs | {"init": init},
        **task.hyperparameters,
        seed=seed,
        device="cpu",
    )
    returns, start, failed = Returns(), time.perf_counter(), None
    try:
        model.learn(task.total_timesteps, callback=returns)
    except RuntimeError as error:  # it diverged
        failed = str(error)
    last = returns.means[-max(1, len(returns.means) // 10) :]
    return {
        "task": task_name,
        "policy": policy,
        "init": init,
        "seed": seed,
        "steps": model.num_timesteps,
        "along_the_way": float(np.mean(returns.means)),
        "at_the_end": float(np.mean(last)),
        "failed": failed,
        "seconds": round(time.perf_counter() - start, 1),
    }


def main(options: Options) -> None:
    jobs = [
        (task, policy, init, seed)
        for task in options.tasks
        for policy in _task(task).policies
        for init in ("pytorch", "scaled")
        for seed in range(options.seeds)
    ]
    with ProcessPoolExecutor(options.processes) as pool:
        runs = list(pool.map(train, *zip(*jobs, strict=True)))
    table = Table(title="mean return along the way / at the end, each seed")
    for column in ("task", "policy", "pytorch", "scaled"):
        table.add_column(column)
    for task in options.tasks:
        for policy in _task(task).policies:
            cells = []
            for init in ("pytorch", "scaled"):
                own = [
                    run
                    for run in runs
                    if (run["task"], run["policy"], run["init"]) == (task, policy, init)
                ]
                cells.append(
                    ", ".join(
                        f"{run['along_the_way']:.3g}/{run['at_the_end']:.3g}"
                        f"{'!' * bool(run['failed'])}"
                        for run in own
                    )
                )
            table.add_row(task, policy, *cells)
    Console().print(table, "!: diverged")
    if options.json is not None:
        options.json.write_text(json.dumps(runs, indent=1) + "\n")


if __name__ == "__main__":
    main(tyro.cli(Options))

"""RecurrentPPO beside sb3-contrib's: python -m studies.drop_in [TASK ...] [--json FILE].

The same environments, settings (those of sb3-contrib's own test on CartPole without velocities) and
seeds for all; only the import and the policy differ. After every 4,096 steps a policy plays 20
episodes deterministically, off its clock. What is measured is kept in the file, so that a run that
was stopped goes on. One thread.
"""

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal, cast

import gymnasium as gym
import numpy as np
import torch
import tyro
from gymnasium import spaces
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.vec_env import VecNormalize

from examples import cartpole, pendulum
from mnm_rl import RecurrentPPO

try:
    from sb3_contrib import RecurrentPPO as TheirRecurrentPPO

    from examples import minigrid_memory
except ImportError as error:
    sys.exit(f"error: {error}; install what this compares with: pip install '.[bench,minigrid]'")

SETTINGS: dict[str, Any] = dict(
    n_steps=128,
    batch_size=256,
    n_epochs=10,
    learning_rate=7e-4,
    gae_lambda=0.98,
    max_grad_norm=1.0,
    device="cpu",
)
OWN_LSTM: dict[str, Any] = dict(
    net_arch=dict(vf=[64], pi=[]), lstm_hidden_size=64, ortho_init=False, enable_critic_lstm=True
)
OURS: dict[str, Any] = dict(hidden_size=64, ortho_init=False)

AGENTS: dict[str, tuple[Any, str, dict[str, Any]]] = {
    "sb3-contrib, MlpLstmPolicy": (TheirRecurrentPPO, "MlpLstmPolicy", OWN_LSTM),
    "MlpLstmPolicy": (RecurrentPPO, "MlpLstmPolicy", OWN_LSTM),
    "LstmPolicy": (RecurrentPPO, "LstmPolicy", OURS),
    "GruPolicy": (RecurrentPPO, "GruPolicy", OURS),
    "MnmPolicy, rule g": (RecurrentPPO, "MnmPolicy", OURS | {"write_rule": "g"}),
    "MnmPolicy, rule p": (RecurrentPPO, "MnmPolicy", OURS | {"write_rule": "p"}),
    "MnmPolicy, rule g, paper": (
        RecurrentPPO,
        "MnmPolicy",
        OURS | {"write_rule": "g", "variant": "paper"},
    ),
    "MnmPolicy, rule p, paper": (
        RecurrentPPO,
        "MnmPolicy",
        OURS | {"write_rule": "p", "variant": "paper"},
    ),
}


class TMaze(gym.Env[Any, Any]):
    """A corridor with a cue at its beginning, which tells where to turn at its end: 1 for the right
    turn, -1 for the wrong one.

    Seen are the cue (in the first step only) and whether this is the junction; actions are forward,
    left and right.
    """

    observation_space = spaces.Box(-1, 1, (2,), np.float32)
    action_space = spaces.Discrete(3)
    length = 10

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.position, self.steps, self.cue = 0, 0, int(self.np_random.choice([-1, 1]))
        return np.array([self.cue, 0], np.float32), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.steps += 1
        at_junction = self.position == self.length
        turned = at_junction and action != 0
        reward = float({1: -1, 2: 1}[int(action)] == self.cue) * 2 - 1 if turned else -0.01
        if action == 0 and not at_junction:
            self.position += 1
        seen = np.array([0, self.position == self.length], np.float32)
        return seen, reward, bool(turned), self.steps == 4 * self.length, {}


def normalized(env: str, seed: int, wrapper: Any) -> VecNormalize:
    """Observations and rewards normalized, as in sb3-contrib's own test and in the RL Zoo."""
    return VecNormalize(make_vec_env(env, n_envs=8, seed=seed, wrapper_class=wrapper))


TASKS: dict[str, tuple[Callable[[int], Any], int, float, dict[str, Any]]] = {
    "CartPole without velocities": (
        lambda seed: normalized("CartPole-v1", seed, cartpole.hide_velocity),
        50_000,
        450,
        {},
    ),
    "T-maze": (lambda seed: make_vec_env(TMaze, n_envs=8, seed=seed), 65_536, 0.8, {}),
    "Pendulum without velocity": (
        lambda seed: normalized("Pendulum-v1", seed, pendulum.hide_velocity),
        131_072,
        -300,
        dict(gamma=0.9),
    ),
    "MiniGrid-MemoryS7": (
        lambda seed: make_vec_env(
            "MiniGrid-MemoryS7-v0",
            n_envs=8,
            seed=seed,
            wrapper_class=minigrid_memory.without_mission,
        ),
        262_144,
        0.8,
        dict(ent_coef=0.01),
    ),
}
"""Environments, steps of training, the mean return that counts as solved, and what is set
differently."""


def run(task: str, agent: str, seed: int) -> dict[str, Any]:
    """Steps and seconds until it is solved (None if it is not), the best return, and steps per
    second."""
    make, total, solved, settings = TASKS[task]
    algorithm, policy, policy_kwargs = AGENTS[agent]
    if task.startswith("MiniGrid"):
        policy = policy.replace("Mlp", "MultiInput")
        policy_kwargs = policy_kwargs | {
            "features_extractor_class": minigrid_memory.Kinds,
            "normalize_images": False,
        }
    env, test = make(seed), make(10_000 + seed)
    if isinstance(test, VecNormalize):
        test.training = test.norm_reward = False
        test.obs_rms = env.obs_rms
    model = algorithm(
        policy, make(seed), **SETTINGS | settings, policy_kwargs=policy_kwargs, seed=seed
    )
    model.learn(1024)  # kernels are compiled
    model = algorithm(policy, env, **SETTINGS | settings, policy_kwargs=policy_kwargs, seed=seed)
    clock, curve, at = 0.0, [], None
    while model.num_timesteps < total:
        started = time.perf_counter()
        model.learn(min(4096, total - model.num_timesteps), reset_num_timesteps=False)
        clock += time.perf_counter() - started
        mean, _ = evaluate_policy(model, test, n_eval_episodes=20, warn=False)
        score = cast(float, mean)
        curve.append((model.num_timesteps, round(clock, 2), round(score, 3)))
        if at is None and score >= solved:
            at = curve[-1]
            if not task.startswith("CartPole"):
                break
    return {
        "task": task,
        "agent": agent,
        "seed": seed,
        "steps": at and at[0],
        "seconds": at and at[1],
        "best": max(score for _, _, score in curve),
        "steps_per_second": round(model.num_timesteps / clock),
        "curve": curve,
    }


def main(
    tasks: tyro.conf.Positional[
        tuple[
            Literal[
                "CartPole without velocities",
                "T-maze",
                "Pendulum without velocity",
                "MiniGrid-MemoryS7",
            ],
            ...,
        ]
    ] = (),
    agents: tuple[str, ...] = tuple(AGENTS),
    seeds: Annotated[int, tyro.conf.arg(help="how many")] = 3,
    json_file: Annotated[Path, tyro.conf.arg(name="json")] = Path("docs/drop_in.json"),
) -> None:
    """Measure what the file does not have yet."""
    torch.set_num_threads(1)
    done = json.loads(json_file.read_text()) if json_file.exists() else []
    for task in tasks or TASKS:
        for seed in range(seeds):
            for agent in agents:
                if any(
                    (row["task"], row["agent"], row["seed"]) == (task, agent, seed) for row in done
                ):
                    continue
                done.append(run(task, agent, seed))
                print(
                    {name: value for name, value in done[-1].items() if name != "curve"}, flush=True
                )
                json_file.write_text("[\n" + ",\n".join(json.dumps(row) for row in done) + "\n]\n")


if __name__ == "__main__":
    tyro.cli(main, description=__doc__)

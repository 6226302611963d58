"""Pendulum without its velocity: continuous actions, and a policy that has to remember which way it
swings.

python -m examples.pendulum
"""

from typing import Any

import gymnasium as gym
from gymnasium import spaces
from gymnasium.wrappers import TransformObservation
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.evaluation import evaluate_policy

from mnm_rl import RecurrentPPO


def hide_velocity(env: gym.Env[Any, Any]) -> gym.Env[Any, Any]:
    """Keep cosine and sine of the angle."""
    return TransformObservation(env, lambda observation: observation[:2], spaces.Box(-1, 1, (2,)))


def main(total_timesteps: int = 120_000) -> float:
    model = RecurrentPPO(
        "LstmPolicy",
        make_vec_env("Pendulum-v1", n_envs=16, seed=0, wrapper_class=hide_velocity),
        learning_rate=lambda left: 1e-3 * left,  # to zero: late updates undid what was learned
        n_steps=100,  # half an episode
        batch_size=400,  # four environments
        gamma=0.9,
        seed=0,
        device="cpu",
    )
    model.learn(total_timesteps, progress_bar=True)
    test = make_vec_env("Pendulum-v1", n_envs=16, seed=1, wrapper_class=hide_velocity)
    mean, std = evaluate_policy(model, test, n_eval_episodes=100)
    print(
        f"return over 100 episodes: {mean:.0f} ± {std:.0f} (with the velocity, about -150 is the "
        "best; at random, about -1200)"
    )
    return float(mean)


if __name__ == "__main__":
    main()

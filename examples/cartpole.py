"""CartPole without its velocities: one frame does not tell where the pole is falling; the policy
has to remember.

python -m examples.cartpole
"""

from typing import Any

import gymnasium as gym
from gymnasium import spaces
from gymnasium.wrappers import TransformObservation
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.evaluation import evaluate_policy

from mnm_rl import RecurrentPPO


def hide_velocity(env: gym.Env[Any, Any]) -> gym.Env[Any, Any]:
    """Keep the positions of the cart and of the pole."""
    kept = [0, 2]
    assert isinstance(env.observation_space, spaces.Box)
    space = spaces.Box(env.observation_space.low[kept], env.observation_space.high[kept])
    return TransformObservation(env, lambda observation: observation[kept], space)


def main(total_timesteps: int = 120_000) -> float:
    model = RecurrentPPO(
        "MnmPolicy",
        make_vec_env("CartPole-v1", n_envs=16, seed=0, wrapper_class=hide_velocity),
        learning_rate=1e-3,
        n_steps=64,  # also the reach of backpropagation through time
        batch_size=256,  # four environments
        n_epochs=4,
        policy_kwargs={"write_rule": "delta"},
        seed=0,
        device="cpu",
    )
    model.learn(total_timesteps, progress_bar=True)
    test = make_vec_env("CartPole-v1", n_envs=16, seed=1, wrapper_class=hide_velocity)
    mean, std = evaluate_policy(model, test, n_eval_episodes=100)
    print(
        f"return over 100 episodes: {mean:.0f} ± {std:.0f} (the most is 500; without memory about "
        "50)"
    )
    return float(mean)


if __name__ == "__main__":
    main()

"""CartPole without its velocities: one frame does not tell where the pole is falling; the policy has to remember.

python -m examples.cartpole
"""

from typing import Any

import gymnasium as gym
from gymnasium import spaces
from gymnasium.wrappers import TransformObservation
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.vec_env import VecNormalize

from mnm_rl import RecurrentA2C


def hide_velocity(env: gym.Env[Any, Any]) -> gym.Env[Any, Any]:
    """Keep the positions of the cart and of the pole."""
    kept = [0, 2]
    assert isinstance(env.observation_space, spaces.Box)
    space = spaces.Box(env.observation_space.low[kept], env.observation_space.high[kept])
    return TransformObservation(env, lambda observation: observation[kept], space)


HYPERPARAMETERS: dict[str, Any] = dict(
    learning_rate=2e-3,
    n_steps=32,  # also the reach of backpropagation through time
    gae_lambda=0.95,
    use_rms_prop=False,
)


def make_env(seed: int) -> VecNormalize:
    """16 environments, their observations and rewards brought to a common scale, which a shared actor and critic needs."""
    return VecNormalize(make_vec_env("CartPole-v1", n_envs=16, seed=seed, wrapper_class=hide_velocity))


def main(total_timesteps: int = 400_000) -> float:
    env = make_env(seed=0)
    policy_kwargs = {"write_rule": "delta", "memory_layers": 1, "ortho_init": False}
    model = RecurrentA2C("MnmPolicy", env, policy_kwargs=policy_kwargs, **HYPERPARAMETERS, seed=0, device="cpu")
    model.learn(total_timesteps, progress_bar=True)
    env.training, env.norm_reward = False, False
    mean, std = evaluate_policy(model, env, n_eval_episodes=100)
    print(f"return over 100 episodes: {mean:.0f} ± {std:.0f} (the most is 500; without memory about 50)")
    return float(mean)


if __name__ == "__main__":
    main()

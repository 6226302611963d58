"""MiniGrid's Memory task: see an object, walk down a corridor, turn to the side where the same object is.

pip install "mnm-rl[minigrid]"
python -m examples.minigrid_memory
"""

from typing import Any

import gymnasium as gym
import minigrid  # noqa: F401  (registers the environments)
from gymnasium.wrappers import FilterObservation
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.evaluation import evaluate_policy

from mnm_rl import RecurrentA2C


def without_mission(env: gym.Env[Any, Any]) -> gym.Env[Any, Any]:
    """Keep image and direction; the mission is a text that is always the same."""
    return FilterObservation(env, ["image", "direction"])


def main(total_timesteps: int = 400_000) -> None:
    env = make_vec_env("MiniGrid-MemoryS7-v0", n_envs=16, seed=0, wrapper_class=without_mission)
    model = RecurrentA2C(
        "MnmPolicy",
        env,
        learning_rate=2e-3,
        n_steps=64,
        gae_lambda=0.95,
        ent_coef=0.01,
        normalize_advantage=True,
        use_rms_prop=False,
        # The numbers of the image are kinds, colours and states of objects, from 0 to 10: nothing to divide by 255.
        policy_kwargs={"ortho_init": False, "normalize_images": False},
        seed=0,
        device="cpu",
    ).learn(total_timesteps, progress_bar=True)
    test = make_vec_env("MiniGrid-MemoryS7-v0", n_envs=16, seed=1, wrapper_class=without_mission)
    returns, _ = evaluate_policy(model, test, 200, return_episode_rewards=True)
    right = sum(r > 0 for r in returns) / len(returns)  # type: ignore[operator, union-attr]
    print(f"the right object in {right:.0%} of 200 episodes (without memory 50%)")


if __name__ == "__main__":
    main()

"""Play whole episodes with a model and report each of them."""

from typing import Any

from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.vec_env import VecEnv


def evaluate_episodes(model: BaseAlgorithm, env: VecEnv, episodes: int, deterministic: bool = False) -> list[dict[str, Any]]:
    """Play episodes, recurrent state included, shared out evenly over the environments.

    Args:
        model: any Stable-Baselines3 model.
        env: environments whose ``info`` holds ``episode`` at the end of one, as :class:`mnm_rl.GymnasiumVecEnv` and
            Stable-Baselines3's ``Monitor`` give it.
        episodes: how many.
        deterministic: take the most likely action instead of a sample.

    Returns:
        The final ``info`` of each episode, with ``return`` and ``length``.
    """
    finished: list[dict[str, Any]] = []

    def record(local: dict[str, Any], _: dict[str, Any]) -> None:
        if local["done"]:
            episode = local["info"]["episode"]
            finished.append(local["info"] | {"return": float(episode["r"]), "length": int(episode["l"])})

    evaluate_policy(model, env, episodes, deterministic=deterministic, callback=record, warn=False)
    return finished

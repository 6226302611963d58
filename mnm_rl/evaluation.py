"""Play whole episodes with a model and report each of them."""

from typing import Any

from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.vec_env import VecEnv


def evaluate_episodes(
    model: BaseAlgorithm, env: VecEnv, episodes: int, deterministic: bool = False, max_length: int = 100_000
) -> list[dict[str, Any]]:
    """Play episodes, recurrent state included, shared out evenly over the environments.

    Args:
        model: any Stable-Baselines3 model.
        env: environments whose ``info`` holds ``episode`` at the end of one, as :class:`mnm_rl.GymnasiumVecEnv` and
            Stable-Baselines3's ``Monitor`` give it.
        episodes: how many.
        deterministic: take the most likely action instead of a sample.
        max_length: steps after which an episode is taken for endless.

    Returns:
        The final ``info`` of each episode, with ``return``, ``length`` and ``rewarded``: the steps, counted from 1, that gave a
        positive reward.

    Raises:
        RuntimeError: if an episode does not end within ``max_length`` steps.
    """
    finished: list[dict[str, Any]] = []
    rewarded: list[list[int]] = [[] for _ in range(env.num_envs)]

    def record(local: dict[str, Any], _: dict[str, Any]) -> None:
        i = local["i"]
        if local["reward"] > 0:
            rewarded[i].append(int(local["current_lengths"][i]))
        if local["done"]:
            episode = local["info"]["episode"]
            of_episode = {"return": float(episode["r"]), "length": int(episode["l"]), "rewarded": rewarded[i]}
            finished.append(local["info"] | of_episode)
            rewarded[i] = []
        elif local["current_lengths"][i] >= max_length:
            raise RuntimeError(f"an episode has not ended after {max_length:,} steps: limit it with gymnasium.wrappers.TimeLimit")

    evaluate_policy(model, env, episodes, deterministic=deterministic, callback=record, warn=False)
    return finished

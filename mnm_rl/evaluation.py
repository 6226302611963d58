"""Play whole episodes with a model and report each of them."""

import logging
from contextlib import suppress
from typing import Any

from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.vec_env import VecEnv

from mnm_rl.vec_env import failures_named

logger = logging.getLogger(__name__)


class _LimitReached(Exception):
    """Ends :func:`evaluate_policy`."""


def evaluate_episodes(
    model: BaseAlgorithm,
    env: VecEnv,
    episodes: int,
    deterministic: bool = False,
    max_length: int = 100_000,
    max_steps: int | None = None,
) -> list[dict[str, Any]]:
    """Play episodes, recurrent state included, shared out evenly over the environments.

    Args:
        model: any Stable-Baselines3 model.
        env: environments whose ``info`` holds ``episode`` at the end of one, as :class:`mnm_rl.GymnasiumVecEnv` and
            Stable-Baselines3's ``Monitor`` give it.
        episodes: how many.
        deterministic: take the most likely action instead of a sample.
        max_length: steps after which an episode is taken for endless.
        max_steps: steps of all environments together after which no more are played, with a warning in the log; by default 2,000
            an episode, but at least 100,000. Episodes that are under way then count as far as they went.

    Returns:
        The final ``info`` of each episode, with ``return``, ``length`` and ``rewarded``: the steps, counted from 1, that gave a
        positive reward; of an episode that was cut off, these three alone.

    Raises:
        RuntimeError: if an episode does not end within ``max_length`` steps, an environment exits, or its process ends.
    """
    limit = max(100_000, 2_000 * episodes) if max_steps is None else max_steps
    finished: list[dict[str, Any]] = []
    rewarded: list[list[int]] = [[] for _ in range(env.num_envs)]
    steps = 0

    def record(local: dict[str, Any], _: dict[str, Any]) -> None:
        nonlocal steps
        steps += 1
        if steps > limit:
            under_way = (local["episode_counts"] < local["episode_count_targets"]) & (local["current_lengths"] > 0)
            logger.warning(
                "only %d of %d episodes have ended after %s steps; those under way count as far as they went "
                "(gymnasium.wrappers.TimeLimit ends episodes)",
                *(len(finished), episodes, f"{limit:,}"),
            )
            for k in under_way.nonzero()[0]:
                totals = {"return": float(local["current_rewards"][k]), "length": int(local["current_lengths"][k])}
                finished.append(totals | {"rewarded": rewarded[k]})
            raise _LimitReached
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

    with suppress(_LimitReached), failures_named(env, "in an evaluation", note=False):
        evaluate_policy(model, env, episodes, deterministic=deterministic, callback=record, warn=False)
    return finished

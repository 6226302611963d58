"""Play whole episodes with a model, with action masks, and report each episode."""

import inspect
import logging
from contextlib import suppress
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.vector import VectorEnv
from stable_baselines3.common import evaluation
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv

from mnm_rl.algorithms.checks import flattened
from mnm_rl.masks import action_masks, heeds
from mnm_rl.vec_env import GymnasiumVecEnv, failures_named

logger = logging.getLogger(__name__)


class Masked:
    """A model whose ``predict`` receives the action masks of the environments.

    Args:
        model: any Stable-Baselines3 model. If its ``predict`` has no argument ``action_masks``, it
            receives no masks.
        env: the environments that the model plays in.
        use_masking: None applies masks if there are any, True requires masks, and False ignores
            masks.
    """

    def __init__(self, model: Any, env: VecEnv, use_masking: bool | None = None) -> None:
        self.model, self.env = model, env
        if "action_masks" not in inspect.signature(model.predict).parameters:
            if use_masking:
                raise ValueError(
                    "use_masking=True needs a model whose predict takes action_masks, not a "
                    f"{type(model).__name__}"
                )
            use_masking = False
        self.use_masking = use_masking
        self._heeds: bool | None = None  # known from the first observation on

    def __getattr__(self, name: str) -> Any:
        return getattr(self.model, name)

    def predict(self, observation: Any, **arguments: Any) -> tuple[Any, Any]:
        """Call ``predict`` of the model with the current masks of the environments.

        Raises:
            ValueError: if masks are required, but the environments have none.
        """
        if self._heeds is None:
            self._heeds = heeds(self.env, self.use_masking)
        if self._heeds:
            arguments["action_masks"] = action_masks(self.env, self.model.action_space)
        return self.model.predict(observation, **arguments)  # type: ignore[no-any-return]


def vectorized(env: Any) -> VecEnv:
    """Environments as training has them: nested observations are flattened."""
    if isinstance(env, VecEnv):
        return env
    env = flattened(env)
    return GymnasiumVecEnv(env) if isinstance(env, VectorEnv) else DummyVecEnv([lambda: env])


def evaluate_policy(
    model: BaseAlgorithm,
    env: gym.Env[Any, Any] | VectorEnv[Any, Any, Any] | VecEnv,
    *args: Any,
    use_masking: bool | None = None,
    **kwargs: Any,
) -> Any:
    """Run Stable-Baselines3's ``evaluate_policy`` with action masks (:mod:`mnm_rl.masks`).

    Args:
        model: any Stable-Baselines3 model.
        env: a single environment, a Gymnasium ``VectorEnv`` or a Stable-Baselines3 ``VecEnv``.
            Nested observations are flattened, as in training.
        args: the other arguments of Stable-Baselines3's function, with the same defaults;
            ``kwargs`` likewise.
        use_masking: None applies masks if there are any, True requires masks, and False ignores
            masks.

    Returns:
        the mean and the standard deviation of the returns, or the returns and lengths of all
            episodes if ``return_episode_rewards`` is true.

    Raises:
        ValueError: if masks are required, but the environments or the model do not support them,
            or if a mask allows no action.
    """
    envs = vectorized(env)
    return evaluation.evaluate_policy(Masked(model, envs, use_masking), envs, *args, **kwargs)  # type: ignore[arg-type]


def episode_value(value: Any, key: str) -> float | None:
    """Return a number that an environment reports about an episode.

    Args:
        value: the value in the ``info`` at the end of the episode.
        key: its key.

    Returns:
        None if the value is None, NaN or infinite. Gymnasium turns None into NaN if another
            environment of the batch reports a number.

    Raises:
        TypeError: if the value is anything else.
    """
    if value is None:
        return None
    number = np.asarray(value)
    if number.dtype.kind not in "biuf" or number.size != 1:
        raise TypeError(
            f"info[{key!r}] at the end of an episode must be a number or None, got {value!r}"
        )
    return float(number.item()) if np.isfinite(number) else None


class _LimitReached(Exception):
    """The step limit ends :func:`evaluate_policy`."""


def evaluate_episodes(
    model: BaseAlgorithm,
    env: VecEnv,
    episodes: int,
    deterministic: bool = False,
    max_length: int = 100_000,
    max_steps: int | None = None,
) -> list[dict[str, Any]]:
    """Play episodes with the recurrent state, divided evenly among the environments.

    Args:
        model: any Stable-Baselines3 model. Action masks apply if the environments have them.
        env: environments whose ``info`` holds ``episode`` at the end of an episode, like
            :class:`mnm_rl.GymnasiumVecEnv` and Stable-Baselines3's ``Monitor``.
        episodes: number of episodes.
        deterministic: take the most likely action instead of a sample.
        max_length: number of steps after which an episode counts as endless.
        max_steps: limit for the steps of all environments together. At the limit, play stops with a
            warning in the log, and unfinished episodes count as far as they went. The default is
            2,000 per episode, but at least 100,000.

    Returns:
        the final ``info`` of each episode, with ``return``, ``length`` and ``rewarded``. The latter
            lists the steps, counted from 1, with a positive reward. An episode that was cut off has
            only these three entries.

    Raises:
        RuntimeError: if an episode does not end within ``max_length`` steps, an environment exits,
            or its process ends.
    """
    limit = max(100_000, 2_000 * episodes) if max_steps is None else max_steps
    finished: list[dict[str, Any]] = []
    rewarded: list[list[int]] = [[] for _ in range(env.num_envs)]
    steps = 0

    def record(local: dict[str, Any], _: dict[str, Any]) -> None:
        nonlocal steps
        steps += 1
        if steps > limit:
            under_way = (local["episode_counts"] < local["episode_count_targets"]) & (
                local["current_lengths"] > 0
            )
            logger.warning(
                "only %d of %d episodes have ended after %s steps; those under way count as far "
                "as they went "
                "(gymnasium.wrappers.TimeLimit ends episodes)",
                *(len(finished), episodes, f"{limit:,}"),
            )
            for k in under_way.nonzero()[0]:
                totals = {
                    "return": float(local["current_rewards"][k]),
                    "length": int(local["current_lengths"][k]),
                }
                finished.append(totals | {"rewarded": rewarded[k]})
            raise _LimitReached
        i = local["i"]
        if local["reward"] > 0:
            rewarded[i].append(int(local["current_lengths"][i]))
        if local["done"]:
            episode = local["info"]["episode"]
            of_episode = {
                "return": float(episode["r"]),
                "length": int(episode["l"]),
                "rewarded": rewarded[i],
            }
            finished.append(local["info"] | of_episode)
            rewarded[i] = []
        elif local["current_lengths"][i] >= max_length:
            raise RuntimeError(
                f"an episode has not ended after {max_length:,} steps: limit it with "
                "gymnasium.wrappers.TimeLimit"
            )

    with suppress(_LimitReached), failures_named(env, "in an evaluation", note=False):
        evaluate_policy(
            model, env, episodes, deterministic=deterministic, callback=record, warn=False
        )
    return finished

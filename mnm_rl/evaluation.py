"""Play whole episodes with a model, heeding action masks, and report each of them."""

import inspect
import logging
from contextlib import suppress
from typing import Any

import gymnasium as gym
from stable_baselines3.common import evaluation
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv

from mnm_rl.masks import action_masks, heeds
from mnm_rl.vec_env import failures_named

logger = logging.getLogger(__name__)


class Masked:
    """A model whose ``predict`` is told which actions the environments allow.

    Args:
        model: any Stable-Baselines3 model; one whose ``predict`` takes no ``action_masks`` is not
            told.
        env: the environments that it plays in.
        use_masking: None to heed masks where there are any, True to insist on them, False for
            never.
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
        """As the model's, with the masks of the environments as they are now.

        Raises:
            ValueError: if there are to be masks, and the environments have none.
        """
        if self._heeds is None:
            self._heeds = heeds(self.env, self.use_masking)
        if self._heeds:
            arguments["action_masks"] = action_masks(self.env, self.model.action_space)
        return self.model.predict(observation, **arguments)  # type: ignore[no-any-return]


def evaluate_policy(
    model: BaseAlgorithm,
    env: gym.Env[Any, Any] | VecEnv,
    *args: Any,
    use_masking: bool | None = None,
    **kwargs: Any,
) -> Any:
    """Stable-Baselines3's ``evaluate_policy`` for environments that may have action masks
    (:mod:`mnm_rl.masks`).

    Args:
        model: any Stable-Baselines3 model.
        env: an environment, or several.
        args: the other arguments of Stable-Baselines3's, with the same defaults, and so are
            ``kwargs``.
        use_masking: None to heed masks where there are any, True to insist on them, False for
            never.

    Returns:
        the mean and the standard deviation of the returns, or with ``return_episode_rewards``
        returns and lengths.

    Raises:
        ValueError: if there are to be masks, and the environments or the model have none, or one
            allows no action.
    """
    envs = env if isinstance(env, VecEnv) else DummyVecEnv([lambda: env])
    return evaluation.evaluate_policy(Masked(model, envs, use_masking), envs, *args, **kwargs)  # type: ignore[arg-type]


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
        model: any Stable-Baselines3 model; action masks are heeded where the environments have
            them.
        env: environments whose ``info`` holds ``episode`` at the end of one, as
            :class:`mnm_rl.GymnasiumVecEnv` and Stable-Baselines3's ``Monitor`` give it.
        episodes: how many.
        deterministic: take the most likely action instead of a sample.
        max_length: steps after which an episode is taken for endless.
        max_steps: steps of all environments together after which no more are played, with a warning
            in the log; by default 2,000 an episode, but at least 100,000. Episodes that are under
            way then count as far as they went.

    Returns:
        The final ``info`` of each episode, with ``return``, ``length`` and ``rewarded``: the steps,
        counted from 1, that gave a positive reward; of an episode that was cut off, these three
        alone.

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

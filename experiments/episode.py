"""One episode of a run, played alone: what the core saw, what happened, and how it looked."""

from pathlib import Path
from typing import Any, NamedTuple

import gymnasium as gym
import numpy as np
import torch
from numpy.typing import NDArray
from stable_baselines3.common.utils import set_random_seed
from torch import Tensor, nn

from experiments.command_line import UsageError, first_line
from experiments.configuration import Run
from experiments.run import load_model, newest_model
from mnm_rl.algorithms.checks import flattened
from mnm_rl.cores import RecurrentCore

MAX_STEPS = 1000
"""Longer episodes are cut here."""


class Episode(NamedTuple):
    """An episode of T steps. At step t, t actions have been taken: its input shows what came of the
    last of them."""

    run: Run
    core: RecurrentCore[Any]
    """That of the actor."""
    inputs: Tensor
    """What it saw, ``[T, 1, F]``."""
    rewards: NDArray[np.float64]
    """``[T]``, of the action that was taken at each step."""
    marks: dict[str, list[int]]
    """What to mark on the time axis, the good first: the steps at which it is seen, from 1 to T,
    which is after the last. These are the ``events`` of an environment that has such an attribute,
    or else rewards and punishments."""
    pictures: list[NDArray[np.uint8]]
    """Before the first action and after each, ``[height, width, 3]``; none if they were not asked
    for."""


def check_playable(run: Run, pictures: bool = False) -> None:
    """Check that an episode can be played alone.

    Raises:
        UsageError: as for :func:`play`.
    """
    env, *_ = _begin(run, 0, pictures)
    env.close()


def _begin(run: Run, seed: int, pictures: bool) -> tuple[gym.Env[Any, Any], Any, list[Any]]:
    """The environment, its first observation, and its first picture, if any is asked for."""
    try:
        mode = "rgb_array" if pictures else None
        env = flattened(gym.make(run.env, render_mode=mode, **run.env_kwargs))
        obs, _ = env.reset(seed=seed)
        return env, obs, [np.asarray(env.render(), dtype=np.uint8)] if pictures else []
    except Exception as error:
        complaint = (
            f"--gif: {run.env} cannot be drawn as pictures"
            if pictures
            else f"cannot make {run.environment}"
        )
        raise UsageError(f"{complaint}: {first_line(error)}") from error


def play(
    directory: Path, run: Run, seed: int, deterministic: bool, pictures: bool = False
) -> Episode:
    """Play an episode.

    Raises:
        UsageError: if there is no such environment, or it cannot be drawn although that is asked
            for.
    """
    env, obs, seen = _begin(run, seed, pictures)
    model = load_model(run, newest_model(directory), None, "cpu")
    core = model.policy.actor_core
    inputs: list[Tensor] = []

    def keep(module: nn.Module, args: tuple[Tensor, ...]) -> None:
        inputs.append(args[0][0].clone())

    set_random_seed(seed)
    state, rewards, done = None, list[float](), False
    with core.register_forward_pre_hook(keep):
        while not done and len(rewards) < MAX_STEPS:
            action, state = model.predict(obs, state, deterministic=deterministic)
            obs, reward, terminated, truncated, _ = env.step(action)
            done = terminated or truncated
            rewards.append(float(reward))
            if pictures:
                seen.append(env.render())
    by_reward = {
        name: [t for t, reward in enumerate(rewards, start=1) if sign * reward > 0]
        for name, sign in (("reward", 1), ("punishment", -1))
    }
    env.close()
    return Episode(
        run,
        core,
        torch.stack(inputs),
        np.array(rewards),
        getattr(env.unwrapped, "events", by_reward),
        [np.asarray(picture) for picture in seen],
    )

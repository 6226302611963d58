"""What can be wrong with an environment, said in words: its spaces, and what it gives in them."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, SupportsFloat

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.wrappers import FlattenObservation
from gymnasium.wrappers.vector import FlattenObservation as FlattenVectorObservation
from numpy.typing import NDArray
from stable_baselines3.common.base_class import maybe_make_env
from stable_baselines3.common.vec_env import VecEnv
from torch.distributions import Distribution

from mnm_rl.gymnasium_vector import autoreset_mode


class TrainingDivergedError(RuntimeError):
    """A quantity of training became NaN or infinite; the message says which one, and at which step.

    The parameters are those of the last good update: nothing that is not finite has reached them.
    """


class NotFiniteError(ValueError):
    """The output of a policy, or a quantity of its update, became NaN or infinite."""


class OtherSpacesError(ValueError):
    """A model was trained on other spaces than those of the environments it is given."""


ARRAYS = (spaces.Box, spaces.Discrete, spaces.MultiDiscrete, spaces.MultiBinary)
"""The spaces whose elements Stable-Baselines3 takes."""


def flattened(env: Any) -> Any:
    """The environment, its observations flattened to one vector where they are nested or a tuple.

    Not those of vector environments that reset in the same step: Gymnasium's wrapper would leave
    the final ones as they are.
    """
    if isinstance(env, VectorEnv):
        nested = _to_be_flattened(env.single_observation_space)
        return (
            FlattenVectorObservation(env)
            if nested and autoreset_mode(env) is not AutoresetMode.SAME_STEP
            else env
        )
    return (
        FlattenObservation(env)
        if isinstance(env, gym.Env) and _to_be_flattened(env.observation_space)
        else env
    )


def _to_be_flattened(space: spaces.Space[Any]) -> bool:
    nested = isinstance(space, spaces.Tuple) or (
        isinstance(space, spaces.Dict) and any(_parts(part) for part in _parts(space))
    )
    return nested and all(isinstance(leaf, ARRAYS) for leaf in _leaves(space))


def _parts(space: spaces.Space[Any]) -> list[spaces.Space[Any]]:
    if isinstance(space, spaces.Dict):
        return list(space.spaces.values())
    return list(space.spaces) if isinstance(space, spaces.Tuple) else []


def _leaves(space: spaces.Space[Any]) -> list[spaces.Space[Any]]:
    parts = _parts(space)
    return [leaf for part in parts for leaf in _leaves(part)] if parts else [space]


def check_spaces(observation_space: spaces.Space[Any], action_space: spaces.Space[Any]) -> None:
    """Check that a policy can be built for these spaces.

    Raises:
        ValueError: if not; the message names the space and a wrapper that would help.
    """
    for part in (
        _parts(observation_space)
        if isinstance(observation_space, spaces.Dict)
        else [observation_space]
    ):
        if not isinstance(part, ARRAYS):
            if isinstance(part, spaces.Dict | spaces.Tuple):
                advice = (
                    "gymnasium.wrappers.FlattenObservation, around each environment, makes one "
                    "vector of nested spaces"
                )
            elif isinstance(observation_space, spaces.Dict):
                advice = (
                    "gymnasium.wrappers.FilterObservation can leave it out, TransformObservation "
                    "can turn it into numbers"
                )
            else:
                advice = "gymnasium.wrappers.TransformObservation can turn it into numbers"
            raise ValueError(
                f"the observation space {observation_space} cannot be used: it must be Box, "
                "Discrete, MultiDiscrete, MultiBinary, "
                f"or a Dict of these; {advice}"
            )
        if isinstance(part, spaces.Discrete | spaces.MultiDiscrete) and np.any(part.start != 0):
            raise ValueError(
                f"the observation space {part} cannot be used: shift it to start at 0 with "
                "TransformObservation"
            )
        if isinstance(part, spaces.MultiDiscrete) and len(part.shape) > 1:
            raise ValueError(
                f"the observation space {part} cannot be used: make it one-dimensional with "
                "gymnasium.wrappers.ReshapeObservation "
                "or TransformObservation"
            )
        if isinstance(part, spaces.Box) and (part.shape == () or 0 in part.shape):
            raise ValueError(
                f"the observation space {part} cannot be used: it holds no array of numbers; give "
                "it the shape (1,) with "
                "gymnasium.wrappers.ReshapeObservation, or leave it out"
            )
    if isinstance(observation_space, spaces.Dict) and not observation_space.spaces:
        raise ValueError("the observation space Dict() cannot be used: there is nothing in it")
    if isinstance(action_space, spaces.Discrete | spaces.MultiDiscrete) and np.any(
        action_space.start != 0
    ):
        raise ValueError(
            f"the action space {action_space} cannot be used: shift it to start at 0 with "
            "TransformAction"
        )
    if (
        isinstance(action_space, spaces.MultiDiscrete | spaces.MultiBinary)
        and len(action_space.shape) > 1
    ):
        raise ValueError(
            f"the action space {action_space} cannot be used: make it one-dimensional with "
            "TransformAction"
        )
    if isinstance(action_space, spaces.Box) and (
        action_space.shape == () or 0 in action_space.shape
    ):
        raise ValueError(
            f"the action space {action_space} cannot be used: it holds no array of numbers; give "
            "it a shape such as (1,)"
        )
    if isinstance(action_space, spaces.Box) and not action_space.is_bounded("both"):
        raise ValueError(
            f"the action space {action_space} cannot be used: give it bounds with "
            "gymnasium.wrappers.RescaleAction or ClipAction"
        )
    if not isinstance(action_space, ARRAYS):
        raise ValueError(
            f"the action space {action_space} cannot be used: it must be Box, Discrete, "
            "MultiDiscrete or MultiBinary; "
            "gymnasium.wrappers.TransformAction can map one of these to it"
        )


def check_same_spaces(
    env: VecEnv, observation_space: spaces.Space[Any], action_space: spaces.Space[Any]
) -> None:
    """Check that a model of these spaces can go on in ``env``.

    Raises:
        OtherSpacesError: if not; the message names both.
    """
    for what, trained, given in (
        ("Observation", observation_space, env.observation_space),
        ("Action", action_space, env.action_space),
    ):
        if trained != given:
            raise OtherSpacesError(f"{what} spaces do not match: {trained} != {given}")


def made(env: Any, verbose: int = 0) -> Any:
    """The environment of an id, or what it is given.

    Raises:
        gymnasium.error.UnregisteredEnv: if there is none of this id; the message says what may be
            missing.
    """
    try:
        return maybe_make_env(env, verbose)
    except gym.error.UnregisteredEnv as error:
        first = (
            "import envs" if str(env).startswith("mnm/") else "import the module that registers it"
        )
        raise type(error)(
            f"{error} If it was not registered: {first} first, or name the module in the id, "
            f"MODULE:{env}"
        ) from None


def checked_rewards(rewards: Any, n_envs: int, step: int) -> NDArray[Any]:
    """The rewards of a step as an array of numbers ``[n_envs]``.

    Raises:
        TrainingDivergedError: if one is NaN or infinite; the message names the environment.
        ValueError: if one is no number, or they are not one for each environment.
    """
    array = np.asarray(rewards)
    if array.shape != (n_envs,):
        raise ValueError(
            f"the environments must give a reward each, [{n_envs}], and gave {list(array.shape)} "
            f"at step {step:,}: {rewards!r}"
        )
    if array.dtype.kind not in "biuf":
        wrong = [not isinstance(reward, SupportsFloat) for reward in array.tolist()]
        if all(wrong):  # a text makes texts of all
            wrong = [
                not str(reward).replace(".", "", 1).lstrip("-").isdecimal()
                for reward in array.tolist()
            ]
        if any(wrong) or array.dtype.kind != "O":
            i = wrong.index(True) if any(wrong) else 0
            raise ValueError(
                f"the reward of environment {i} is {array.tolist()[i]!r} at step {step:,}, and "
                "must be a number"
            )
        array = array.astype(np.float32)
    if (row := not_finite(array)) is not None:
        raise TrainingDivergedError(
            f"the reward of environment {row} is NaN or infinite at step {step:,}"
        )
    return array


def not_finite(array: NDArray[Any]) -> int | None:
    """The first row that holds a NaN or an infinity, None if there is none."""
    if array.dtype.kind != "f" or np.isfinite(array).all():
        return None
    return int(np.argwhere(~np.isfinite(array))[0][0])


def outside(observations: NDArray[Any], space: spaces.Space[Any]) -> int | None:
    """The first row of a batch ``[B, ...]`` that holds a number which a space of choices does not
    have, None if there is none.

    Values beyond the bounds of a Box are let pass, as Stable-Baselines3 does: many environments
    exceed theirs a little.
    """
    if isinstance(space, spaces.Discrete):
        wrong = (observations < 0) | (observations >= space.n) | (observations % 1 != 0)
    elif isinstance(space, spaces.MultiDiscrete):
        wrong = (observations < 0) | (observations >= space.nvec) | (observations % 1 != 0)
    elif isinstance(space, spaces.MultiBinary):
        wrong = (observations != 0) & (observations != 1)
    else:
        return None
    return int(np.argwhere(wrong)[0][0]) if wrong.any() else None


def check_observation(
    observations: Any,
    space: spaces.Space[Any],
    step: int,
    what: str = "observation",
    first_env: int = 0,
) -> None:
    """Check a batch of observations; the first is that of ``first_env``.

    Raises:
        TrainingDivergedError: if an observation is NaN or infinite.
        ValueError: if a choice is outside of the space.
    """
    if isinstance(space, spaces.Dict):
        for key, part in space.spaces.items():
            check_observation(observations[key], part, step, f"{what} {key!r}", first_env)
        return
    _check_finite(observations, what, step, first_env)
    if (row := outside(observations, space)) is not None:
        raise ValueError(
            f"the {what} of environment {first_env + row} is outside of {space} at step {step:,}: "
            f"{observations[row]}"
        )


def _check_finite(array: NDArray[Any], what: str, step: int, first_env: int = 0) -> None:
    if (row := not_finite(array)) is not None:
        raise TrainingDivergedError(
            f"the {what} of environment {first_env + row} is NaN or infinite at step {step:,}"
        )


def check_final_observation(
    observation: Any, space: spaces.Space[Any], step: int, env: int
) -> None:
    """Check the final observation of an episode of one environment, as
    :func:`check_observation` does."""
    one = (
        {key: np.asarray(part)[np.newaxis] for key, part in observation.items()}
        if isinstance(observation, dict)
        else np.asarray(observation)[np.newaxis]
    )
    check_observation(one, space, step, "final observation", env)


@contextmanager
def divergence_at(step: int) -> Iterator[None]:
    """Name the step at which something became NaN or infinite.

    Raises:
        TrainingDivergedError: in place of a NotFiniteError.
    """
    try:
        yield
    except NotFiniteError as error:
        raise TrainingDivergedError(f"{error} at step {step:,}") from error


@contextmanager
def unchecked_distributions() -> Iterator[None]:
    """Let torch's distributions not look at their numbers, where there are none to see."""
    checked = Distribution._validate_args
    Distribution.set_default_validate_args(False)
    try:
        yield
    finally:
        Distribution.set_default_validate_args(checked)

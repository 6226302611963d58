"""Wrappers for single environments.

:mod:`mnm_rl.wrappers.vector` has wrappers with the same names for vector environments.
"""

from typing import Any, SupportsFloat

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from mnm_rl.masks import KEY, choices, flat, truths


class MetaObservation(gym.Wrapper[dict[str, Any], Any, Any, Any], gym.utils.RecordConstructorArgs):
    """Add the previous action and reward to the observations (RL^2, Duan et al. 2016).

    A memory needs these to learn from its own actions.

    The observation becomes a ``Dict``. A ``Dict`` observation keeps its keys. Any other observation
    gets the key ``"observation"``. The new entries are

    - ``"previous_action"``: ``Box [A]`` float32. Discrete and MultiDiscrete actions are one-hot,
      others are flattened. Zeros in the first step of an episode.
    - ``"previous_reward"``: ``Box [1]`` float32. Zero in the first step.
    - ``"episode_start"``: ``Box [1]`` float32. One in the first step, then zero.
    - ``"time"``, if ``horizon`` is given: ``Box [1]`` float32, steps since the start of the
      episode, divided by ``horizon``.

    :class:`mnm_rl.wrappers.vector.MetaObservation` is the version for vector environments.

    Args:
        env: the environment to wrap.
        horizon: divisor of the time, such as the length of an episode. None (default) adds no time.

    Raises:
        ValueError: if the actions are not Discrete, MultiDiscrete, MultiBinary or Box, if the
            observation already has one of the keys, or if ``horizon`` is not positive.

    Example:
        >>> import gymnasium as gym
        >>> from mnm_rl.wrappers import MetaObservation
        >>> env = MetaObservation(gym.make("CartPole-v1"), horizon=500)
        >>> observation, info = env.reset(seed=0)
        >>> sorted(observation)
        ['episode_start', 'observation', 'previous_action', 'previous_reward', 'time']
        >>> observation, *_ = env.step(1)
        >>> observation["previous_action"], observation["previous_reward"]
        (array([0., 1.], dtype=float32), array([1.], dtype=float32))
        >>> observation["episode_start"], observation["time"]
        (array([0.], dtype=float32), array([0.002], dtype=float32))
    """

    def __init__(self, env: gym.Env[Any, Any], horizon: int | None = None) -> None:
        gym.utils.RecordConstructorArgs.__init__(self, horizon=horizon)
        gym.Wrapper.__init__(self, env)
        self.horizon = horizon
        self.observation_space = meta_space(env.observation_space, env.action_space, horizon)
        self._t = 0

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        observation, info = self.env.reset(seed=seed, options=options)
        self._t = 0
        return self._with(
            observation, np.zeros(spaces.flatdim(self.env.action_space), np.float32), 0.0
        ), info

    def step(self, action: Any) -> tuple[dict[str, Any], SupportsFloat, bool, bool, dict[str, Any]]:
        observation, reward, terminated, truncated, info = self.env.step(action)
        self._t += 1
        previous_action = encode_actions(self.env.action_space, np.asarray(action)[np.newaxis])[0]
        return (
            self._with(observation, previous_action, float(reward)),
            reward,
            terminated,
            truncated,
            info,
        )

    def _with(self, observation: Any, action: NDArray[np.float32], reward: float) -> dict[str, Any]:
        t = np.array([self._t])
        return meta_observation(observation, action, np.array([reward]), t, self.horizon)


class InfoActionMasks(gym.Wrapper[Any, Any, Any, Any], gym.utils.RecordConstructorArgs):
    """Provide the action mask in an environment's ``info`` as the method ``action_masks``.

    Some environments, such as Taxi, have a mask in ``info``. The algorithms look for masks in the
    method (:mod:`mnm_rl.masks`). Vector environments need no such wrapper.

    Args:
        env: the environment to wrap.
        key: key of the mask in ``info``.

    Example:
        >>> import gymnasium as gym
        >>> from mnm_rl.wrappers import InfoActionMasks
        >>> env = InfoActionMasks(gym.make("Taxi-v4"))
        >>> observation, info = env.reset(seed=0)
        >>> env.action_masks()
        array([ True,  True, False, False, False, False])
    """

    def __init__(self, env: gym.Env[Any, Any], key: str = KEY) -> None:
        gym.utils.RecordConstructorArgs.__init__(self, key=key)
        gym.Wrapper.__init__(self, env)
        self.key = key
        self._info: dict[str, Any] = {}

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        observation, self._info = self.env.reset(seed=seed, options=options)
        return observation, self._info

    def step(self, action: Any) -> tuple[Any, SupportsFloat, bool, bool, dict[str, Any]]:
        observation, reward, terminated, truncated, self._info = self.env.step(action)
        return observation, reward, terminated, truncated, self._info

    def action_masks(self) -> NDArray[np.bool_]:
        """Return the mask of the last observation.

        If ``info`` has no mask, all actions are allowed.
        """
        mask = self._info.get(self.key)
        return (
            np.ones(choices(self.action_space).sum(), bool) if mask is None else truths(flat(mask))
        )


def meta_space(
    observation_space: spaces.Space[Any], action_space: spaces.Space[Any], horizon: int | None
) -> spaces.Dict:
    """Return the observation space of :class:`MetaObservation`."""
    if horizon is not None and not horizon > 0:
        raise ValueError(f"horizon must be positive, got {horizon}")
    if not isinstance(
        action_space, spaces.Discrete | spaces.MultiDiscrete | spaces.MultiBinary | spaces.Box
    ):
        raise ValueError(
            f"the action space {action_space} cannot be observed: it must be Discrete, "
            "MultiDiscrete, MultiBinary or Box; "
            "gymnasium.wrappers.TransformAction can map one of these to it"
        )
    actions = spaces.flatten_space(action_space)
    assert isinstance(actions, spaces.Box)
    # the zeros of the first step are in it, too
    low, high = np.minimum(actions.low, 0), np.maximum(actions.high, 0)
    added = {
        "previous_action": spaces.Box(low.astype(np.float32), high.astype(np.float32)),
        "previous_reward": spaces.Box(-np.inf, np.inf, (1,)),
        "episode_start": spaces.Box(0, 1, (1,)),
    }
    if horizon is not None:
        added["time"] = spaces.Box(0, np.inf, (1,))
    own = (
        observation_space.spaces
        if isinstance(observation_space, spaces.Dict)
        else {"observation": observation_space}
    )
    for key in own.keys() & added.keys():
        raise ValueError(
            f"the observation has a {key!r} already; rename it, for example with "
            "TransformObservation"
        )
    return spaces.Dict({**own, **added})


def meta_observation(
    observation: Any,
    action: NDArray[np.float32],
    reward: NDArray[Any],
    t: NDArray[Any],
    horizon: int | None,
) -> dict[str, Any]:
    """Build an observation in :func:`meta_space`, or a batch of them.

    Actions are ``[..., A]``, and rewards and steps are ``[..., 1]``.
    """
    own = observation if isinstance(observation, dict) else {"observation": observation}
    meta = {
        **own,
        "previous_action": action,
        "previous_reward": reward.astype(np.float32),
        "episode_start": (t == 0).astype(np.float32),
    }
    if horizon is not None:
        meta["time"] = (t / horizon).astype(np.float32)
    return meta


def encode_actions(space: spaces.Space[Any], actions: NDArray[Any]) -> NDArray[np.float32]:
    """Encode actions ``[N, *space.shape]`` as numbers ``[N, A]``; choices become one-hot."""
    if isinstance(space, spaces.Discrete):
        sizes, starts = np.array([space.n]), np.array([space.start])
    elif isinstance(space, spaces.MultiDiscrete):
        sizes, starts = space.nvec.ravel(), space.start.ravel()
    else:
        return actions.reshape(len(actions), -1).astype(np.float32)
    choices = actions.reshape(len(actions), -1) - starts
    return np.concatenate(
        [choices[:, [i]] == np.arange(n) for i, n in enumerate(sizes)], axis=1, dtype=np.float32
    )

"""Rollout buffers that give back the whole rollout in time order, with the recorded steps of the core."""

from typing import Any, NamedTuple

import torch
from stable_baselines3.common.buffers import DictRolloutBuffer, RolloutBuffer
from torch import Tensor

from mnm_rl.cores.core import Recording


class RolloutSequence(NamedTuple):
    """One rollout of T steps of B environments."""

    observations: Tensor | dict[str, Tensor]
    """``[T, B, ...]``."""
    actions: Tensor
    """``[T, B, action_dim]``."""
    advantages: Tensor
    """Generalized advantage estimates, ``[T, B]``."""
    returns: Tensor
    """TD(lambda) targets of the value function, ``[T, B]``."""
    episode_starts: Tensor
    """``[T, B]`` bool."""
    recording: Recording[Any]
    """The steps of the core."""


def _sequence(buffer: RolloutBuffer, recording: Recording[Any]) -> RolloutSequence:
    observations = buffer.observations
    return RolloutSequence(
        {key: buffer.to_torch(obs) for key, obs in observations.items()}
        if isinstance(observations, dict)
        else buffer.to_torch(observations),
        buffer.to_torch(buffer.actions).float(),  # MultiBinary's log-probability needs floats
        buffer.to_torch(buffer.advantages),
        buffer.to_torch(buffer.returns),
        buffer.to_torch(buffer.episode_starts).to(torch.bool),
        recording,
    )


class RecurrentRolloutBuffer(RolloutBuffer):
    """Stable-Baselines3's rollout buffer, read as one sequence."""

    recording: Recording[Any] | None = None

    def sequence(self) -> RolloutSequence:
        """The whole rollout in time order; see :class:`RolloutSequence`."""
        assert self.recording is not None, "nothing has been recorded"
        return _sequence(self, self.recording)


class RecurrentDictRolloutBuffer(DictRolloutBuffer):
    """Stable-Baselines3's rollout buffer for Dict observations, read as one sequence."""

    recording: Recording[Any] | None = None

    def sequence(self) -> RolloutSequence:
        """The whole rollout in time order; see :class:`RolloutSequence`."""
        assert self.recording is not None, "nothing has been recorded"
        return _sequence(self, self.recording)

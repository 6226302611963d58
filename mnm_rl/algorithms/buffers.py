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


class RecurrentRolloutBuffer(RolloutBuffer):
    """Stable-Baselines3's rollout buffer, read as one sequence."""

    recording: Recording[Any] | None = None

    def sequence(self) -> RolloutSequence:
        """The whole rollout in time order; see :class:`RolloutSequence`."""
        assert self.recording is not None, "nothing has been recorded"
        observations: Any = self.observations
        return RolloutSequence(
            {key: self.to_torch(part) for key, part in observations.items()}
            if isinstance(observations, dict)
            else self.to_torch(observations),
            self.to_torch(self.actions).float(),  # MultiBinary's log-probability needs floats
            self.to_torch(self.advantages),
            self.to_torch(self.returns),
            self.to_torch(self.episode_starts).to(torch.bool),
            self.recording,
        )


class RecurrentDictRolloutBuffer(RecurrentRolloutBuffer, DictRolloutBuffer):
    """The same for Dict observations."""

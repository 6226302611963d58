"""Rollout buffers that give back the whole rollout in time order, with what the core kept of its steps."""

from typing import Any, NamedTuple

import torch
from stable_baselines3.common.buffers import DictRolloutBuffer, RolloutBuffer
from torch import Tensor

from mnm_rl.cores.implementations import Trace


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
    initial_state: tuple[Tensor, ...]
    """Recurrent state before the first step, batch first."""
    trace: Trace[Any]
    """The steps of the core."""


class RecurrentRolloutBuffer(RolloutBuffer):
    """Stable-Baselines3's rollout buffer, read as one sequence."""

    trace: Trace[Any] | None = None
    """The core's steps of this rollout; whoever collects the next one puts its own in place, which gives this one's memory back."""

    def sequence(self) -> RolloutSequence:
        """The whole rollout in time order; see :class:`RolloutSequence`."""
        assert self.trace is not None, "nothing has been collected"
        observations: Any = self.observations
        return RolloutSequence(
            {key: self.to_torch(part) for key, part in observations.items()}
            if isinstance(observations, dict)
            else self.to_torch(observations),
            self.to_torch(self.actions).float(),  # MultiBinary's log-probability needs floats
            self.to_torch(self.advantages),
            self.to_torch(self.returns),
            self.to_torch(self.episode_starts).to(torch.bool),
            self.trace.initial_state,
            self.trace,
        )


class RecurrentDictRolloutBuffer(RecurrentRolloutBuffer, DictRolloutBuffer):
    """The same for Dict observations."""

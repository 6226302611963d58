"""Rollout buffers that give back the rollout in time order, whole or in minibatches."""

from collections.abc import Generator, Iterator
from copy import copy
from typing import Any, NamedTuple, Self

import numpy as np
import torch
from gymnasium import spaces
from stable_baselines3.common.buffers import DictRolloutBuffer, RolloutBuffer
from torch import Tensor

from mnm_rl.algorithms.recurrent_policy import State
from mnm_rl.cores.implementations import Recording


class RolloutSequence(NamedTuple):
    """T steps of B environments, of one rollout."""

    observations: Tensor | dict[str, Tensor]
    """``[T, B, ...]``."""
    actions: Tensor
    """``[T, B, action_dim]``."""
    values: Tensor
    """What the critic said in the rollout, ``[T, B]``."""
    log_prob: Tensor
    """Log-probabilities of the actions in the rollout, ``[T, B]``."""
    advantages: Tensor
    """Generalized advantage estimates, ``[T, B]``."""
    returns: Tensor
    """TD(lambda) targets of the value function, ``[T, B]``."""
    episode_starts: Tensor
    """``[T, B]`` bool."""
    learned: Tensor | None
    """``[T, B]`` bool, false where an environment only reset; None if there is something to learn
    from every step."""
    states: dict[int, State]
    """Recurrent states before some steps, batch first; before step 0 in any case."""
    action_masks: Tensor | None
    """Which actions the environments allowed, ``[T, B, width]`` bool; None if nobody said."""
    recording: Recording[Any] | None
    """The steps of the core, if these are all steps of the rollout, and were recorded."""

    @property
    def initial_state(self) -> State:
        """Recurrent state before the first step, batch first."""
        return self.states[0]

    def to_learn(self, steps: Tensor) -> Tensor:
        """Those of ``[T, B]`` numbers that belong to steps to learn from: as they are if all do,
        else ``[n]``."""
        return steps if self.learned is None else steps[self.learned]

    def minibatches(self, size: int | None) -> Iterator[list[Self]]:
        """Part the rollout into minibatches in a new random order, without padding.

        The sequences of the environments, in random order, are one strip of ``T B`` steps, cut at
        every multiple of ``size``. A sequence that is cut goes on from the state that the rollout
        had there.

        Args:
            size: steps of a minibatch (the last on the strip may have fewer), or None for all
                steps.

        Yields:
            sequences, one for each length: of one length, that of the rollout or shorter, if one
            divides ``size`` or is divided by it, and of up to three if not.
        """
        T, B = self.episode_starts.shape
        size = size or T * B
        envs = torch.as_tensor(np.random.permutation(B), device=self.episode_starts.device)  # noqa: NPY002  (SB3 seeds this one)
        for k in np.random.permutation(-(-T * B // size)).tolist():  # noqa: NPY002
            strip = _pieces(k * size, min((k + 1) * size, T * B), T)
            pieces = [self._piece(envs[first:last], t0, t1) for first, last, t0, t1 in strip]
            nothing = self.learned is not None and not any(piece.learned.any() for piece in pieces)  # type: ignore[union-attr]
            yield [piece._replace(learned=None) for piece in pieces] if nothing else pieces

    def _piece(self, envs: Tensor, t0: int, t1: int) -> Self:
        """Steps t0 to t1 of some environments."""

        def part(whole: Tensor) -> Tensor:
            return whole[t0:t1].index_select(1, envs)

        observations = self.observations
        state = self.states[t0]
        return self._replace(
            observations={k: part(o) for k, o in observations.items()}
            if isinstance(observations, dict)
            else part(observations),
            actions=part(self.actions),
            values=part(self.values),
            log_prob=part(self.log_prob),
            advantages=part(self.advantages),
            returns=part(self.returns),
            episode_starts=part(self.episode_starts),
            learned=None if self.learned is None else part(self.learned),
            action_masks=None if self.action_masks is None else part(self.action_masks),
            states={0: type(state)(*(tensor[envs] for tensor in state))},
            recording=None,
        )


def _pieces(start: int, stop: int, length: int) -> Iterator[tuple[int, int, int, int]]:
    """A stretch of a strip of sequences: the end of one, whole ones, and the beginning of one, each
    as ``(first, last, t0, t1)``: steps t0 to t1 of the sequences from first to last."""
    (first, t0), (last, t1) = divmod(start, length), divmod(stop, length)
    if first == last:
        yield first, first + 1, t0, t1
        return
    if t0:
        yield first, first + 1, t0, length
        first += 1
    if first < last:
        yield first, last, 0, length
    if t1:
        yield last, last + 1, 0, t1


class RecurrentRolloutBuffer(RolloutBuffer):
    """Stable-Baselines3's rollout buffer, read as one sequence or as minibatches of sequences."""

    recording: Recording[Any] | None = None
    """The core's steps of this rollout, if they were recorded. Its memory is free for the next
    rollout once this is None."""
    batch_size: int | None = None
    """Steps of a minibatch; None for the whole rollout."""

    def reset(self) -> None:
        """Forget the rollout."""
        super().reset()
        if isinstance(self.action_space, spaces.Box):
            # Sampled actions are real numbers, also where the space says int64: cut down to that,
            # they would have other probabilities than those of the rollout.
            self.actions = self.actions.astype(np.float32)
        steps = self.buffer_size * self.n_envs
        self._starts = {
            start % self.buffer_size for start in range(0, steps, self.batch_size or steps)
        }
        self._states: dict[int, State] = {}
        self._action_masks: list[Tensor] = []
        self._resets = np.zeros((self.buffer_size, self.n_envs), bool)

    @property
    def starts_sequence(self) -> bool:
        """Whether a sequence of a minibatch starts at the step that is added next, so that
        :meth:`keep_state` must be called."""
        return self.pos in self._starts

    def keep_state(self, state: State) -> None:
        """Keep the recurrent state before the step that is added next."""
        self._states[self.pos] = state

    def mark_resets(self, envs: list[int]) -> None:
        """In the step that is added next, these environments only reset: there is nothing to learn
        from it."""
        self._resets[self.pos, envs] = True

    def add(self, *args: Any, action_masks: Tensor | None = None, **kwargs: Any) -> None:
        """Add a step of every environment; ``action_masks [B, width]`` in every step or none."""
        if action_masks is not None:
            self._action_masks.append(action_masks)
        super().add(*args, **kwargs)

    def get(self, batch_size: int | None = None) -> Generator[Any, None, None]:
        """Stable-Baselines3's minibatches of single steps in random order, for who reads a rollout.

        That flattens the buffer's arrays, so a copy gives them: the update wants sequences.
        """
        view: Any = copy(self)
        if isinstance(view.observations, dict):
            view.observations = dict(view.observations)
        return super(RecurrentRolloutBuffer, view).get(batch_size)

    def sequence(self) -> RolloutSequence:
        """The whole rollout in time order; see :class:`RolloutSequence`."""
        observations: Any = self.observations
        return RolloutSequence(
            {key: self.to_torch(part) for key, part in observations.items()}
            if isinstance(observations, dict)
            else self.to_torch(observations),
            self.to_torch(self.actions).float(),  # MultiBinary's log-probability needs floats
            self.to_torch(self.values),
            self.to_torch(self.log_probs),
            self.to_torch(self.advantages),
            self.to_torch(self.returns),
            self.to_torch(self.episode_starts).to(torch.bool),
            self.to_torch(~self._resets) if self._resets.any() and not self._resets.all() else None,
            dict(self._states),
            torch.stack(self._action_masks) if self._action_masks else None,
            self.recording,
        )


class RecurrentDictRolloutBuffer(RecurrentRolloutBuffer, DictRolloutBuffer):
    """The same for Dict observations."""

"""Metalearned neural memory: an LSTM controller around a neural memory (Munkhdalai et al. 2019, section 3)."""

import math
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor, nn

from mnm_rl.cores.core import Recording, RecurrentCore, segments
from mnm_rl.initialization import Init, orthogonal_blocks_, scaled_inputs_
from mnm_rl.memory import FeedbackInputs, NeuralMemory, PlainMemory, RunningMemory, WriteRuleName, recall_loss

if TYPE_CHECKING:
    from mnm_rl.cores.fused_mnm import FusedMnm


class MnmState(NamedTuple):
    """What an MNM core carries from step to step, for B environments."""

    h: Tensor
    """Controller output, ``[B, D]``."""
    c: Tensor
    """Controller cell, ``[B, D]``."""
    read: Tensor
    """Value read from the memory, ``v^r``, ``[B, D]``."""
    theta: Tensor
    """Fast weights, ``[B, L, D, D]``."""
    replay_keys: Tensor
    """The last R written keys, newest last, ``[B, R, H, D]``."""
    replay_values: Tensor
    """The last R written values, newest last, ``[B, R, H, D]``."""
    replay_mask: Tensor
    """1 where a replay slot holds a write of this episode, ``[B, R]``."""


class MnmCore(RecurrentCore[MnmState]):
    """LSTM controller with a neural memory that it writes, then reads, at every step.

    One step: ``h_t, c_t = LSTM([x_t; v^r_(t-1)])``; ``u_t = tanh(A h_t + a)`` gives the write strength
    ``beta_t = sigmoid(b . u_t[:D] + b_0)`` and H triples ``(k^w, v^w, k^r)``; write, then read
    ``v^r_t = mean_h f_(theta_t)(k^r_h)``; output ``o_t = C [h_t; v^r_t] + c``.

    Args:
        input_size: width F of the inputs.
        hidden_size: width D of the controller, of the memory, and of the outputs.
        write_rule: ``"g"`` (gradient step), ``"p"`` (learned local rule) or ``"delta"`` (delta rule, with ``memory_layers=1``).
        memory_layers: layers L of the memory.
        heads: writes (and reads) H per step.
        replay: the meta-loss of a step also averages over the last ``replay`` writes of the episode.
        feedback_inputs: what rule p's feedback maps see, ``"value"`` or ``"key_value"``.
        learn_initial_memory: train ``theta_0``, or keep a fixed random draw.
        init: ``"scaled"`` (default), with which a write removes a good part of its error from the first update, or ``"pytorch"``.

    On CPUs a whole sequence is one fused operation (:mod:`mnm_rl.cores.fused_mnm`), except with ``replay``.

    Raises:
        ValueError: if an argument is out of range.
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int = 100,
        write_rule: WriteRuleName = "p",
        memory_layers: int = 3,
        heads: int = 1,
        replay: int = 0,
        feedback_inputs: FeedbackInputs = "value",
        learn_initial_memory: bool = True,
        init: Init = "scaled",
    ) -> None:
        super().__init__(hidden_size)
        if heads < 1 or replay < 0:
            raise ValueError(f"a core needs heads >= 1 and replay >= 0, got heads={heads}, replay={replay}")
        self.memory = NeuralMemory(hidden_size, memory_layers, write_rule, feedback_inputs, learn_initial_memory, init)
        self.heads, self.replay = heads, replay
        self.controller = nn.LSTMCell(input_size + hidden_size, hidden_size)
        self.interaction = nn.Linear(hidden_size, (3 * heads + 1) * hidden_size)  # A, a
        self.write_strength = nn.Linear(hidden_size, 1)  # b, b_0
        self.output = nn.Linear(2 * hidden_size, hidden_size)  # C, c
        if init == "scaled":
            scaled_inputs_(self.controller.weight_ih.data[:, :input_size], gain=2)
            orthogonal_blocks_(self.interaction.weight, gain=4)
            nn.init.zeros_(self.interaction.bias)
            nn.init.constant_(self.write_strength.bias, math.log(heads))

    def initial_state(self, batch_size: int) -> MnmState:
        theta = torch.stack(self.memory.initial_memory(batch_size), dim=1)
        zeros = theta.new_zeros(batch_size, self.hidden_size)
        replay = theta.new_zeros(batch_size, self.replay, self.heads, self.hidden_size)
        return MnmState(zeros, zeros, zeros, theta, replay, replay, replay[:, :, 0, 0])

    def step(self, x: Tensor, state: MnmState) -> tuple[Tensor, MnmState, Tensor]:
        outputs, state, meta_loss = self(x.unsqueeze(0), state, torch.zeros(1, len(x), dtype=torch.bool, device=x.device))
        return outputs[0], state, meta_loss[0]

    def why_plain(self) -> str | None:
        if self.memory.write_rule not in ("g", "p"):
            return super().why_plain() or f"there is no fused path for write rule {self.memory.write_rule!r}"
        return super().why_plain() or ("there is no fused path for replay" if self.replay else None)

    def _fused_recording(self, state: MnmState, steps: int, reuse: Recording[MnmState] | None = None) -> "FusedMnm":
        from mnm_rl.cores.fused_mnm import FusedMnm  # needs Numba

        return FusedMnm(self, state, steps, reuse)

    def forward(self, inputs: Tensor, state: MnmState, episode_starts: Tensor) -> tuple[Tensor, MnmState, Tensor]:
        if self._fused():
            return self._fused_recording(state, len(inputs)).sequence(inputs, episode_starts)
        return self._scan(inputs, state, episode_starts, PlainMemory)

    def _scan(
        self, inputs: Tensor, state: MnmState, episode_starts: Tensor, running_memory: type[RunningMemory]
    ) -> tuple[Tensor, MnmState, Tensor]:
        """:meth:`forward`, with the fast weights as a running memory has them: apart from the rest of the state until the end."""
        memory = running_memory(self.memory, state.theta)
        hidden, read, meta_loss, beta = [], [], [], []
        for t0, t1, reset in segments(episode_starts):
            if reset:
                memory.reset(episode_starts[t0])
                state = self.reset(state, episode_starts[t0])
            for x in inputs[t0:t1].unbind(0):
                state, loss_t, beta_t = self._write_and_read(x, state, memory)
                hidden.append(state.h)
                read.append(state.read)
                meta_loss.append(loss_t)
                beta.append(beta_t)
        self.diagnostics = {"beta": torch.stack(beta).detach().mean()}
        outputs: Tensor = self.output(torch.cat([torch.stack(hidden), torch.stack(read)], dim=-1))
        return outputs, state._replace(theta=memory.theta()), torch.stack(meta_loss)

    def _write_and_read(self, x: Tensor, state: MnmState, memory: RunningMemory) -> tuple[MnmState, Tensor, Tensor]:
        """One step: the new state (but for its ``theta``, which stays as it was), the meta-loss ``[B]`` and beta ``[B]``."""
        B, H, D = x.shape[0], self.heads, self.hidden_size
        h, c = self.controller(torch.cat([x, state.read], dim=-1), (state.h, state.c))
        u = torch.tanh(self.interaction(h))
        beta = torch.sigmoid(self.write_strength(u[:, :D])).squeeze(-1)
        k_w, v_w, k_r = u[:, D:].view(B, H, 3, D).unbind(2)

        # One pass over theta_t serves the read, the check of the write, and the replayed checks.
        recalled = memory.write_and_read(k_w, v_w, beta, torch.cat([k_r, k_w, state.replay_keys.flatten(1, 2)], dim=1))
        read = recalled[:, :H].mean(dim=1)
        meta_loss = recall_loss(recalled[:, H : 2 * H], v_w)
        replay_keys, replay_values, mask = state.replay_keys, state.replay_values, state.replay_mask
        if self.replay:
            past = recall_loss(recalled[:, 2 * H :].view_as(replay_values), replay_values)  # [B, R]
            meta_loss = (meta_loss + (past * mask).sum(dim=1)) / (1 + mask.sum(dim=1))
            replay_keys = torch.cat([replay_keys[:, 1:], k_w.unsqueeze(1)], dim=1)
            replay_values = torch.cat([replay_values[:, 1:], v_w.unsqueeze(1)], dim=1)
            mask = torch.cat([mask[:, 1:], torch.ones_like(mask[:, :1])], dim=1)
        return MnmState(h, c, read, state.theta, replay_keys, replay_values, mask), meta_loss, beta

"""The baselines without plastic weights: an LSTM and a vanilla RNN, whole sequences at a time."""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from mnm_rl.cores.core import RecurrentCore, segments


class LstmState(NamedTuple):
    """What an LSTM core carries from step to step: hidden state and cell, each ``[B, D]``."""

    h: Tensor
    c: Tensor


class RnnState(NamedTuple):
    """What a vanilla RNN core carries from step to step: its hidden state, ``[B, D]``."""

    h: Tensor


class LstmCore(RecurrentCore[LstmState]):
    """One-layer LSTM.

    Args:
        input_size: width F of the inputs.
        hidden_size: width D of the state and of the outputs.
    """

    def __init__(self, input_size: int, hidden_size: int = 100) -> None:
        super().__init__()
        self.output_size = hidden_size
        self.lstm = nn.LSTM(input_size, hidden_size)

    def initial_state(self, batch_size: int) -> LstmState:
        zeros = next(self.parameters()).new_zeros(batch_size, self.output_size)
        return LstmState(zeros, zeros)

    def forward(self, inputs: Tensor, state: LstmState, episode_starts: Tensor) -> tuple[Tensor, LstmState, Tensor]:
        outputs = []
        for t0, t1, reset in segments(episode_starts):
            if reset:
                state = self.reset(state, episode_starts[t0])
            out, (h, c) = self.lstm(inputs[t0:t1], (state.h.unsqueeze(0), state.c.unsqueeze(0)))
            outputs.append(out)
            state = LstmState(h.squeeze(0), c.squeeze(0))
        return torch.cat(outputs), state, inputs.new_zeros(inputs.shape[:2])


class RnnCore(RecurrentCore[RnnState]):
    """Vanilla RNN, ``h_t = tanh(U x_t + u + w h_(t-1))``: the plastic core without plasticity.

    Args:
        input_size: width F of the inputs.
        hidden_size: width D of the state and of the outputs.
    """

    def __init__(self, input_size: int, hidden_size: int = 100) -> None:
        super().__init__()
        self.output_size = hidden_size
        self.rnn = nn.RNN(input_size, hidden_size)

    def initial_state(self, batch_size: int) -> RnnState:
        return RnnState(next(self.parameters()).new_zeros(batch_size, self.output_size))

    def forward(self, inputs: Tensor, state: RnnState, episode_starts: Tensor) -> tuple[Tensor, RnnState, Tensor]:
        outputs = []
        for t0, t1, reset in segments(episode_starts):
            if reset:
                state = self.reset(state, episode_starts[t0])
            out, h = self.rnn(inputs[t0:t1], state.h.unsqueeze(0))
            outputs.append(out)
            state = RnnState(h.squeeze(0))
        return torch.cat(outputs), state, inputs.new_zeros(inputs.shape[:2])

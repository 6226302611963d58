"""Differentiable plasticity, an RNN whose recurrent weights change within an episode.

The change follows a Hebbian rule. The rules ``hebb``, ``decay`` and ``oja`` are from Miconi,
Stanley and Clune (2018), and ``modulated`` and ``retroactive`` from Miconi et al. (2019,
Backpropamine).
"""

from typing import Literal, NamedTuple, get_args

import torch
from torch import Tensor, nn

from mnm_rl.cores.core import RecurrentCore
from mnm_rl.initialization import Init, check_init, scaled_inputs_

PlasticRule = Literal["hebb", "decay", "oja", "modulated", "retroactive"]


class PlasticState(NamedTuple):
    """State of a plastic core between steps, for B environments."""

    h: Tensor
    """Hidden activity, ``[B, D]``."""
    hebb: Tensor
    """Hebbian trace, ``[B, D, D]``; row i holds the inputs of neuron i."""
    eligibility: Tensor
    """Eligibility trace of the ``retroactive`` rule, ``[B, D, D]``; else ``[B, 0, 0]``."""


class PlasticCore(RecurrentCore[PlasticState]):
    """RNN with plastic recurrent weights: ``h_t = tanh(U x_t + u + (w + alpha * Hebb_t) h_(t-1))``.

    After each step, the rule updates the trace, with ``P_t = h_t h_(t-1)^T``:

    - ``hebb``: ``clip(Hebb_t + eta P_t, -1, 1)``
    - ``decay``: ``(1 - eta) Hebb_t + eta P_t``
    - ``oja``: ``Hebb_t + eta (P_t - diag(h_t^2) Hebb_t)``
    - ``modulated``: ``clip(Hebb_t + m_t P_t, -1, 1)``
    - ``retroactive``: ``clip(Hebb_t + m_t E_t, -1, 1)``, then ``E_(t+1) = (1 - eta) E_t + eta P_t``

    ``m_t`` has one number per neuron, and is a trained linear fan-out of the scalar
    ``tanh(M h_t)``.

    Args:
        input_size: width F of the inputs.
        hidden_size: number of neurons D, also the width of the outputs ``h_t``.
        rule: update rule of the Hebbian trace.
        init: ``"scaled"`` (default) or ``"pytorch"``.

    Raises:
        ValueError: if ``rule`` is unknown or ``hidden_size`` is not positive.
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int = 100,
        rule: PlasticRule = "hebb",
        init: Init = "scaled",
    ) -> None:
        super().__init__(hidden_size)
        check_init(init)
        if rule not in get_args(PlasticRule):
            raise ValueError(
                f"rule must be one of {', '.join(get_args(PlasticRule))}, got {rule!r}"
            )
        self.rule = rule
        self.input = nn.Linear(input_size, hidden_size)  # U, u
        if init == "scaled":
            scaled_inputs_(self.input.weight, gain=2)
        self.w = nn.Parameter(0.01 * torch.rand(hidden_size, hidden_size))
        self.alpha = nn.Parameter(0.01 * torch.rand(hidden_size, hidden_size))
        if rule != "modulated":
            self.eta = nn.Parameter(torch.tensor(0.01))
        if rule in ("modulated", "retroactive"):
            self.modulator = nn.Linear(hidden_size, 1)  # M
            self.fan_out = nn.Linear(1, hidden_size)

    def initial_state(self, batch_size: int) -> PlasticState:
        D = self.hidden_size
        traced = D if self.rule == "retroactive" else 0
        return PlasticState(
            self.w.new_zeros(batch_size, D),
            self.w.new_zeros(batch_size, D, D),
            self.w.new_zeros(batch_size, traced, traced),
        )

    def step(self, x: Tensor, state: PlasticState) -> tuple[Tensor, PlasticState, Tensor]:
        before, hebb, E = state
        h = torch.tanh(
            self.input(x)
            + before @ self.w.T
            + ((self.alpha * hebb) @ before.unsqueeze(-1)).squeeze(-1)
        )
        post, pre = h.unsqueeze(2), before.unsqueeze(1)
        if self.rule == "hebb":
            hebb = torch.clip(torch.baddbmm(hebb, self.eta * post, pre), -1, 1)
        elif self.rule == "decay":
            hebb = torch.baddbmm((1 - self.eta) * hebb, self.eta * post, pre)
        elif self.rule == "oja":
            hebb = torch.baddbmm(hebb * (1 - self.eta * post**2), self.eta * post, pre)
        else:
            m = self.fan_out(torch.tanh(self.modulator(h))).unsqueeze(2)
            if self.rule == "modulated":
                hebb = torch.clip(torch.baddbmm(hebb, m * post, pre), -1, 1)
            else:
                hebb = torch.clip(hebb + m * E, -1, 1)
                E = torch.baddbmm((1 - self.eta) * E, self.eta * post, pre)
        return h, PlasticState(h, hebb, E), x.new_zeros(x.shape[0])

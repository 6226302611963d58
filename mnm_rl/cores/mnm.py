"""Metalearned neural memory: a gated controller around a neural memory.

The architecture is from Munkhdalai et al. (2019, section 3).
"""

import math
from typing import Any, Literal, NamedTuple, get_args

import torch
from torch import Tensor, nn

from mnm_rl.cores.core import RecurrentCore, make_state, segments
from mnm_rl.cores.implementations import recorded
from mnm_rl.initialization import Init, orthogonal_blocks_, scaled_inputs_
from mnm_rl.memory import (
    FeedbackInputs,
    NeuralMemory,
    PlainMemory,
    RunningMemory,
    WriteRuleName,
    recall_loss,
)
from mnm_rl.memory.function import write_size
from mnm_rl.memory.rules import of_one_layer


class MnmState(NamedTuple):
    """State of an MNM core between steps, for B environments."""

    h: Tensor
    """Controller output, ``[B, D]``."""
    c: Tensor
    """Cell of an LSTM controller, ``[B, D]``; ``[B, 0]`` with a GRU."""
    read: Tensor
    """Value read from the memory, ``v^r``, ``[B, M]``."""
    theta: Tensor
    """Fast weights, ``[B, L, M, M]``."""
    replay_keys: Tensor
    """The last R written keys, newest last, ``[B, R, H, M]``."""
    replay_values: Tensor
    """The last R written values, newest last, ``[B, R, H, M]``."""
    replay_mask: Tensor
    """1 where a replay slot holds a write of this episode, ``[B, R]``."""


ControllerName = Literal["gru", "lstm"]
ReadGateName = Literal["none", "scalar", "vector"]


class Variant(NamedTuple):
    """Controller, write and read options, and memory size of an MNM, without its write rule."""

    controller: ControllerName
    """GRU (Cho et al. 2014) or LSTM."""
    bounded: bool
    """Keys have norm one, and ``beta`` is the share of its error that a write removes."""
    read_gate: ReadGateName
    """Gate ``sigmoid(w . u_t[:D] + g_0)`` on the read value.

    There is no gate, one gate for all M numbers, or one gate per number.
    """
    write_bias: float
    """``b_0`` for one head."""
    read_bias: float
    """``g_0``."""
    gain: float
    """Initial norm of the rows of ``A`` that compute keys and values."""
    layers: int
    """Number of layers of the memory; the delta rules have one."""
    size: int | None
    """Width of the memory, at most that of the controller; None for the width of the controller."""


VariantName = Literal["bounded", "paper"]
VARIANTS: dict[VariantName, Variant] = {
    "bounded": Variant(
        "gru",
        bounded=True,
        read_gate="scalar",
        write_bias=0,
        read_bias=-3,
        gain=4,
        layers=2,
        size=32,
    ),
    "paper": Variant(
        "lstm",
        bounded=False,
        read_gate="none",
        write_bias=0,
        read_bias=0,
        gain=4,
        layers=3,
        size=None,
    ),
}
"""The variants by name.

``"bounded"`` has a GRU, bounded writes into a small memory, and a gated read. ``"paper"`` is the
architecture of Munkhdalai et al. (2019).
"""


UPDATE_BIAS = -2.0
"""Where the update gate of a GRU controller begins, before its sigmoid: what is bound is then
mostly what was just seen."""


RETENTION_BIAS = math.log(0.98 / 0.02)
"""Where the gate of a gated rule begins, before its sigmoid: a step leaves 98% of the fast
weights."""


class MnmCore(RecurrentCore[MnmState]):
    """Gated controller with a neural memory, which is written and then read at every step.

    One step runs the controller, ``h_t = GRU([x_t; v^r_(t-1)], h_(t-1))`` or the LSTM equivalent.
    Then ``u_t = tanh(A h_t + a)`` gives the write strength ``beta_t = sigmoid(b . u_t[:D] + b_0)``,
    the gate ``gamma_t = sigmoid(w . u_t[:D] + g_0)``, and H triples ``(k^w, v^w, k^r)`` of width M.
    The core writes to the memory, and then reads
    ``v^r_t = gamma_t mean_h f_(theta_t)(k^r_h)``. The output is ``o_t = C [h_t; v^r_t] + c``. With
    the gated delta rule, a write leaves the share ``alpha_t = sigmoid(f . u_t[:D] + f_0)`` of the
    fast weights.

    Args:
        input_size: width F of the inputs.
        hidden_size: width D of the controller and of the outputs.
        write_rule: ``"g"`` (gradient step) or ``"p"`` (learned local rule). For a memory of one
            layer, ``"delta"`` (delta rule) or ``"gated-delta"`` (gated delta rule).
        memory_layers: number of memory layers L; None for that of the variant.
        heads: number of writes (and reads) H per step.
        replay: the meta-loss of a step also averages over the last ``replay`` writes of the
            episode.
        feedback_inputs: inputs of the feedback maps of rule p, ``"value"`` or ``"key_value"``.
        learn_initial_memory: train ``theta_0`` instead of keeping a fixed random draw.
        writes: write to the memory. If False, the memory stays ``theta_0``, an ablation.
        memory_size: width M of the memory, its keys and its values; None for that of the variant.
        init: ``"scaled"`` (default) or ``"pytorch"``. With ``"scaled"``, the effect of the memory
            reaches the loss from the first update on, and ``b_0`` is ``write_bias`` plus ``log H``,
            because a write is divided among the heads.
        variant: ``"bounded"`` or ``"paper"``, see :data:`VARIANTS`. None selects ``"bounded"`` for
            rules g and p, and ``"paper"`` for the delta rules, whose writes are bounded anyway:
            DeltaNet has no gate and the width of its controller.
        controller: ``"gru"`` or ``"lstm"``. This argument and the following ones replace values of
            the variant, see :class:`Variant`.
        read_gate: gate on the read value.
        write_bias: initial write strength, before the sigmoid.
        read_bias: initial gate on the read value, before the sigmoid.
        gain: initial size of the weights that compute keys and values.

    Raises:
        ValueError: if an argument is out of range.
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int = 100,
        write_rule: WriteRuleName = "p",
        memory_layers: int | None = None,
        heads: int = 1,
        replay: int = 0,
        feedback_inputs: FeedbackInputs = "value",
        learn_initial_memory: bool = True,
        writes: bool = True,
        memory_size: int | None = None,
        init: Init = "scaled",
        variant: VariantName | None = None,
        controller: ControllerName | None = None,
        read_gate: ReadGateName | None = None,
        write_bias: float | None = None,
        read_bias: float | None = None,
        gain: float | None = None,
    ) -> None:
        super().__init__(hidden_size)
        if heads < 1 or replay < 0:
            raise ValueError(
                f"a core needs heads >= 1 and replay >= 0, got heads={heads}, replay={replay}"
            )
        if variant is None:
            variant = "paper" if of_one_layer(write_rule) else "bounded"
        if variant not in VARIANTS:
            raise ValueError(
                f"variant must be one of {', '.join(map(repr, VARIANTS))}, got {variant!r}"
            )
        for name, value, names in (
            ("controller", controller, ControllerName),
            ("read_gate", read_gate, ReadGateName),
        ):
            if value not in (None, *get_args(names)):
                raise ValueError(
                    f"{name} must be one of {', '.join(map(repr, get_args(names)))}, got {value!r}"
                )
        given: dict[str, Any] = dict(
            controller=controller,
            read_gate=read_gate,
            write_bias=write_bias,
            read_bias=read_bias,
            gain=gain,
        )
        self.variant = VARIANTS[variant]._replace(
            **{k: v for k, v in given.items() if v is not None}
        )
        D, M = hidden_size, memory_size
        if M is None:
            M = min(D, self.variant.size or D)
        L = memory_layers
        if L is None:
            L = 1 if of_one_layer(write_rule) else self.variant.layers
        self.memory = NeuralMemory(
            M,
            L,
            write_rule,
            feedback_inputs,
            learn_initial_memory,
            writes,
            self.variant.bounded,
            init,
        )
        # NumPy's shapes do not take True for 1
        self.memory_size, self.heads, self.replay = M, int(heads), replay
        cell = nn.GRUCell if self.variant.controller == "gru" else nn.LSTMCell
        self.controller: nn.GRUCell | nn.LSTMCell = cell(input_size + M, D)
        self.interaction = nn.Linear(D, D + 3 * heads * M)  # A, a
        self.write_strength = nn.Linear(D, 1)  # b, b_0
        self.retention = nn.Linear(D, 1) if self.memory.rule.gated else None  # f, f_0
        if self.retention is not None:
            nn.init.constant_(self.retention.bias, RETENTION_BIAS)
        gates = {"none": 0, "scalar": 1, "vector": M}[self.variant.read_gate]
        self.read_gate = nn.Linear(D, gates) if gates else None  # w, g_0
        self.output = nn.Linear(D + M, D)  # C, c
        if init == "scaled":
            scaled_inputs_(self.controller.weight_ih.data[:, :input_size], gain=2)
            if isinstance(self.controller, nn.GRUCell):
                nn.init.constant_(self.controller.bias_ih[D : 2 * D], UPDATE_BIAS)
                nn.init.zeros_(self.controller.bias_hh[D : 2 * D])
            orthogonal_blocks_(self.interaction.weight[:D], gain=4)
            orthogonal_blocks_(self.interaction.weight[D:], gain=self.variant.gain, rows=M)
            nn.init.zeros_(self.interaction.bias)
            nn.init.constant_(self.write_strength.bias, self.variant.write_bias + math.log(heads))
            if self.read_gate is not None:
                nn.init.zeros_(self.read_gate.weight)
                nn.init.constant_(self.read_gate.bias, self.variant.read_bias)

    def initial_state(self, batch_size: int) -> MnmState:
        theta = torch.stack(self.memory.initial_memory(batch_size), dim=1)
        h, read = (
            theta.new_zeros(batch_size, width) for width in (self.hidden_size, self.memory_size)
        )
        replay = theta.new_zeros(batch_size, self.replay, self.heads, self.memory_size)
        c = h if isinstance(self.controller, nn.LSTMCell) else h[:, :0]
        return MnmState(h, c, read, theta, replay, replay, replay[:, :, 0, 0])

    def step(self, x: Tensor, state: MnmState) -> tuple[Tensor, MnmState, Tensor]:
        outputs, state, meta_loss = self.scan(
            x.unsqueeze(0), state, torch.zeros(1, x.shape[0], dtype=torch.bool, device=x.device)
        )
        return outputs[0], state, meta_loss[0]

    def scan(
        self,
        inputs: Tensor,
        state: MnmState,
        episode_starts: Tensor,
        running_memory: type[RunningMemory] = PlainMemory,
    ) -> tuple[Tensor, MnmState, Tensor]:
        """Compute the result of :meth:`forward` in plain PyTorch.

        ``running_memory`` holds the fast weights, separate from the rest of the state until the
        end.
        """
        memory = running_memory(self.memory, state.theta)
        state = state._replace(theta=state.theta[:, :0])
        hidden, read, meta_loss, sample = [], [], [], []
        for t0, t1, reset in segments(episode_starts):
            if reset:
                starts = episode_starts[t0]
                memory.reset(starts)
                state = make_state(
                    state, (x.masked_fill(starts.view(-1, *[1] * (x.ndim - 1)), 0) for x in state)
                )
            for t in range(t0, t1):
                state, loss, written = self._write_and_read(inputs[t], state, memory)
                hidden.append(state.h)
                read.append(state.read)
                meta_loss.append(loss)
                if t % sampled(len(inputs)) == (len(inputs) - 1) % sampled(len(inputs)):
                    sample.append(written)
        outputs: Tensor = self.output(torch.cat([torch.stack(hidden), torch.stack(read)], dim=-1))
        state = state._replace(theta=memory.theta())
        if torch.is_grad_enabled() and not recorded():
            written = Written(*(torch.stack(parts) for parts in zip(*sample, strict=True)))
            change = write_size(memory.last.z, memory.last.deltas, memory.last.step_sizes)
            self.diagnostics = memory_diagnostics(written, change, state.theta)
        return outputs, state, torch.stack(meta_loss)

    def _write_and_read(
        self, x: Tensor, state: MnmState, memory: RunningMemory
    ) -> "tuple[MnmState, Tensor, Written]":
        """Take one step.

        Returns:
            the new state, with an unmodified ``theta``
            the meta-loss ``[B]``
            the writes and reads
        """
        B, H, D, M = x.shape[0], self.heads, self.hidden_size, self.memory_size
        seen = torch.cat([x, state.read], dim=-1)
        if isinstance(self.controller, nn.LSTMCell):
            h, c = self.controller(seen, (state.h, state.c))
        else:
            h, c = self.controller(seen, state.h), state.c
        u = torch.tanh(self.interaction(h))
        beta = torch.sigmoid(self.write_strength(u[:, :D])).squeeze(-1)
        alpha = None
        if self.retention is not None and self.memory.writes:
            alpha = torch.sigmoid(self.retention(u[:, :D])).squeeze(-1)
        k_w, v_w, k_r = u[:, D:].view(B, H, 3, M).unbind(2)

        # One pass over theta_t serves the read, the check of the write, and the replayed checks.
        recalled = memory.write_and_read(
            k_w, v_w, beta, torch.cat([k_r, k_w, state.replay_keys.flatten(1, 2)], dim=1), alpha
        )
        read, after = recalled[:, :H].mean(dim=1), recalled[:, H : 2 * H]
        if self.read_gate is not None:
            read = torch.sigmoid(self.read_gate(u[:, :D])) * read
        meta_loss = recall_loss(after, v_w)
        replay_keys, replay_values, mask = state.replay_keys, state.replay_values, state.replay_mask
        if self.replay:
            past = recall_loss(recalled[:, 2 * H :].view_as(replay_values), replay_values)  # [B, R]
            meta_loss = (meta_loss + (past * mask).sum(dim=1)) / (1 + mask.sum(dim=1))
            replay_keys = torch.cat([replay_keys[:, 1:], k_w.unsqueeze(1)], dim=1)
            replay_values = torch.cat([replay_values[:, 1:], v_w.unsqueeze(1)], dim=1)
            mask = torch.cat([mask[:, 1:], torch.ones_like(mask[:, :1])], dim=1)
        written = Written(
            *(x.detach() for x in (memory.last.z[0], v_w, read, memory.last.z[-1], after, beta))
        )
        return (
            MnmState(h, c, read, state.theta, replay_keys, replay_values, mask),
            meta_loss,
            written,
        )


class Written(NamedTuple):
    """Writes and reads of one step, or of S steps with an additional first dimension."""

    keys: Tensor
    """``k^w``, ``[B, H, M]``."""
    values: Tensor
    """``v^w``, ``[B, H, M]``."""
    read: Tensor
    """``v^r``, ``[B, M]``."""
    before: Tensor
    """``f_theta(k^w)`` before the write, ``[B, H, M]``."""
    after: Tensor
    """``f_theta(k^w)`` after the write, ``[B, H, M]``."""
    beta: Tensor
    """Write strength, ``[B]``."""


def sampled(steps: int) -> int:
    """Return the interval between the steps of a sequence that the diagnostics use.

    The last step is always one of them.
    """
    return max(1, steps // 16)


def memory_diagnostics(written: Written, change: Tensor, theta: Tensor) -> dict[str, Tensor]:
    """Measure the activity of a memory.

    Args:
        written: writes and reads of some steps, ``[S, ...]``.
        change: ``|theta_t - theta_(t-1)|`` of the last step, ``[B]``.
        theta: fast weights after the last step, ``[B, L, M, M]``.

    Returns:
        scalars: root mean squares of keys, values and reads, and of their variation between steps
            and environments; the share of its error that a write removes; the size of the last
            write relative to the fast weights; the mean write strength.
    """
    result = {}
    for name, x in (("key", written.keys), ("value", written.values), ("read", written.read)):
        result[f"memory/{name}_rms"] = x.square().mean().sqrt()
        result[f"memory/{name}_varies"] = (x - x.mean(dim=(0, 1))).square().mean().sqrt()
    missed, misses = ((x - written.values).square().sum() for x in (written.before, written.after))
    tiny = torch.finfo(theta.dtype).tiny  # of a memory of zeros
    result["memory/error_removed"] = 1 - misses / missed.clamp(min=tiny)
    result["memory/theta_change"] = (change / theta.flatten(1).norm(dim=1).clamp(min=tiny)).mean()
    result["memory/beta"] = written.beta.mean()
    return {name: value.detach() for name, value in result.items()}

"""The neural memory of Munkhdalai et al. (2019): a small network that is written in one shot and
read by running it."""

from typing import Any, get_args

import torch
from torch import Tensor, nn

from mnm_rl.initialization import Init, check_init, orthogonal_blocks_
from mnm_rl.memory.function import FastWeights, activations, write
from mnm_rl.memory.rules import WRITE_RULES, FeedbackInputs, WriteRule, WriteRuleName


class NeuralMemory(nn.Module):
    """Slow weights of a neural memory and the operations on its fast weights (Munkhdalai et al.
    2019, sections 3 and 4).

    The fast weights themselves are not stored here: :meth:`initial_memory` makes them,
    :meth:`write` returns new ones, :meth:`read` uses them, all with one set per environment.
    Everything here is plain PyTorch and is the reference that faster implementations are tested
    against.

    Args:
        size: width ``D`` of keys, values and every layer.
        layers: number of layers ``L``.
        write_rule: ``"g"``, a gradient step on the recall loss; ``"p"``, a learned local
            (perceptron) rule; ``"delta"``, the delta rule, for one layer; or ``"gated-delta"``, the
            same with a gate of what stays. See :mod:`mnm_rl.memory.rules`.
        feedback_inputs: what the feedback maps of rule p see: ``"value"`` (the paper) or
            ``"key_value"``.
        learn_initial_memory: train ``theta_0`` (default), or keep it as a fixed random draw.
        writes: if False, every write has a strength of zero, and the memory stays ``theta_0``: an
            ablation.
        bounded: whether keys have norm one and ``beta`` is the share of its error that a write
            removes (default), or writes have the paper's step size, see
            :class:`~mnm_rl.memory.rules.rule.WriteRule`.
        init: ``"scaled"`` (default): orthogonal ``theta_0``; of the feedback maps ``Q^L`` the
            identity, the others zero. ``"pytorch"``: uniform, as PyTorch initializes linear layers.

    Attributes:
        theta_0: the fast weights at the start of an episode, ``[L, D, D]``.
        rule: the write rule, with the parameters it may have.

    Raises:
        ValueError: if an argument is out of range, or the write rule is not for so many layers.
    """

    theta_0: Tensor

    def __init__(
        self,
        size: int,
        layers: int = 3,
        write_rule: WriteRuleName = "p",
        feedback_inputs: FeedbackInputs = "value",
        learn_initial_memory: bool = True,
        writes: bool = True,
        bounded: bool = True,
        init: Init = "scaled",
    ) -> None:
        super().__init__()
        check_init(init)
        if size < 1 or layers < 1:
            raise ValueError(
                f"a memory needs size >= 1 and layers >= 1, got size={size}, layers={layers}"
            )
        if write_rule not in WRITE_RULES:
            raise ValueError(
                f"write_rule must be one of {', '.join(map(repr, WRITE_RULES))}, got {write_rule!r}"
            )
        if feedback_inputs not in get_args(FeedbackInputs):
            raise ValueError(
                f"feedback_inputs must be 'value' or 'key_value', got {feedback_inputs!r}"
            )
        self.size, self.layers = size, layers
        self.write_rule, self.feedback_inputs, self.writes = write_rule, feedback_inputs, writes
        theta_0 = torch.empty(layers, size, size).uniform_(-(size**-0.5), size**-0.5)
        if init == "scaled":
            orthogonal_blocks_(theta_0.view(layers * size, size), gain=1)
        if learn_initial_memory:
            self.theta_0 = nn.Parameter(theta_0)
        else:
            self.register_buffer("theta_0", theta_0)
        rule_class, options = (
            WRITE_RULES[write_rule],
            {"init": init, "feedback_inputs": feedback_inputs},
        )
        self.rule: WriteRule = rule_class(
            size, layers, bounded, **{name: options[name] for name in rule_class.options}
        )

    def initial_memory(self, batch_size: int) -> FastWeights:
        """``theta_0`` for every environment, each ``[B, D, D]``: views of the slow weights that
        gradient flows through."""
        return tuple(W.expand(batch_size, -1, -1) for W in self.theta_0.unbind(0))

    def reset(self, theta: FastWeights, starts: Tensor) -> FastWeights:
        """``theta_0`` where ``starts [B]`` is true; the other environments stay bit-identical."""
        where = starts.view(-1, 1, 1)
        return tuple(
            torch.where(where, W_0, W) for W_0, W in zip(self.theta_0.unbind(0), theta, strict=True)
        )

    def read(self, theta: FastWeights, keys: Tensor) -> Tensor:
        """``f_theta(k)`` for keys ``[B, N, D]``: values ``[B, N, D]``."""
        return activations(theta, self.rule.normalize(keys))[-1]

    def write(
        self,
        theta: FastWeights,
        keys: Tensor,
        values: Tensor,
        beta: Tensor,
        alpha: Tensor | None = None,
    ) -> FastWeights:
        """Write ``keys -> values`` (``[B, H, D]`` each) with strength ``beta [B]``, and keep the
        share ``alpha [B]`` of the fast weights, all of them if None; returns ``theta_t``."""
        keys, targets, beta = self.prepare_write(keys, values, beta)
        z = activations(theta, keys)
        deltas = self.rule.deltas(theta, z, targets)
        return write(theta, z, deltas, self.rule.step_sizes(beta, z, deltas), alpha)

    def prepare_write(
        self, keys: Tensor, values: Tensor, beta: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Everything of a write that does not depend on the fast weights: keys and targets, as the
        rule wants them, and the strength."""
        keys = self.rule.normalize(keys)
        return (
            keys,
            self.rule.targets(keys, values),
            beta if self.writes else torch.zeros_like(beta),
        )

    def extra_repr(self) -> str:
        return f"size={self.size}, layers={self.layers}, write_rule={self.write_rule!r}"

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        # where version 0.1.0 had the parameters of rule p
        for name in ("feedback.weight", "feedback.bias"):
            if prefix + name in state_dict:
                state_dict[f"{prefix}rule.{name}"] = state_dict.pop(prefix + name)
        super()._load_from_state_dict(state_dict, prefix, *args)

"""The neural memory of Munkhdalai et al. (2019): a small network that is written in one shot and read by running it.

Notation, as in the paper and in ``docs/mathematics.md``: ``B`` environments, ``H`` heads, ``D`` width, ``L`` layers,
``theta = (W^1, ..., W^L)`` the fast weights, each ``[B, D, D]``: one memory per environment.

Both write rules add a matrix of rank H to every layer,

    W^l_t = W^l_(t-1) - beta_t * 2/(H D) * sum_h delta^l_h (z^(l-1)_h)^T,

with ``z^l`` the activations of the written key under ``theta_(t-1)``. They differ only in the error signal ``delta``:
:func:`gradient_deltas` (rule g) or :func:`local_deltas` (rule p). Everything here is plain PyTorch and is the reference
that faster implementations are tested against.
"""

from typing import Literal, get_args

import torch
from torch import Tensor, nn

from mnm_rl.initialization import Init, check_init, orthogonal_blocks_

WriteRule = Literal["g", "p"]
FeedbackInputs = Literal["value", "key_value"]
FastWeights = tuple[Tensor, ...]
"""``(W^1, ..., W^L)``, each ``[B, D, D]``."""


def activations(theta: FastWeights, keys: Tensor) -> list[Tensor]:
    """Run the memory function on keys and keep every layer: ``z^0 = k``, ``z^l = tanh(W^l z^(l-1))``, last layer linear.

    Args:
        theta: fast weights ``W^1 ... W^L``, each ``[B, D, D]``.
        keys: ``[B, N, D]``.

    Returns:
        ``z^0 ... z^L``, each ``[B, N, D]``; the last one is ``f_theta(k)``.
    """
    *hidden, last = theta
    z = [keys]
    for W in hidden:
        z.append(torch.tanh(z[-1] @ W.mT))
    z.append(z[-1] @ last.mT)
    return z


def gradient_deltas(theta: FastWeights, z: list[Tensor], values: Tensor) -> list[Tensor]:
    """Error signals of rule g: backpropagation of ``1/2 |z^L - v|^2`` in closed form, so it needs no autograd to write.

    ``delta^L = z^L - v``, ``delta^l = (W^(l+1)^T delta^(l+1)) * (1 - (z^l)^2)``.

    Args:
        theta: fast weights before the write, each ``[B, D, D]``.
        z: activations of the written keys, from :func:`activations`.
        values: ``[B, H, D]``.

    Returns:
        ``delta^1 ... delta^L``, each ``[B, H, D]``.
    """
    deltas = [z[-1] - values]
    for W, z_l in zip(theta[:0:-1], z[-2:0:-1], strict=True):  # W^(l+1) and z^l, for l = L-1 down to 1
        deltas.insert(0, (deltas[0] @ W) * (1 - z_l**2))
    return deltas


def local_deltas(z: list[Tensor], targets: Tensor) -> list[Tensor]:
    """Error signals of rule p: each layer's distance to its own fed-back target, ``delta^l = z^l - zhat^l``.

    Args:
        z: activations of the written keys, from :func:`activations`.
        targets: ``zhat^1 ... zhat^L``, ``[B, H, L, D]``.

    Returns:
        ``delta^1 ... delta^L``, each ``[B, H, D]``.
    """
    return [z_l - zhat for z_l, zhat in zip(z[1:], targets.unbind(2), strict=True)]


def write(theta: FastWeights, z: list[Tensor], deltas: list[Tensor], beta: Tensor) -> FastWeights:
    """The rank-H update of every layer: ``W^l - beta * 2/(H D) * sum_h delta^l_h (z^(l-1)_h)^T``.

    Args:
        theta: fast weights before the write, each ``[B, D, D]``.
        z: activations ``z^0 ... z^L`` of the written keys.
        deltas: error signals ``delta^1 ... delta^L``.
        beta: write strength ``[B]``.

    Returns:
        The new fast weights, each ``[B, D, D]``.
    """
    _, H, D = z[0].shape
    step = (-2 / (H * D) * beta).view(-1, 1, 1)
    return tuple(torch.baddbmm(W, (step * d).mT, z_in) for W, d, z_in in zip(theta, deltas, z[:-1], strict=True))


def recall_loss(recalled: Tensor, values: Tensor) -> Tensor:
    """How badly written values are read back: ``1/(H D) * sum_h |f_theta(k^w_h) - v^w_h|^2``.

    Args:
        recalled: ``f_theta(k^w)``, ``[..., H, D]``.
        values: ``v^w``, ``[..., H, D]``.

    Returns:
        One loss per leading index, ``[...]``.
    """
    return (recalled - values).pow(2).mean(dim=(-2, -1))


class NeuralMemory(nn.Module):
    """Slow weights of a neural memory and the operations on its fast weights (Munkhdalai et al. 2019, sections 3 and 4).

    The fast weights themselves are not stored here: :meth:`initial_memory` makes them, :meth:`write` returns new ones,
    :meth:`read` uses them, all with one set per environment.

    Args:
        size: width ``D`` of keys, values and every layer.
        layers: number of layers ``L``.
        write_rule: ``"g"``, a gradient step on the recall loss, or ``"p"``, a learned local (perceptron) rule.
        feedback_inputs: what the feedback maps of rule p see: ``"value"`` (the paper) or ``"key_value"``.
        learn_initial_memory: train ``theta_0`` (default), or keep it as a fixed random draw.
        init: ``"scaled"`` (default): orthogonal ``theta_0``; of the feedback maps ``Q^L`` the identity, the others zero.
            ``"pytorch"``: uniform, as PyTorch initializes linear layers.

    Raises:
        ValueError: if an argument is out of range.
    """

    def __init__(
        self,
        size: int,
        layers: int = 3,
        write_rule: WriteRule = "p",
        feedback_inputs: FeedbackInputs = "value",
        learn_initial_memory: bool = True,
        init: Init = "scaled",
    ) -> None:
        super().__init__()
        check_init(init)
        if size < 1 or layers < 1:
            raise ValueError(f"a memory needs size >= 1 and layers >= 1, got size={size}, layers={layers}")
        if write_rule not in get_args(WriteRule):
            raise ValueError(f"write_rule must be 'g' or 'p', got {write_rule!r}")
        if feedback_inputs not in get_args(FeedbackInputs):
            raise ValueError(f"feedback_inputs must be 'value' or 'key_value', got {feedback_inputs!r}")
        self.size, self.layers = size, layers
        self.write_rule, self.feedback_inputs = write_rule, feedback_inputs
        theta_0 = torch.empty(layers, size, size).uniform_(-(size**-0.5), size**-0.5)
        if init == "scaled":
            orthogonal_blocks_(theta_0.view(layers * size, size), gain=1)
        if learn_initial_memory:
            self.theta_0 = nn.Parameter(theta_0)
        else:
            self.register_buffer("theta_0", theta_0)
        if write_rule == "p":  # Q^l and q^l of every layer, in one linear map
            self.feedback = nn.Linear(size * (2 if feedback_inputs == "key_value" else 1), layers * size)
            if init == "scaled":
                nn.init.zeros_(self.feedback.weight)
                nn.init.zeros_(self.feedback.bias)
                nn.init.eye_(self.feedback.weight.data[-size:, :size])

    def initial_memory(self, batch_size: int) -> FastWeights:
        """``theta_0`` for every environment, each ``[B, D, D]``: views of the slow weights that gradient flows through."""
        return tuple(W.expand(batch_size, -1, -1) for W in self.theta_0.unbind(0))

    def read(self, theta: FastWeights, keys: Tensor) -> Tensor:
        """``f_theta(k)`` for keys ``[B, N, D]``: values ``[B, N, D]``."""
        return activations(theta, keys)[-1]

    def write(self, theta: FastWeights, keys: Tensor, values: Tensor, beta: Tensor) -> FastWeights:
        """Write ``keys -> values`` (``[B, H, D]`` each) with strength ``beta [B]``; returns ``theta_t``."""
        z = activations(theta, keys)
        if self.write_rule == "g":
            deltas = gradient_deltas(theta, z, values)
        else:
            inputs = torch.cat([values, keys], dim=-1) if self.feedback_inputs == "key_value" else values
            deltas = local_deltas(z, self.feedback(inputs).unflatten(-1, (self.layers, self.size)))
        return write(theta, z, deltas, beta)

    def extra_repr(self) -> str:
        return f"size={self.size}, layers={self.layers}, write_rule={self.write_rule!r}"

"""A write and a read, and back: the adjoint of ``docs/mathematics.md``, in its symbols.

Going back, the write is undone by adding what it subtracted, so that of the forward pass only
vectors are kept. Where a part of the fast weights is forgotten, that is undone by division.
"""

from typing import NamedTuple

import torch
from torch import Tensor, baddbmm, zeros_like

from mnm_rl.memory.function import FastWeights, activations, undo, write
from mnm_rl.memory.rules import WriteRule


class Kept(NamedTuple):
    """What the way back needs of a write and a read, beside the fast weights after them."""

    z: list[Tensor]
    """Activations ``z^0 ... z^L`` of the written keys under ``theta_(t-1)``, each ``[B, H, D]``."""
    deltas: list[Tensor]
    """Error signals ``delta^1 ... delta^L``, each ``[B, H, D]``."""
    beta: Tensor
    """Write strength, ``[B]``."""
    step_sizes: Tensor
    """``s^1 ... s^L``, ``[B, L]``."""
    y: list[Tensor]
    """Activations ``y^0 ... y^L`` of the read keys under ``theta_t``, each ``[B, N, D]``."""
    alpha: Tensor | None
    """The share of the fast weights that stays, ``[B]``; None if all do."""


def write_and_read(
    rule: WriteRule,
    theta: FastWeights,
    keys: Tensor,
    targets: Tensor,
    beta: Tensor,
    read_keys: Tensor,
    alpha: Tensor | None = None,
) -> tuple[FastWeights, Tensor, Kept]:
    """Write, then read.

    Args:
        rule: gives the error signals of the write.
        theta: ``theta_(t-1)``, each layer ``[B, D, D]``.
        keys: ``[B, H, D]``, normalized as the rule wants them.
        targets: those of the rule, ``[B, H, 1, D]`` or ``[B, H, L, D]``.
        beta: write strength, ``[B]``.
        read_keys: ``[B, N, D]``, normalized as the rule wants them.
        alpha: the share of the fast weights that stays, ``[B]``; all of them if None.

    Returns:
        ``theta_t``, the values read ``[B, N, D]``, and what :func:`write_and_read_backward` needs.
    """
    z = activations(theta, keys)
    deltas = rule.deltas(theta, z, targets)
    step_sizes = rule.step_sizes(beta, z, deltas)
    theta = write(theta, z, deltas, step_sizes, alpha)
    y = activations(theta, read_keys)
    return theta, y[-1], Kept(z, deltas, beta, step_sizes, y, alpha)


class Gradients(NamedTuple):
    """Gradients with respect to the arguments of :func:`write_and_read`, of their shapes."""

    keys: Tensor
    targets: Tensor
    beta: Tensor
    read_keys: Tensor
    alpha: Tensor | None


def write_and_read_backward(
    rule: WriteRule,
    theta_t: FastWeights,
    G_t: FastWeights,
    g_values: Tensor,
    kept: Kept,
    theta_before: FastWeights | None = None,
) -> tuple[FastWeights, FastWeights, Gradients]:
    """Back through :func:`write_and_read`.

    Args:
        rule: that of the write.
        theta_t: the fast weights after the write, each layer ``[B, D, D]``.
        G_t: ``dL/dtheta_t``, but for what the values read in this step owe to it.
        g_values: the gradient with respect to the values read, ``[B, N, D]``.
        kept: from :func:`write_and_read`.
        theta_before: ``theta_(t-1)``, where it was kept; else the write is undone.

    Returns:
        ``theta_(t-1)``, ``dL/dtheta_(t-1)``, and the gradients with respect to keys, targets, beta,
        read keys and alpha.
    """
    z, deltas, beta, step_sizes, y, alpha = kept
    G, s = list(G_t), step_sizes.view(*step_sizes.shape, 1, 1).unbind(1)

    # The read: y^0 ... y^L under theta_t.
    g_y = [zeros_like(y_l) for y_l in y[:-1]]
    g_read_keys = _activations_backward(theta_t, G, y, [*g_y, g_values])

    # What stays, W_t = alpha U_t of what was written, U_t.
    theta = (
        theta_before if theta_before is not None else undo(theta_t, z, deltas, step_sizes, alpha)
    )
    g_alpha = None
    if alpha is not None:
        U = write(theta, z, deltas, step_sizes)
        g_alpha = torch.stack(
            [(G_l * U_l).sum(dim=(1, 2)) for G_l, U_l in zip(G, U, strict=True)]
        ).sum(dim=0)
        G = [alpha.view(-1, 1, 1) * G_l for G_l in G]

    # The write, U^l_t = W^l_(t-1) - s^l sum_h delta^l_h (z^(l-1)_h)^T. It leaves G as it is:
    # dU_t/dW_(t-1) is the identity.
    a = [z_in @ G_l.mT for z_in, G_l in zip(z[:-1], G, strict=True)]  # a^l = G^l z^(l-1)
    g_deltas = [-s_l * a_l for s_l, a_l in zip(s, a, strict=True)]
    g_z = [-s_l * (delta @ G_l) for s_l, delta, G_l in zip(s, deltas, G, strict=True)] + [
        zeros_like(z[-1])
    ]
    g_step_sizes = -torch.stack(
        [(delta * a_l).sum(dim=(1, 2)) for delta, a_l in zip(deltas, a, strict=True)], dim=1
    )
    g_beta = rule.step_sizes_backward(beta, z, g_z, deltas, g_deltas, g_step_sizes)

    # The error signals, then z^0 ... z^L, both under theta_(t-1).
    g_targets = rule.deltas_backward(theta, G, z, g_z, deltas, g_deltas)
    g_keys = _activations_backward(theta, G, z, g_z)
    return theta, tuple(G), Gradients(g_keys, g_targets, g_beta, g_read_keys, g_alpha)


def _activations_backward(
    theta: FastWeights, G: list[Tensor], z: list[Tensor], g_z: list[Tensor]
) -> Tensor:
    """Back through :func:`~mnm_rl.memory.function.activations`.

    Args:
        theta: the fast weights that gave z.
        G: the gradient with respect to them, to which is added.
        z: ``z^0 ... z^L``.
        g_z: the gradient with respect to each of them that does not come from the next one.

    Returns:
        The gradient with respect to the keys.
    """
    L = len(theta)
    g = g_z[L]
    for l in range(L, 0, -1):
        if l < L:
            g = g * (1 - z[l] ** 2)
        G[l - 1] = baddbmm(G[l - 1], g.mT, z[l - 1])  # theta[l - 1] is W^l
        g = g_z[l - 1] + g @ theta[l - 1]
    return g

"""The memory function, the update of its fast weights and how to undo it, and the recall loss.

Notation, as in the paper and in ``docs/mathematics.md``: ``B`` environments, ``H`` heads, ``D``
width, ``L`` layers, ``theta = (W^1, ..., W^L)`` the fast weights, one memory per environment.
Vectors are rows: ``z @ W.mT`` is ``W z``.
"""

from torch import Tensor, baddbmm, einsum, stack, tanh

FastWeights = tuple[Tensor, ...]
"""``(W^1, ..., W^L)``, each ``[B, D, D]``."""


def activations(theta: FastWeights, keys: Tensor) -> list[Tensor]:
    """Run the memory function on keys and keep every layer: ``z^0 = k``, ``z^l = tanh(W^l
    z^(l-1))``, last layer linear.

    Args:
        theta: fast weights ``W^1 ... W^L``, each ``[B, D, D]``.
        keys: ``[B, N, D]``.

    Returns:
        ``z^0 ... z^L``, each ``[B, N, D]``; the last one is ``f_theta(k)``.
    """
    *hidden, last = theta
    z = [keys]
    for W in hidden:
        z.append(tanh(z[-1] @ W.mT))
    z.append(z[-1] @ last.mT)
    return z


def write(
    theta: FastWeights,
    z: list[Tensor],
    deltas: list[Tensor],
    step_sizes: Tensor,
    alpha: Tensor | None = None,
) -> FastWeights:
    """The rank-H update of every layer: ``alpha (W^l - s^l * sum_h delta^l_h (z^(l-1)_h)^T)``.

    Args:
        theta: fast weights before the write, each ``[B, D, D]``.
        z: activations ``z^0 ... z^L`` of the written keys, each ``[B, H, D]``.
        deltas: error signals ``delta^1 ... delta^L``, each ``[B, H, D]``.
        step_sizes: ``s^1 ... s^L``, ``[B, L]``.
        alpha: the share of the fast weights that stays, ``[B]``; all of them if None.

    Returns:
        The new fast weights, each ``[B, D, D]``.
    """
    steps = (-step_sizes).view(*step_sizes.shape, 1, 1).unbind(1)
    factors = zip(theta, steps, deltas, z[:-1], strict=True)
    written = tuple(baddbmm(W, (step * delta).mT, z_in) for W, step, delta, z_in in factors)
    return written if alpha is None else tuple(alpha.view(-1, 1, 1) * W for W in written)


def undo(
    theta: FastWeights,
    z: list[Tensor],
    deltas: list[Tensor],
    step_sizes: Tensor,
    alpha: Tensor | None = None,
) -> FastWeights:
    """The fast weights before a :func:`write`, from those after it and its factors: the same up to
    rounding, which the division by ``alpha`` makes ``1 / alpha`` times larger."""
    if alpha is not None:
        theta = tuple(W / alpha.view(-1, 1, 1) for W in theta)
    return write(theta, z, deltas, -step_sizes)


def write_size(z: list[Tensor], deltas: list[Tensor], step_sizes: Tensor) -> Tensor:
    """``|theta_t - theta_(t-1)|`` of a :func:`write`, over all layers, ``[B]``; from its factors:
    ``|sum_h a_h b_h^T|^2`` is the sum over all pairs of heads of ``(a_h . a_g) (b_h . b_g)``."""
    squares = [
        einsum("bhi,bgi,bhj,bgj->b", d, d, z_in, z_in)
        for d, z_in in zip(deltas, z[:-1], strict=True)
    ]
    return (step_sizes**2 * stack(squares, dim=1).clamp(min=0)).sum(1).sqrt()


def recall_loss(recalled: Tensor, values: Tensor) -> Tensor:
    """How badly written values are read back: ``1/(H D) * sum_h |f_theta(k^w_h) - v^w_h|^2``.

    Args:
        recalled: ``f_theta(k^w)``, ``[..., H, D]``.
        values: ``v^w``, ``[..., H, D]``.

    Returns:
        One loss per leading index, ``[...]``.
    """
    return (recalled - values).pow(2).mean(dim=(-2, -1))

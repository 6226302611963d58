"""Between the shapes of PyTorch, of width D, and those of the kernels, of width P."""

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from mnm_rl.kernels.arena import Array, zeros
from mnm_rl.kernels.simd import ROWS, padded


class CellWeights(NamedTuple):
    """Those of a cell with inputs ``[x; v]``, x of width F as it is and v of width M, which may be
    0, padded to K."""

    gates: Array
    """From ``[x; v; h]``: ``[F + K + P, 4P]``."""
    gates_back: Array
    """To ``[v; h]``: ``[4P, K + P]``."""
    bias: Array
    """``[4P]``."""


CellParameters = tuple[Tensor, Tensor, Tensor, Tensor]
"""``weight_ih``, ``weight_hh``, ``bias_ih`` and ``bias_hh`` of one of PyTorch's cells."""


def spread_inputs(weight: Tensor, n: int, D: int, F: int) -> tuple[Tensor, Tensor]:
    """Pad ``weight_ih [n D, F + M]``: the part of x, ``[n P, F]``, and that of v, ``[n P, K]``."""
    return spread_rows(weight[:, :F], n, D), spread(weight[:, F:], n, D, 1, weight.shape[1] - F)


def gather_inputs(weight: Tensor, n: int, D: int, F: int, M: int) -> Tensor:
    """The inverse of :func:`spread_inputs`, of ``[n P, F + K]``."""
    return torch.cat([gather_rows(weight[:, :F], n, D), gather(weight[:, F:], n, D, 1, M)], dim=1)


def array(tensor: Tensor | None, shape: tuple[int, ...], dtype: Any) -> Array:
    """Zeros with a tensor, if there is one, in the first corner."""
    out = zeros(shape, dtype)
    if tensor is not None:
        torch.from_numpy(out)[tuple(slice(n) for n in tensor.shape)] = tensor.detach()
    return out


def pad_memory(theta: Tensor) -> Array:
    """Fast weights ``[..., M, M]`` with rows and columns of zeros, ``[..., R, K]``."""
    M = theta.shape[-1]
    like = torch.zeros((), dtype=theta.dtype).numpy()
    return array(theta, (*theta.shape[:-2], padded(M, ROWS), padded(M)), like.dtype)


def spread(matrix: Tensor, n: int, D: int, m: int, E: int) -> Tensor:
    """Pad a matrix ``[n D, m E]`` of n times m blocks to ``[n padded(D), m padded(E)]``."""
    out = matrix.new_zeros(n, padded(D), m, padded(E))
    out[:, :D, :, :E] = matrix.reshape(n, D, m, E)
    return out.view(n * padded(D), m * padded(E))


def gather(matrix: Tensor, n: int, D: int, m: int, E: int) -> Tensor:
    """The inverse of :func:`spread`."""
    return matrix.reshape(n, padded(D), m, padded(E))[:, :D, :, :E].reshape(n * D, m * E)


def pad_columns(matrix: Tensor, D: int, M: int) -> Tensor:
    """Pad a matrix ``[n, D + M]`` to ``[n, padded(D) + padded(M)]``, differentiable."""
    h, v = matrix[:, :D], matrix[:, D:]
    return torch.cat(
        [functional.pad(h, (0, padded(D) - D)), functional.pad(v, (0, padded(M) - M))], dim=1
    )


def spread_rows(matrix: Tensor, n: int, D: int) -> Tensor:
    """Pad a matrix ``[n D, k]`` of n blocks to ``[n P, k]``; a vector likewise."""
    out = matrix.new_zeros(n, padded(D), *matrix.shape[1:])
    out[:, :D] = matrix.view(n, D, *matrix.shape[1:])
    return out.flatten(0, 1)


def gather_rows(matrix: Tensor, n: int, D: int) -> Tensor:
    """The inverse of :func:`spread_rows`."""
    return matrix.view(n, padded(D), *matrix.shape[1:])[:, :D].flatten(0, 1)

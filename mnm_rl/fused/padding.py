"""Between the shapes of PyTorch, of width D, and those of the kernels, of width P."""

from typing import Any

import torch
from torch import Tensor

from mnm_rl.fused.arena import Array, zeros
from mnm_rl.fused.simd import ROWS, padded


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


def spread_rows(matrix: Tensor, n: int, D: int) -> Tensor:
    """Pad a matrix ``[n D, k]`` of n blocks to ``[n P, k]``; a vector likewise."""
    out = matrix.new_zeros(n, padded(D), *matrix.shape[1:])
    out[:, :D] = matrix.view(n, D, *matrix.shape[1:])
    return out.flatten(0, 1)


def gather_rows(matrix: Tensor, n: int, D: int) -> Tensor:
    """The inverse of :func:`spread_rows`."""
    return matrix.view(n, padded(D), *matrix.shape[1:])[:, :D].flatten(0, 1)

"""Every kernel gives what the mathematics in :mod:`mnm_rl.memory` gives, on its own."""

from typing import Any

import numpy as np
import pytest
import torch

from mnm_rl.kernels import simd
from mnm_rl.kernels.memory import (
    CHECKED,
    READ,
    RULES,
    WRITTEN,
    DeferredUpdate,
    Step,
    StepGradient,
    add_deferred,
    write_and_read,
    write_and_read_backward,
)
from mnm_rl.kernels.padding import array, pad_memory
from mnm_rl.kernels.simd import padded
from mnm_rl.memory import adjoint
from mnm_rl.memory.rules import WRITE_RULES

D = 20
P = padded(D)
CASES = [
    (rule, layers, heads, bounded)
    for rule in ("g", "p")
    for layers in (1, 3)
    for heads in (1, 3)
    for bounded in (True, False)
] + [("delta", 1, 1, True), ("delta", 1, 3, True)]


def rows(tensor: Any) -> Any:
    """A batch of one environment ``[1, ..., D]`` as the kernels have it, ``[..., P]``."""
    return array(tensor[0], (*tensor.shape[1:-1], P), np.float64)


@pytest.mark.parametrize(("name", "L", "H", "bounded"), CASES)
@pytest.mark.parametrize("scale", [1.0, 3.0])
def test_a_step_and_its_gradient_are_those_of_the_adjoint(
    name: str, L: int, H: int, bounded: bool, scale: float
) -> None:
    rule = WRITE_RULES[name](D, L, bounded).double()
    theta = tuple(scale * torch.randn(1, D, D, dtype=torch.float64) / D**0.5 for _ in range(L))
    keys, read_keys, values = torch.randn(3, 1, H, D, dtype=torch.float64)
    keys, read_keys = rule.normalize(keys), rule.normalize(read_keys)
    targets, beta = rule.targets(keys, values).detach(), torch.tensor([0.3], dtype=torch.float64)
    strength = beta.item() * (1 if bounded else 2 / (H * D))

    after, read, kept = adjoint.write_and_read(
        rule, theta, keys, targets, beta, torch.cat([read_keys, keys], dim=1)
    )
    padded_theta = pad_memory(torch.stack(theta, dim=1))[0]
    q = np.zeros((H, L - 1 if name == "g" else 0, P))
    step = Step(np.zeros((3, H, L + 1, P)), q, np.zeros((H, L, P)), np.zeros(L))
    step.z[WRITTEN, :, 0], step.z[CHECKED, :, 0], step.z[READ, :, 0] = (
        rows(keys),
        rows(keys),
        rows(read_keys),
    )
    to = rows(targets) if name == "p" else np.zeros((H, L, P))
    how = RULES[type(rule)], bounded, strength
    write_and_read(padded_theta, *how, rows(values), to, step)
    close(padded_theta[:, :D, :D], torch.stack(after, dim=1)[0])
    close(step.z[READ, :, L], read[0, :H])
    close(step.z[CHECKED, :, L], read[0, H:])

    G = tuple(torch.randn(1, D, D, dtype=torch.float64) for _ in range(L))
    g_read = torch.randn(1, 2 * H, D, dtype=torch.float64)
    before, G_before, expected = adjoint.write_and_read_backward(rule, after, G, g_read, kept)
    # of the step after
    deferred = DeferredUpdate(
        *np.random.default_rng(0).normal(size=(2, 2, L, P)) * (np.arange(P) < D)
    )
    g = StepGradient(
        np.zeros_like(step.z), np.zeros_like(step.q), np.zeros_like(step.delta), deferred
    )
    g.z[READ, :, L], g.z[CHECKED, :, L] = rows(g_read[:, :H]), rows(g_read[:, H:])
    padded_G = pad_memory(torch.stack(G, dim=1))[0]
    # nothing reads into the first layer
    deferred.g[1] *= np.arange(L).reshape(L, 1) > 0 if name == "g" else 0
    for k in range(2):
        padded_G -= np.einsum("li,lj->lij", deferred.g[k], deferred.x[k])[:, : padded_G.shape[1]]
    g_strength = write_and_read_backward(padded_theta, padded_G, *how, step, g)
    add_deferred(padded_G, deferred)
    close(padded_theta[:, :D, :D], torch.stack(before, dim=1)[0])
    close(padded_G[:, :D, :D], torch.stack(G_before, dim=1)[0])
    close(np.array([g_strength * strength / beta.item()]), expected.beta)
    close(g.z[WRITTEN, :, 0], expected.keys[0])
    close(np.concatenate([g.z[READ, :, 0], g.z[CHECKED, :, 0]]), expected.read_keys[0])
    close(-g.delta if name == "p" else -g.delta[:, L - 1 :], expected.targets[0])


def close(actual: Any, expected: torch.Tensor) -> None:
    assert actual.shape[:-1] == expected.shape[:-1]
    width = expected.shape[-1]
    np.testing.assert_allclose(
        actual[..., :width], expected.detach().numpy(), rtol=1e-10, atol=1e-11
    )
    assert not actual[..., width:].any()  # what is padded stays zero


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_saturated_nonlinearity_is_exact(dtype: Any) -> None:
    """Its derivative is made from its value, and then multiplied by inputs of any size."""
    x = np.concatenate(
        [
            np.linspace(-100, 100, 200_001),
            [np.nan, np.inf, -np.inf],
            [s * 10.0**k for s in (1, -1) for k in range(38)],
        ]
    )
    x = x.astype(dtype)
    for function, low, limit in ((simd.tanh_, -1, 20), (simd.sigmoid_, 0, 40)):
        y = x.copy()
        function(y)
        assert (y[x >= limit] == 1).all()
        assert (y[x <= -limit] == low).all()
        assert (np.isnan(y) == np.isnan(x)).all()
        assert np.nanmin(y) == low
        assert np.nanmax(y) == 1
        assert np.diff(y[:200_001]).min() >= -8 * np.finfo(dtype).eps


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_nonlinearities_and_derivatives_are_those_of_pytorch(dtype: torch.dtype) -> None:
    x = torch.cat(
        [torch.linspace(-50, 50, 100_001), torch.tensor([1e-30, -1e-30, 1e4, -1e4, 1e8, -1e8])]
    ).to(dtype)
    tolerance = 6e-7 if dtype == torch.float32 else 1e-15
    for function, expected in ((simd.tanh_, torch.tanh), (simd.sigmoid_, torch.sigmoid)):
        y = x.clone()
        function(y.numpy())
        leaf = x.clone().requires_grad_()
        value = expected(leaf)
        (g,) = torch.autograd.grad(value.sum(), leaf)
        torch.testing.assert_close(y, value.detach(), rtol=0, atol=tolerance)
        own = 1 - y * y if function is simd.tanh_ else y * (1 - y)
        torch.testing.assert_close(own, g, rtol=0, atol=tolerance)


def test_a_small_tanh_keeps_its_digits() -> None:
    x = np.array([1e-30, -1e-30, 1e-38, 1e-10, 0, -0.0], np.float32)
    y = x.copy()
    simd.tanh_(y)
    np.testing.assert_allclose(y, x, rtol=1e-6)

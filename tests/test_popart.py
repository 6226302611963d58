"""The critic's returns are normalized, and nothing else changes: neither its values, nor what is
learned from scaled rewards."""

from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from mnm_rl import RecurrentA2C, RecurrentPPO
from mnm_rl.algorithms.popart import PopArt

ALGORITHMS = pytest.mark.parametrize("algorithm", [RecurrentA2C, RecurrentPPO])


@given(scale=st.floats(1e-3, 1e6), offset=st.floats(-1e3, 1e3), seed=st.integers(0, 2**31))
def test_values_do_not_change_with_the_statistics(scale: float, offset: float, seed: int) -> None:
    torch.manual_seed(seed)
    popart, head = PopArt(), nn.Linear(5, 1)
    for _ in range(3):
        inputs = torch.randn(7, 5)
        before = popart(head(inputs))
        popart.update(scale * torch.randn(50) + offset, head)
        after = popart(head(inputs))
        # what is added and taken away again
        magnitude = (before.abs().max() + popart.mean.abs() + popart.std).item()
        torch.testing.assert_close(after, before, rtol=1e-5, atol=1e-5 * magnitude)


def test_statistics_are_those_of_the_returns() -> None:
    torch.manual_seed(0)
    popart, head = PopArt(), nn.Linear(5, 1)
    first = 40 * torch.randn(1000) + 300
    popart.update(first, head)
    assert popart.mean.item() == pytest.approx(first.mean().item())
    assert popart.std.item() == pytest.approx(first.std(correction=0).item())
    for _ in range(50):
        popart.update(0.1 * torch.randn(1000) - 2, head)
    assert popart.mean.item() == pytest.approx(-2, abs=0.1)
    assert popart.std.item() == pytest.approx(0.1, abs=0.05)


def test_returns_that_are_all_alike_or_not_finite_leave_it_finite() -> None:
    popart, head = PopArt(), nn.Linear(5, 1)
    popart.update(torch.zeros(10), head)
    assert popart.std == pytest.approx(PopArt.least_std)
    before = [p.clone() for p in (*head.parameters(), *popart.buffers())]
    popart.update(torch.tensor([1.0, float("nan")]), head)
    assert all(map(torch.equal, before, (*head.parameters(), *popart.buffers())))


@ALGORITHMS
@pytest.mark.parametrize("normalize_advantage", [False, True])
def test_the_scale_of_the_rewards_changes_nothing(
    algorithm: Any, normalize_advantage: bool
) -> None:
    weights = []
    for scale in (1.0, 1000.0):
        model = small(
            algorithm,
            gym.wrappers.TransformReward(gym.make("CartPole-v1"), lambda r, s=scale: s * r),
            normalize_advantage,
        )  # type: ignore[misc]
        for parameter in model.policy.value_net.parameters():
            nn.init.zeros_(parameter)  # any other values would be of one scale and not of the other
        model.learn(5 * 32)
        weights.append(torch.cat([p.detach().flatten() for p in model.policy.parameters()]))
        assert model.policy.popart.std > 0.5 * scale
    torch.testing.assert_close(*weights, rtol=1e-3, atol=1e-4)


@ALGORITHMS
def test_it_is_saved_and_exported(algorithm: Any, tmp_path: Path) -> None:
    model = small(algorithm, gym.make("CartPole-v1"), False)
    model.learn(64)
    assert model.policy.popart.mean != 0
    model.save(tmp_path / "model")
    model.export(tmp_path / "exported")
    obs, starts = torch.randn(3, 4), torch.ones(3, dtype=torch.bool)
    values = model.policy.predict_values(obs, model.policy.initial_state(3), starts)
    for other in (
        algorithm.load(tmp_path / "model", device="cpu"),
        algorithm.from_pretrained(tmp_path / "exported", device="cpu"),
    ):
        assert torch.equal(
            other.policy.predict_values(obs, other.policy.initial_state(3), starts), values
        )
        assert torch.equal(other.policy.popart.moments, model.policy.popart.moments)


@pytest.mark.parametrize(
    ("policy", "kwargs", "on"),
    [
        ("LstmPolicy", {}, True),
        ("LstmPolicy", {"popart": False}, False),
        ("LstmPolicy", {"critic_core": "own"}, False),
        ("LstmPolicy", {"critic_core": "own", "popart": True}, True),
        ("MlpLstmPolicy", {}, False),
    ],
)
def test_it_is_on_where_the_critic_trains_the_memory(
    policy: str, kwargs: dict[str, Any], on: bool
) -> None:
    model = RecurrentPPO(
        policy, "CartPole-v1", n_steps=16, batch_size=16, policy_kwargs=kwargs, seed=0, device="cpu"
    )
    model.learn(16)
    assert (model.policy.popart.std != 1) == on
    assert ("train/return_std" in model.logger.name_to_value) == on


def small(algorithm: Any, env: Any, normalize_advantage: bool) -> Any:
    np.random.seed(0)  # noqa: NPY002
    kwargs = {"batch_size": 32, "n_epochs": 2} if algorithm is RecurrentPPO else {}
    return algorithm(
        "LstmPolicy",
        env,
        n_steps=32,
        normalize_advantage=normalize_advantage,
        policy_kwargs={"hidden_size": 8},
        seed=0,
        device="cpu",
        **kwargs,
    )

"""Without a memory, the algorithms are Stable-Baselines3's, step for step: nothing but the memory
is different."""

from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from stable_baselines3 import A2C, PPO
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.env_util import make_vec_env
from torch import Tensor

from mnm_rl import RecurrentA2C, RecurrentActorCriticPolicy, RecurrentCore, RecurrentPPO


class Nothing(NamedTuple):
    nothing: Tensor


class Memoryless(RecurrentCore[Nothing]):
    """Gives its inputs back."""

    def __init__(self, input_size: int) -> None:
        super().__init__(input_size)

    def initial_state(self, batch_size: int) -> Nothing:
        return Nothing(torch.zeros(batch_size, 1))

    def step(self, x: Tensor, state: Nothing) -> tuple[Tensor, Nothing, Tensor]:
        return x, state, x.new_zeros(len(x))


class Losses(BaseCallback):
    """What was logged of every update, and the parameters after it."""

    ONLY_OURS = ("train/meta_loss", "train/grad_norm")

    def __init__(self) -> None:
        super().__init__()
        self.updates: list[dict[str, float]] = []
        self.parameters: list[Any] = []

    def _on_step(self) -> bool:
        return True

    def _on_rollout_start(self) -> None:
        self._keep()

    def _on_training_end(self) -> None:
        self._keep()

    def _keep(self) -> None:
        logged = self.logger.name_to_value
        self.updates.append(
            {
                key: value
                for key, value in logged.items()
                if key.startswith("train/") and key not in self.ONLY_OURS
            }
        )
        self.parameters.append(self.model.policy.parameters_to_vector())


def assert_the_same(
    theirs: type[BaseAlgorithm], ours: type[BaseAlgorithm], env_id: str, updates: int, **shared: Any
) -> type[Any]:
    """Both log the same losses and have the same weights, update for update; gives the class of
    their optimizer."""
    shared |= dict(
        n_steps=16, learning_rate=3e-3, gae_lambda=0.9, ent_coef=0.01, seed=0, device="cpu"
    )
    net_arch = {"pi": [16], "vf": [16]}
    runs: list[Losses] = []
    for algorithm, policy, core in (
        (theirs, "MlpPolicy", {}),
        (ours, RecurrentActorCriticPolicy, {"core_class": Memoryless, "popart": False}),
    ):
        make: Any = algorithm
        model = make(
            policy,
            make_vec_env(env_id, n_envs=4, seed=0),
            policy_kwargs={"net_arch": net_arch, "ortho_init": True} | core,
            **shared,
        )
        runs.append(Losses())
        model.learn(updates * 64, callback=runs[-1], log_interval=10**9)
    one, other = runs
    assert len(one.updates) == len(other.updates) == updates + 1
    assert len({losses["train/entropy_loss"] for losses in one.updates[1:]}) == updates
    for logged, logged_too in zip(one.updates, other.updates, strict=True):
        assert logged == pytest.approx(logged_too, rel=1e-3, abs=1e-5)
    for before, after in zip(one.parameters, other.parameters, strict=True):
        np.testing.assert_allclose(before, after, rtol=1e-3, atol=1e-4)
    return type(model.policy.optimizer)


@pytest.mark.parametrize("optimizer", ["RMSprop", "Adam"])
@pytest.mark.parametrize("env_id", ["CartPole-v1", "Pendulum-v1"])
def test_a2c(env_id: str, optimizer: str) -> None:
    used = assert_the_same(A2C, RecurrentA2C, env_id, 60, use_rms_prop=optimizer == "RMSprop")
    assert used is getattr(torch.optim, optimizer)


@pytest.mark.parametrize("clip_range_vf", [None, 0.05])
@pytest.mark.parametrize("env_id", ["CartPole-v1", "Pendulum-v1"])
def test_ppo(env_id: str, clip_range_vf: float | None) -> None:
    """Minibatches of all steps: in which order they come makes no difference."""
    bounds: dict[str, Any] = {
        "clip_range": lambda progress: 0.1 + 0.1 * progress,
        "clip_range_vf": clip_range_vf,
        "target_kl": 0.02,
    }
    assert_the_same(PPO, RecurrentPPO, env_id, 20, batch_size=64, n_epochs=4, **bounds)

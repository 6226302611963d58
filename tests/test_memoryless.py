"""Without a memory, RecurrentA2C is Stable-Baselines3's A2C, step for step: nothing but the memory is different."""

from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from stable_baselines3 import A2C
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.env_util import make_vec_env
from torch import Tensor

from mnm_rl import RecurrentA2C, RecurrentActorCriticPolicy, RecurrentCore


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
            {key: logged[key] for key in ("train/policy_loss", "train/value_loss", "train/entropy_loss") if key in logged}
        )
        self.parameters.append(self.model.policy.parameters_to_vector())


@pytest.mark.parametrize("optimizer", ["RMSprop", "Adam"])
@pytest.mark.parametrize("env_id", ["CartPole-v1", "Pendulum-v1"])
def test_the_same_losses_and_the_same_weights(env_id: str, optimizer: str) -> None:
    shared: dict[str, Any] = dict(
        n_steps=16, learning_rate=3e-3, gae_lambda=0.9, ent_coef=0.01, use_rms_prop=optimizer == "RMSprop", seed=0, device="cpu"
    )
    net_arch = {"pi": [16], "vf": [16]}
    runs: list[Losses] = []
    for make in ("theirs", "ours"):
        env = make_vec_env(env_id, n_envs=4, seed=0)
        model: BaseAlgorithm
        if make == "theirs":
            model = A2C("MlpPolicy", env, policy_kwargs={"net_arch": net_arch}, **shared)
        else:
            kwargs = {"net_arch": net_arch, "core_class": Memoryless}
            model = RecurrentA2C(RecurrentActorCriticPolicy, env, policy_kwargs=kwargs, **shared)
        runs.append(Losses())
        model.learn(60 * 64, callback=runs[-1], log_interval=10**9)
        assert isinstance(model.policy.optimizer, getattr(torch.optim, optimizer))
    theirs, ours = runs
    assert len(theirs.updates) == len(ours.updates) == 61
    assert len({losses["train/policy_loss"] for losses in theirs.updates[1:]}) == 60
    for one, other in zip(theirs.updates, ours.updates, strict=True):
        assert one == pytest.approx(other, rel=1e-3, abs=1e-5)
    for before, after in zip(theirs.parameters, ours.parameters, strict=True):
        np.testing.assert_allclose(before, after, rtol=1e-3, atol=1e-4)

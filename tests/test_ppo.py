"""RecurrentPPO: minibatches of whole and of cut sequences, its losses, when it stops, and what it
learns."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.vec_env import DummyVecEnv

from mnm_rl import LstmPolicy, RecurrentPPO
from mnm_rl.algorithms.buffers import RolloutSequence
from mnm_rl.algorithms.ppo import clipped_losses
from mnm_rl.algorithms.updates import evaluate, total_loss
from tests.counting import Counting, Random, Recall
from tests.policies import POLICIES, ppo, roll_out

LENGTHS = (3, 4, 9, 5)
"""Of the episodes in four environments; a rollout has six steps of each."""
SIZES = [1, 2, 4, 6, 9, 12, 15, 24, 100, None]
"""Of minibatches: less than a sequence of six steps, one, more, and no multiple of it; all 24
steps, and more."""


def collected(name: str = "lstm", **kwargs: Any) -> RecurrentPPO:
    """A rollout that begins within episodes."""
    defaults: dict[str, Any] = dict(n_steps=6, batch_size=24, normalize_advantage=False)
    model = ppo(name, DummyVecEnv([lambda n=n: Counting(n) for n in LENGTHS]), **defaults | kwargs)
    roll_out(model)
    assert model.env is not None
    _, callback = model._setup_learn(0, reset_num_timesteps=False)
    model.collect_rollouts(model.env, callback, model.rollout_buffer, model.n_steps)
    return model


def tensors(sequence: RolloutSequence) -> list[torch.Tensor]:
    """All that is kept of each step, ``[steps, ...]``."""
    observations = sequence.observations
    parts = [*observations.values()] if isinstance(observations, dict) else [observations]
    parts += [
        sequence.actions,
        sequence.values,
        sequence.log_prob,
        sequence.returns,
        sequence.episode_starts,
    ]
    return [part.flatten(0, 1) for part in parts]


@pytest.mark.parametrize("size", SIZES)
def test_every_step_is_in_one_minibatch(size: int | None) -> None:
    space = spaces.Dict({"a": spaces.Box(-1, 1, (2,)), "b": spaces.Discrete(3)})
    model = ppo(
        "lstm",
        make_vec_env(lambda: Random(space, spaces.Discrete(2)), n_envs=4),
        n_steps=6,
        batch_size=size,
    )
    roll_out(model)
    # a name for each step
    model.rollout_buffer.advantages = np.arange(24, dtype=np.float32).reshape(6, 4)
    whole = model.rollout_buffer.sequence()
    orders = []
    for _ in range(2):
        minibatches = list(whole.minibatches(size))
        names = [
            torch.cat([piece.advantages.flatten() for piece in pieces]).long()
            for pieces in minibatches
        ]
        assert sorted(torch.cat(names).tolist()) == list(range(24))
        assert sorted(map(len, names), reverse=True) == [
            *[size or 24] * (24 // (size or 24)),
            *([24 % size] if size and 24 % size else []),
        ]
        for pieces in minibatches:
            for piece in pieces:
                for kept, of_whole in zip(tensors(piece), tensors(whole), strict=True):
                    torch.testing.assert_close(
                        kept, of_whole[piece.advantages.flatten().long()], rtol=0, atol=0
                    )
        orders.append(torch.cat(names).tolist())
    assert orders[0] != orders[1]


@pytest.mark.parametrize(
    ("size", "shapes"),
    [(6, {(6, 1)}), (12, {(6, 2)}), (3, {(3, 1)}), (15, {(6, 2), (3, 1), (6, 1)})],
)
def test_sequences_are_as_long_as_the_minibatches_allow(
    size: int, shapes: set[tuple[int, int]]
) -> None:
    rollout = collected(batch_size=size).rollout_buffer.sequence()
    assert {
        tuple(piece.values.shape) for pieces in rollout.minibatches(size) for piece in pieces
    } == shapes


@pytest.mark.parametrize("name", POLICIES)
@pytest.mark.parametrize("size", [2, 9, 12])
def test_sequences_start_from_the_states_of_the_rollout(name: str, size: int) -> None:
    """So the policy of the rollout says again what it has said."""
    model = collected(name, batch_size=size)
    for pieces in model.rollout_buffer.sequence().minibatches(size):
        for piece in pieces:
            values, log_prob, _, _ = evaluate(model.policy, piece)
            np.testing.assert_allclose(values.detach(), piece.values, rtol=1e-4, atol=1e-6)
            np.testing.assert_allclose(log_prob.detach(), piece.log_prob, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", ["mnm-g", "mnm-p", "lstm", "gru"])
@pytest.mark.parametrize("size", [12, 15])
def test_the_gradient_of_a_minibatch_is_the_mean_of_those_of_its_environments_alone(
    name: str, size: int
) -> None:
    model = collected(name, batch_size=size)
    parameters = list(model.policy.parameters())

    def gradient(pieces: list[RolloutSequence]) -> torch.Tensor:
        losses, _ = clipped_losses(model.policy, pieces, 0.2, None, False)
        loss = total_loss(losses, model.ent_coef, model.vf_coef, model.meta_coef)
        grads = torch.autograd.grad(loss, parameters, allow_unused=True, materialize_grads=True)
        return torch.cat([grad.flatten() for grad in grads])

    pieces = next(model.rollout_buffer.sequence().minibatches(size))
    alone = [
        piece._piece(torch.tensor([env]), 0, len(piece.values))
        for piece in pieces
        for env in range(piece.values.shape[1])
    ]
    steps = [part.values.numel() for part in alone]
    mean = sum(n * gradient([part]) for n, part in zip(steps, alone, strict=True)) / sum(steps)
    torch.testing.assert_close(gradient(pieces), mean, rtol=1e-4, atol=1e-5)


def test_values_are_clipped_around_those_of_the_rollout() -> None:
    model = collected()
    model.policy.value_net.bias.data += 1
    (piece,) = next(model.rollout_buffer.sequence().minibatches(None))
    losses, _ = clipped_losses(model.policy, [piece], 0.2, 0.25, False)
    assert losses["value_loss"].item() == pytest.approx(
        (piece.values + 0.25 - piece.returns).square().mean().item(), rel=1e-5
    )


def test_the_meta_loss_is_part_of_the_loss() -> None:
    model = collected("mnm-p", meta_coef=0.7, vf_coef=0.3, ent_coef=0.2)
    pieces = next(model.rollout_buffer.sequence().minibatches(None))
    losses, _ = clipped_losses(model.policy, pieces, 0.2, None, False)
    weighted = {"policy_loss": 1, "value_loss": 0.3, "entropy_loss": 0.2, "meta_loss": 0.7}
    assert losses["meta_loss"] > 0
    torch.testing.assert_close(
        total_loss(losses, model.ent_coef, model.vf_coef, model.meta_coef),
        sum(weight * losses[name] for name, weight in weighted.items()),
    )


def test_one_step_alone_is_not_normalized() -> None:
    # the last minibatch is one step
    ppo("lstm", make_vec_env(Recall), n_steps=3, batch_size=2).learn(6)


def test_an_update_stops_when_the_policy_has_gone_too_far(
    capsys: pytest.CaptureFixture[str],
) -> None:
    env = make_vec_env(Recall, n_envs=4)
    model = ppo(
        "lstm",
        env,
        n_steps=8,
        batch_size=32,
        n_epochs=10,
        learning_rate=1e-2,
        target_kl=1e-3,
        verbose=1,
    ).learn(32)
    logged = model.logger.name_to_value
    assert 1 < model._n_updates < 10
    assert logged["train/approx_kl"] > 1.5e-3
    assert (
        f"Early stopping at step {model._n_updates - 1} due to reaching max kl"
        in capsys.readouterr().out
    )
    assert (
        ppo("lstm", env, n_steps=8, batch_size=32, n_epochs=10, learning_rate=1e-2)
        .learn(32)
        ._n_updates
        == 10
    )


def test_bounds_may_be_schedules_and_stay_what_was_given(tmp_path: Path) -> None:
    def schedule(progress: float) -> float:
        return 0.1 + progress

    model = ppo("lstm", make_vec_env(Recall), clip_range=schedule, clip_range_vf=0.3).learn(10)
    logged = model.logger.name_to_value
    assert (logged["train/clip_range"], logged["train/clip_range_vf"]) == (0.1, 0.3)
    assert (model.clip_range, model.clip_range_vf) == (schedule, 0.3)
    model.export(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["not_kept"] == ["clip_range"]
    assert config["algorithm"]["clip_range_vf"] == 0.3
    with pytest.raises(ValueError, match="clip_range of the exported model could not be described"):
        RecurrentPPO.from_pretrained(tmp_path, device="cpu")
    again = RecurrentPPO.from_pretrained(tmp_path, device="cpu", clip_range=0.1)
    assert (again.clip_range, again.clip_range_vf, again.batch_size, again.n_epochs) == (
        0.1,
        0.3,
        5,
        2,
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"batch_size": 0}, "batch_size must be at least 1, got 0"),
        ({"n_epochs": 0}, "n_epochs must be at least 1, got 0"),
        ({"clip_range": 0.0}, "clip_range must be positive"),
        ({"clip_range_vf": -1.0}, "clip_range_vf must be positive"),
    ],
)
def test_arguments_out_of_range_are_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ppo("lstm", make_vec_env(Recall), **arguments)


def test_a_batch_size_may_be_changed_between_updates() -> None:
    model = ppo("lstm", make_vec_env(Recall, n_envs=2), n_steps=6).learn(12)
    model.batch_size = 4
    model.learn(12)


@pytest.mark.parametrize(
    ("name", "batch_size"), [("mnm-g", 64), ("mnm-p", 64), ("lstm", 64), ("gru", 64), ("lstm", 50)]
)
def test_learns_to_remember(name: str, batch_size: int) -> None:
    """The cue is seen for one step only: without memory, half the episodes succeed."""
    env = make_vec_env(Recall, n_envs=32, seed=0)
    kwargs: dict[str, Any] = dict(
        n_steps=8, batch_size=batch_size, n_epochs=4, learning_rate=3e-3, gamma=0.9, ent_coef=0.01
    )
    model = ppo(name, env, {"hidden_size": 24}, **kwargs).learn(8_000)
    mean, _ = evaluate_policy(
        model, make_vec_env(Recall, n_envs=8, seed=1), 100, deterministic=True
    )
    assert mean > 0.95


def test_auto_is_what_the_policy_says_however_a_model_comes_about(tmp_path: Path) -> None:
    def model_of(policy: Any = "MnmPolicy", **kwargs: Any) -> RecurrentPPO:
        return RecurrentPPO(
            policy, "CartPole-v1", n_steps=8, batch_size=8, n_epochs=1, device="cpu", **kwargs
        )

    def of(model: Any) -> tuple[Any, Any]:
        return model.learning_rate, model.target_kl

    auto: dict[str, Any] = {"learning_rate": "auto", "target_kl": "auto"}
    g = {"write_rule": "g", "variant": "paper"}
    given = model_of(learning_rate=0.1, target_kl=None, policy_kwargs={"core_kwargs": g})
    assert of(given) == (0.1, None)
    assert (
        of(model_of(policy_kwargs={"core_kwargs": g}))
        == of(model_of(policy_kwargs=g))
        == (1e-3, 0.05)
    )

    given.save(tmp_path / "model")
    given.export(tmp_path / "exported")
    assert (
        of(RecurrentPPO.load(tmp_path / "model"))
        == of(RecurrentPPO.from_pretrained(tmp_path / "exported"))
        == (0.1, None)
    )
    env = "CartPole-v1"
    for loaded in (
        RecurrentPPO.load(tmp_path / "model", env, **auto),
        RecurrentPPO.from_pretrained(tmp_path / "exported", env, **auto),
    ):
        assert of(loaded.learn(8)) == (1e-3, 0.05)
        assert loaded.policy.optimizer.param_groups[0]["lr"] == 1e-3

    class Own(LstmPolicy):
        @classmethod
        def ppo_defaults(cls, policy_kwargs: dict[str, Any]) -> dict[str, Any]:
            return {"learning_rate": 1e-5}

    assert of(model_of(Own)) == (1e-5, 0.05)
    with pytest.raises(ValueError, match="target_kl must be a number, None or 'auto', got 'none'"):
        model_of(target_kl="none")

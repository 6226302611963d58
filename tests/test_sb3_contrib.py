"""The policies that have the names of sb3-contrib's are those, with its numbers; skipped where it
is not installed."""

import inspect
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces
from stable_baselines3.common.env_util import make_vec_env
from torch import Tensor

from mnm_rl import RecurrentPPO
from tests.counting import Random, Recall
from tests.policies import ROUNDING

contrib = pytest.importorskip("sb3_contrib")

CHOICES: dict[str, dict[str, Any]] = {
    "an LSTM each": {},
    "shared": {"shared_lstm": True, "enable_critic_lstm": False},
    "none for the critic": {"enable_critic_lstm": False},
    "two layers, own extractors": {"n_lstm_layers": 2, "share_features_extractor": False},
}


def cells(core: Any) -> Iterator[Any]:
    """The layers of an LSTM core."""
    yield from (layer.cell for layer in (core.cores if hasattr(core, "cores") else [core]))


def copy_weights(ours: Any, theirs: Any) -> None:
    """Give our policy the weights of theirs."""
    cores = (
        [*ours.core.cores]
        if hasattr(theirs, "lstm_actor") and ours.critic_core in ("own", "none")
        else [ours.core]
    )
    lstms = [theirs.lstm_actor, theirs.lstm_critic][: len(cores)]
    for core, lstm in zip(cores, lstms, strict=True):
        if lstm is None:
            core.linear.load_state_dict(theirs.critic.state_dict())
            continue
        for k, cell in enumerate(cells(core)):
            cell.load_state_dict(
                {name: getattr(lstm, f"{name}_l{k}") for name in cell.state_dict()}
            )
    for part in ("mlp_extractor", "action_net", "value_net"):
        getattr(ours, part).load_state_dict(getattr(theirs, part).state_dict())


def pair(policy: str, env: Any, policy_kwargs: dict[str, Any], **kwargs: Any) -> tuple[Any, Any]:
    """Ours and theirs with the same weights and seeds."""
    models = []
    for algorithm in (RecurrentPPO, contrib.RecurrentPPO):
        made: Any = algorithm
        models.append(
            made(
                policy,
                env(),
                policy_kwargs={"lstm_hidden_size": 6} | policy_kwargs,
                seed=0,
                device="cpu",
                **kwargs,
            )
        )
    copy_weights(models[0].policy, models[1].policy)
    return models[0], models[1]


@pytest.mark.parametrize("choice", CHOICES)
def test_predict_takes_and_gives_the_same_state(choice: str) -> None:
    ours, theirs = pair("MlpLstmPolicy", lambda: make_vec_env(Recall), CHOICES[choice])
    observations = np.random.default_rng(0).random((5, 4, 3)).astype(np.float32)
    starts = np.zeros((5, 4), bool)
    starts[3, 1] = True
    state = state_too = None
    for t in range(5):
        action, state = ours.predict(observations[t], state, starts[t], deterministic=True)
        action_too, state_too = theirs.predict(
            observations[t], state_too, starts[t], deterministic=True
        )
        np.testing.assert_array_equal(action, action_too)
        torch.testing.assert_close(
            tuple(map(torch.tensor, state)), tuple(map(torch.tensor, state_too)), **ROUNDING
        )


@pytest.mark.parametrize("choice", CHOICES)
def test_an_update_has_the_same_losses_and_the_same_weights_after_it(
    choice: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of one minibatch, since theirs are cut elsewhere; after gradient descent the weights show the
    gradient."""
    # where theirs cuts even a whole rollout
    monkeypatch.setattr(np.random, "randint", lambda steps: 0)
    one_step = dict(
        n_steps=16, batch_size=None, n_epochs=1, learning_rate=1.0, ent_coef=0.01, max_grad_norm=1e9
    )
    policy_kwargs = CHOICES[choice] | {"optimizer_class": torch.optim.SGD}
    ours, theirs = pair(
        "MlpLstmPolicy", lambda: make_vec_env(Recall, n_envs=3, seed=0), policy_kwargs, **one_step
    )
    for model in (ours, theirs):
        model.set_random_seed(1)
        model.learn(48)
    logged, logged_too = ours.logger.name_to_value, theirs.logger.name_to_value
    for name in (
        "policy_gradient_loss",
        "value_loss",
        "entropy_loss",
        "loss",
        "approx_kl",
        "clip_fraction",
        "explained_variance",
    ):
        assert logged[f"train/{name}"] == pytest.approx(
            logged_too[f"train/{name}"], rel=1e-3, abs=1e-5
        ), name
    updated = ours.policy.parameters_to_vector()
    copy_weights(ours.policy, theirs.policy)
    np.testing.assert_allclose(updated, ours.policy.parameters_to_vector(), rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize(
    ("policy", "space"),
    [
        ("CnnLstmPolicy", spaces.Box(0, 255, (40, 40, 3), np.uint8)),
        ("MultiInputLstmPolicy", spaces.Dict({"a": spaces.Box(-1, 1, (3,))})),
    ],
)
@pytest.mark.parametrize("choice", CHOICES)
def test_its_other_policies_have_the_same_parts(policy: str, space: Any, choice: str) -> None:
    ours, theirs = (
        algorithm(
            policy,
            Random(space, spaces.Box(-1, 1, (2,))),
            n_steps=8,
            policy_kwargs=CHOICES[choice],
            device="cpu",
        ).policy
        for algorithm in (RecurrentPPO, contrib.RecurrentPPO)
    )
    for part in ("mlp_extractor", "action_net", "value_net"):
        assert str(getattr(ours, part)) == str(getattr(theirs, part))
    assert sum(p.numel() for p in ours.parameters()) == sum(p.numel() for p in theirs.parameters())


def test_arguments_are_the_same() -> None:
    # with sb3-contrib's names of policies its own
    of_the_policy = {"learning_rate": "auto", "target_kl": "auto"}

    def compared(ours: Any, theirs: Any, new: set[str]) -> None:
        one, other = (inspect.signature(function).parameters for function in (ours, theirs))
        assert [name for name in one if name in other] == list(other)
        defaults = {name: one[name].default for name in other}
        assert defaults == {name: p.default for name, p in other.items()} | of_the_policy
        assert one.keys() - other.keys() == new

    compared(RecurrentPPO, contrib.RecurrentPPO, {"meta_coef"})
    learn, learn_too = (
        inspect.signature(algorithm.learn).parameters
        for algorithm in (RecurrentPPO, contrib.RecurrentPPO)
    )
    assert list(learn) == [*learn_too, "use_masking"]
    assert learn["log_interval"].default == learn_too["log_interval"].default


@pytest.mark.parametrize(
    ("policy_kwargs", "error"),
    [
        ({"shared_lstm": True}, AssertionError),
        (
            {"shared_lstm": True, "enable_critic_lstm": False, "share_features_extractor": False},
            AssertionError,
        ),
        ({"lstm_kwargs": {"proj_size": 3}}, TypeError),
    ],
)
def test_what_excludes_each_other_is_refused(
    policy_kwargs: dict[str, Any], error: type[Exception]
) -> None:
    with pytest.raises(error):
        RecurrentPPO(
            "MlpLstmPolicy", make_vec_env(Recall), policy_kwargs=policy_kwargs, device="cpu"
        )


def test_dropout_is_between_layers_and_in_training_only() -> None:
    policy_kwargs = {"n_lstm_layers": 2, "lstm_kwargs": {"dropout": 0.5}, "lstm_hidden_size": 8}
    policy = RecurrentPPO(
        "MlpLstmPolicy", make_vec_env(Recall), policy_kwargs=policy_kwargs, device="cpu"
    ).policy

    def outputs() -> Tensor:
        return policy.core(
            torch.ones(4, 2, 3), policy.initial_state(2), torch.zeros(4, 2, dtype=torch.bool)
        )[0].detach()

    policy.set_training_mode(True)
    assert not torch.equal(outputs(), outputs())
    policy.set_training_mode(False)
    torch.testing.assert_close(outputs(), outputs())

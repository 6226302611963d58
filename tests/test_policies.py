"""Policies: one registry by name, and one way for a core's arguments into it."""

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from stable_baselines3.common.env_util import make_vec_env
from torch import Tensor, nn

import mnm_rl
from mnm_rl import LstmCore, MnmCore, RecurrentA2C, RecurrentActorCriticPolicy, RecurrentCore
from mnm_rl.algorithms.recurrent_policy import POLICIES as REGISTERED
from tests.counting import Recall
from tests.policies import POLICIES, ROUNDING, SB3_CONTRIB

"""Names of its policies; see ``test_sb3_contrib.py``."""


class Trace(NamedTuple):
    mean: Tensor


class TraceCore(RecurrentCore[Trace]):
    """A core of one's own: a leaky mean of its inputs."""

    def __init__(
        self,
        input_size: int,
        hidden_size: int = 4,
        leak: float = 0.5,
        activation_fn: type[nn.Module] = nn.Tanh,
    ) -> None:
        super().__init__(hidden_size)
        self.leak, self.input = (
            leak,
            nn.Sequential(nn.Linear(input_size, hidden_size), activation_fn()),
        )

    def initial_state(self, batch_size: int) -> Trace:
        return Trace(torch.zeros(batch_size, self.hidden_size))

    def step(self, x: Tensor, state: Trace) -> tuple[Tensor, Trace, Tensor]:
        mean = self.leak * state.mean + (1 - self.leak) * self.input(x)
        return mean, Trace(mean), x.new_zeros(len(x))


def a2c(policy: Any, **policy_kwargs: Any) -> RecurrentA2C:
    return RecurrentA2C(
        policy, make_vec_env(Recall, n_envs=2), policy_kwargs=policy_kwargs, seed=0, device="cpu"
    )


@pytest.fixture
def trace_policy() -> Any:
    """Two lines make a policy; its name is taken back after the test."""

    class TracePolicy(RecurrentActorCriticPolicy):
        core_class = TraceCore

    yield TracePolicy
    del REGISTERED["TracePolicy"]


def test_every_policy_of_the_library_is_tested_and_can_be_imported() -> None:
    ours = {
        name: policy
        for name, policy in REGISTERED.items()
        if policy.__module__.startswith("mnm_rl.")
    }
    assert {policy for policy, _ in POLICIES.values()} == ours.keys() - {
        "RecurrentActorCriticPolicy",
        *SB3_CONTRIB,
    }
    assert all(
        getattr(mnm_rl, name) is policy and name in mnm_rl.__all__ for name, policy in ours.items()
    )


def test_every_core_of_the_library_has_a_policy() -> None:
    cores = {
        value
        for value in vars(mnm_rl).values()
        if isinstance(value, type) and issubclass(value, RecurrentCore)
    }
    assert cores - {RecurrentCore} == {
        REGISTERED[policy].core_class for policy, _ in POLICIES.values()
    }  # type: ignore[attr-defined]


def test_a_policy_that_names_its_core_is_known_by_its_own_name(
    trace_policy: Any, tmp_path: Path
) -> None:
    model = a2c("TracePolicy", leak=0.25).learn(20)
    assert type(model.policy) is trace_policy
    assert isinstance(model.policy.core, TraceCore)
    model.export(tmp_path)
    assert RecurrentA2C.from_pretrained(tmp_path, device="cpu").policy.core.leak == 0.25


@pytest.mark.parametrize("way", ["by name", "core_kwargs"])
def test_a_core_takes_its_arguments_from_those_of_the_policy(way: str) -> None:
    arguments: dict[str, Any] = {"hidden_size": 3, "leak": 0.25}
    given = arguments if way == "by name" else {"core_kwargs": arguments}
    policy = a2c("RecurrentActorCriticPolicy", core_class=TraceCore, net_arch=[5], **given).policy
    assert (policy.core.hidden_size, policy.core.leak) == (3, 0.25)
    assert policy.mlp_extractor.latent_dim_pi == 5


def test_a_name_that_policy_and_core_share_is_the_policys() -> None:
    policy = a2c(
        RecurrentActorCriticPolicy, core_class=TraceCore, activation_fn=nn.ReLU, net_arch=[5]
    ).policy
    assert isinstance(policy.mlp_extractor.policy_net[1], nn.ReLU)
    assert isinstance(policy.core.get_submodule("input.1"), nn.Tanh)
    own = {"core_class": TraceCore, "core_kwargs": {"activation_fn": nn.ReLU}}
    assert isinstance(
        a2c(RecurrentActorCriticPolicy, **own).policy.core.get_submodule("input.1"), nn.ReLU
    )


def test_a_core_that_passes_arguments_on_gets_them() -> None:
    class Wide(LstmCore):
        def __init__(self, input_size: int, **kwargs: Any) -> None:
            super().__init__(input_size, **kwargs)

    assert (
        a2c(RecurrentActorCriticPolicy, core_class=Wide, hidden_size=3).policy.core.hidden_size == 3
    )


@pytest.mark.parametrize(
    ("policy", "policy_kwargs", "message"),
    [
        (
            "LstmPolicy",
            {"write_rule": "g"},
            r"LstmPolicy got an unexpected argument 'write_rule'; its core takes hidden_size, init",
        ),
        ("MnmPolicy", {"core_class": MnmCore}, "MnmPolicy has a core_class of its own"),
        ("RecurrentActorCriticPolicy", {}, "RecurrentActorCriticPolicy needs a core_class"),
    ],
)
def test_arguments_that_nobody_takes_are_refused(
    policy: str, policy_kwargs: dict[str, Any], message: str
) -> None:
    with pytest.raises(TypeError, match=message):
        a2c(policy, **policy_kwargs)


@pytest.mark.parametrize(
    ("policy_kwargs", "message"),
    [
        (
            {"critic_core": "twin"},
            "critic_core must be one of shared, detached, own, none, got 'twin'",
        ),
        ({"core_layers": 0}, "core_layers must be at least 1, got 0"),
    ],
)
def test_choices_that_do_not_exist_are_refused(policy_kwargs: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        a2c("LstmPolicy", **policy_kwargs)


@pytest.mark.parametrize("critic_core", ["shared", "detached", "own", "none"])
def test_the_critic_trains_the_actors_memory_only_where_they_share_it(critic_core: str) -> None:
    policy = a2c("LstmPolicy", hidden_size=3, critic_core=critic_core, core_layers=2).policy
    starts = torch.zeros(2, dtype=torch.bool)
    policy.predict_values(torch.ones(2, 3), policy.initial_state(2), starts).sum().backward()  # type: ignore[no-untyped-call]
    trained = any(p.grad is not None and p.grad.any() for p in policy.actor_core.parameters())
    assert trained == (critic_core == "shared")


def test_actor_and_critic_may_have_an_extractor_each() -> None:
    policy = (
        a2c("LstmPolicy", hidden_size=3, critic_core="own", share_features_extractor=False)
        .learn(20)
        .policy
    )
    assert policy.pi_features_extractor is not policy.vf_features_extractor


def test_a_core_of_cores_runs_as_each_of_them() -> None:
    core = a2c("LstmPolicy", hidden_size=3, critic_core="own", core_layers=2).policy.core
    assert core.why_plain() is None
    core.path = "plain"
    assert [part.path for part in core.modules() if isinstance(part, LstmCore)] == ["plain"] * 4
    assert core.why_plain() == "asked for"


@pytest.mark.parametrize("way", ["save", "export", "the policy alone"])
def test_a_core_of_ones_own_is_kept(way: str, tmp_path: Path) -> None:
    trained = a2c(
        RecurrentActorCriticPolicy,
        core_class=TraceCore,
        core_kwargs={"hidden_size": 3, "leak": 0.25},
    ).learn(20)
    again: Any
    if way == "save":
        trained.save(tmp_path / "model")
        again = RecurrentA2C.load(tmp_path / "model", device="cpu")
    elif way == "export":
        trained.export(tmp_path)
        with pytest.raises(
            ValueError,
            match=r"core_class \(tests\.test_policies\.TraceCore\) of the exported model .* again",
        ):
            RecurrentA2C.from_pretrained(tmp_path, device="cpu")
        again = RecurrentA2C.from_pretrained(
            tmp_path, device="cpu", policy_kwargs={"core_class": TraceCore}
        )
    else:
        trained.policy.save(str(tmp_path / "policy"))
        again = RecurrentActorCriticPolicy.load(str(tmp_path / "policy"), device="cpu")
    observation = np.ones((2, 3), np.float32)
    torch.testing.assert_close(
        again.predict(observation)[1], trained.predict(observation)[1], **ROUNDING
    )

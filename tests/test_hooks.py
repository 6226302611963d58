"""Stable-Baselines3's extension points: whatever is overridden acts in rollouts, updates and
predict, for every action space."""

from collections.abc import Callable
from itertools import product
from types import MethodType
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.distributions import CategoricalDistribution
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.torch_layers import FlattenExtractor
from torch import Tensor, nn
from torch.distributions import Bernoulli, Categorical, Normal

from mnm_rl import GruCore, LstmCore, RecurrentA2C, RecurrentActorCriticPolicy, RecurrentPPO
from mnm_rl.algorithms.policies import LstmPolicy, MlpLstmPolicy
from mnm_rl.algorithms.updates import evaluate
from tests.counting import Random, Recall
from tests.policies import roll_out

OBSERVATIONS = spaces.Box(-1, 1, (3,), np.float32)
ACTIONS: dict[str, tuple[spaces.Space[Any], dict[str, Any]]] = {
    "Discrete": (spaces.Discrete(3), {}),
    "MultiDiscrete": (spaces.MultiDiscrete([3, 2]), {}),
    "MultiBinary": (spaces.MultiBinary(2), {}),
    "Box": (spaces.Box(-1, 1, (2,), np.float32), {}),
    "Box, noise of the state": (
        spaces.Box(-1, 1, (2,), np.float32),
        {"use_sde": True, "sde_sample_freq": 4},
    ),
    "Box, squashed": (
        spaces.Box(-1, 1, (2,), np.float32),
        {"use_sde": True, "policy_kwargs": {"squash_output": True}},
    ),
}
SETTINGS = [
    (RecurrentA2C, "shared"),
    (RecurrentPPO, "shared"),
    (RecurrentPPO, "own"),
    (RecurrentPPO, "none"),
]


def forbidden(actions: Any, space: spaces.Space[Any]) -> Any:
    """Which actions ``[N, ...]`` are those that nobody may take: 0, 0 in front, a first bit, or a
    first number above 0."""
    first = np.asarray(actions).reshape(len(actions), -1)[:, 0]
    return first == 0 if isinstance(space, spaces.Discrete | spaces.MultiDiscrete) else first > 0


def forbid(dist: Any) -> Any:
    """One of Stable-Baselines3's distributions, without them."""
    given = dist.distribution
    if isinstance(given, list):
        dist.distribution = [
            Categorical(logits=given[0].logits - 50 * one(given[0].logits)),
            *given[1:],
        ]
    elif isinstance(given, Categorical):
        dist.distribution = Categorical(logits=given.logits - 50 * one(given.logits))
    elif isinstance(given, Bernoulli):
        dist.distribution = Bernoulli(logits=given.logits - 50 * one(given.logits))
    else:
        assert isinstance(given, Normal)
        dist.distribution = Normal(given.mean - 6 * one(given.mean), given.stddev)
    return dist


def one(like: Tensor) -> Tensor:
    return nn.functional.one_hot(torch.tensor(0), like.shape[-1]).to(like)


def of_latent(self: Any, latent_pi: Tensor) -> Any:
    return forbid(RecurrentActorCriticPolicy._get_action_dist_from_latent(self, latent_pi))


def distribution(self: Any, *arguments: Any) -> Any:
    dist, state = RecurrentActorCriticPolicy.get_distribution(self, *arguments)
    return forbid(dist), state


def forward(
    self: Any, obs: Any, state: Any, episode_starts: Tensor, deterministic: bool = False
) -> Any:
    _, values, _, new_state = RecurrentActorCriticPolicy.forward(self, obs, state, episode_starts)
    dist = distribution(self, obs, self._of_actor(state), episode_starts)[0]
    actions = dist.get_actions(deterministic=deterministic)
    return actions, values, dist.log_prob(actions), new_state


def evaluate_actions(
    self: Any, obs: Tensor, actions: Tensor, state: Any, episode_starts: Tensor
) -> Any:
    values, _, _, meta_loss = RecurrentActorCriticPolicy.evaluate_actions(
        self, obs, actions, state, episode_starts
    )
    log_prob, entropy, state = [], [], self._of_actor(state)
    for t in range(len(obs)):
        dist, state = distribution(self, obs[t], state, episode_starts[t])
        log_prob.append(dist.log_prob(actions[t]))
        entropy.append(dist.entropy())
    entropies = None if entropy[0] is None else torch.stack(entropy)
    return values, torch.stack(log_prob), entropies, meta_loss


def replaced(name: str, function: Callable[..., Any]) -> Callable[[Any], None]:
    return lambda policy: setattr(policy, name, MethodType(function, policy))


def subclassed(name: str, function: Callable[..., Any]) -> Callable[[Any], None]:
    return lambda policy: setattr(
        policy, "__class__", type("Own", (type(policy),), {name: function})
    )


def own_distribution(policy: Any) -> None:
    kind = type(policy.action_dist)

    def proba_distribution(self: Any, *arguments: Any, **named: Any) -> Any:
        return forbid(kind.proba_distribution(self, *arguments, **named))

    policy.action_dist.__class__ = type("Own", (kind,), {"proba_distribution": proba_distribution})


def method_of_the_distribution(policy: Any) -> None:
    dist, kind = policy.action_dist, type(policy.action_dist)
    dist.proba_distribution = lambda *arguments, **named: forbid(
        kind.proba_distribution(dist, *arguments, **named)
    )


class Shifted(nn.Module):
    def __init__(self, net: nn.Module, by: float) -> None:
        super().__init__()
        self.net, self.by = net, by

    def forward(self, latent: Tensor) -> Tensor:
        out: Tensor = self.net(latent)
        return out + self.by * one(out)


def own_action_net(policy: Any) -> None:
    policy.action_net = Shifted(
        policy.action_net, -6 if isinstance(policy.action_space, spaces.Box) else -50
    )


def hook_on_the_action_net(policy: Any) -> None:
    by = -6 if isinstance(policy.action_space, spaces.Box) else -50
    policy.action_net.register_forward_hook(lambda net, inputs, out: out + by * one(out))


EVERYWHERE: dict[str, Callable[[Any], None]] = {
    "_get_action_dist_from_latent": subclassed("_get_action_dist_from_latent", of_latent),
    "_get_action_dist_from_latent of the instance": replaced(
        "_get_action_dist_from_latent", of_latent
    ),
    "get_distribution": subclassed("get_distribution", distribution),
    "get_distribution of the instance": replaced("get_distribution", distribution),
    "action_dist": own_distribution,
    "a method of action_dist": method_of_the_distribution,
    "action_net": own_action_net,
    "a hook on action_net": hook_on_the_action_net,
    "forward and evaluate_actions": lambda policy: (
        replaced("forward", forward)(policy),
        replaced("evaluate_actions", evaluate_actions)(policy),
    ),  # type: ignore[dict-item,return-value]
}


def make(algorithm: Any, critic_core: str, actions: str, policy: Any = "LstmPolicy") -> Any:
    space, kwargs = ACTIONS[actions]
    policy_kwargs = {"hidden_size": 4, "critic_core": critic_core} | kwargs.get("policy_kwargs", {})
    env = make_vec_env(lambda: Random(OBSERVATIONS, space), n_envs=3, seed=0)
    batch = {} if algorithm is RecurrentA2C else {"batch_size": 10}
    kwargs = (
        {"n_steps": 20, **batch, "seed": 0, "device": "cpu"}
        | kwargs
        | {"policy_kwargs": policy_kwargs}
    )
    return algorithm(policy, env, **kwargs)


def taken_in_rollout(model: Any) -> int:
    roll_out(model)
    buffer = model.rollout_buffer
    return int(
        forbidden(buffer.actions.reshape(-1, *buffer.actions.shape[2:]), model.action_space).sum()
    )


def taken_in_predict(model: Any, deterministic: bool = False) -> int:
    observations = np.random.default_rng(0).uniform(-1, 1, (60, 3)).astype(np.float32)
    return int(
        forbidden(
            model.predict(observations, deterministic=deterministic)[0], model.action_space
        ).sum()
    )


def assert_ratio_is_one(model: Any) -> None:
    model.policy.set_training_mode(True)
    rollout = model.rollout_buffer.sequence()
    pieces = next(rollout.minibatches(None)) if isinstance(model, RecurrentPPO) else [rollout]
    for piece in [rollout, *pieces]:
        _, log_prob, _, _ = evaluate(model.policy, piece)
        torch.testing.assert_close(log_prob.detach(), piece.log_prob, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("actions", ACTIONS)
def test_without_an_override_they_are_taken(actions: str) -> None:
    model = make(RecurrentA2C, "shared", actions)
    assert taken_in_rollout(model) > 0
    assert taken_in_predict(model) > 0


PAIRS = list(product(EVERYWHERE, ACTIONS))
CASES = [(hook, "Discrete", *setting) for hook in EVERYWHERE for setting in SETTINGS]
CASES += [
    (*pair, *SETTINGS[k % len(SETTINGS)]) for k, pair in enumerate(PAIRS) if pair[1] != "Discrete"
]


@pytest.mark.parametrize(("hook", "actions", "algorithm", "critic_core"), CASES)
def test_what_forbids_an_action_forbids_it_everywhere(
    hook: str, actions: str, algorithm: Any, critic_core: str
) -> None:
    model = make(algorithm, critic_core, actions)
    EVERYWHERE[hook](model.policy)
    assert taken_in_rollout(model) == 0
    assert_ratio_is_one(model)
    model.train()
    assert taken_in_predict(model) == taken_in_predict(model, deterministic=True) == 0


@pytest.mark.parametrize("actions", ACTIONS)
@pytest.mark.parametrize("critic_core", ["shared", "own"])
def test_an_own_forward_acts_in_rollouts_and_in_predict(
    actions: str,
    critic_core: str,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("mnm_rl.cores.implementations._logged", set())
    model = make(RecurrentPPO, critic_core, actions)
    replaced("forward", forward)(model.policy)
    assert taken_in_rollout(model) == 0
    assert taken_in_predict(model) == taken_in_predict(model, deterministic=True) == 0
    model.train()
    assert "forward of LstmPolicy is overridden, and evaluate_actions is not" in caplog.text


def test_an_own_evaluate_actions_is_what_is_learned_from() -> None:
    model = make(RecurrentA2C, "shared", "Discrete")
    roll_out(model)
    expected = evaluate(model.policy, model.rollout_buffer.sequence())

    def doubled(self: Any, *arguments: Any) -> Any:
        values, log_prob, entropy, meta_loss = RecurrentActorCriticPolicy.evaluate_actions(
            self, *arguments
        )
        # the shape is ours to mend
        return 2 * values.flatten(), 3 * log_prob.flatten(), entropy, meta_loss

    replaced("evaluate_actions", doubled)(model.policy)
    values, log_prob, *_ = evaluate(model.policy, model.rollout_buffer.sequence())
    torch.testing.assert_close(values, 2 * expected[0], rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(log_prob, 3 * expected[1], rtol=1e-4, atol=1e-6)


def test_an_own_predict_of_actions_acts_in_predict() -> None:
    model = make(RecurrentA2C, "shared", "Discrete")
    model.policy._predict = lambda obs, state, starts, deterministic: (
        torch.full((len(obs),), 2),
        state,
    )
    assert set(model.predict(np.zeros((5, 3), np.float32))[0]) == {2}


def test_own_values_are_those_of_rollouts_and_updates() -> None:
    model = make(RecurrentPPO, "own", "Box")
    replaced(
        "predict_values",
        lambda self, *asked: RecurrentActorCriticPolicy.predict_values(self, *asked) + 7,
    )(model.policy)
    roll_out(model)
    assert model.rollout_buffer.values.mean() == pytest.approx(7, abs=2)
    values, *_ = evaluate(model.policy, model.rollout_buffer.sequence())
    np.testing.assert_allclose(values.detach(), model.rollout_buffer.values, rtol=1e-4, atol=1e-4)


class Halves(nn.Module):
    """What comes after the core, of one's own."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.latent_dim_pi = self.latent_dim_vf = 5
        self.pi, self.vf, self.calls = nn.Linear(width, 5), nn.Linear(width, 5), 0

    def forward_actor(self, latent: Tensor) -> Tensor:
        self.calls += 1
        return self.pi(latent).tanh()  # type: ignore[no-any-return]

    def forward_critic(self, latent: Tensor) -> Tensor:
        return self.vf(latent).tanh()  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    ("base", "width"), [(LstmPolicy, "hidden_size"), (MlpLstmPolicy, "lstm_hidden_size")]
)
@pytest.mark.parametrize("algorithm", [RecurrentA2C, RecurrentPPO])
def test_an_extractor_of_ones_own_needs_no_super(base: Any, width: str, algorithm: Any) -> None:
    class Own(base):  # type: ignore[misc]
        def _build_mlp_extractor(self) -> None:
            self.mlp_extractor = Halves(
                self.lstm_output_dim
                if hasattr(self, "lstm_output_dim")
                else self.actor_core.output_size
            )

    env = make_vec_env(Recall, n_envs=2, seed=0)
    model = algorithm(Own, env, n_steps=8, seed=0, device="cpu", policy_kwargs={width: 4})
    for use in (
        lambda: roll_out(model),
        lambda: assert_ratio_is_one(model),
        lambda: model.predict(np.zeros(3, np.float32)),
    ):
        model.policy.mlp_extractor.calls = 0
        use()
        assert model.policy.mlp_extractor.calls > 0
    model.train()


def test_what_leaves_no_core_and_what_does_not_fit_it_is_refused() -> None:
    class NoCore(LstmPolicy):
        def _build(self, lr_schedule: Any) -> None:
            self.optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr_schedule(1))

    class OfFeatures(LstmPolicy):
        def _build_mlp_extractor(self) -> None:
            self.mlp_extractor = Halves(self.features_dim)  # type: ignore[assignment]

    class Silent(LstmPolicy):
        def forward(self, *arguments: Any, **named: Any) -> Any:
            return super().forward(*arguments, **named)[:3]

    with pytest.raises(TypeError, match="_build of NoCore must call super"):
        make(RecurrentA2C, "shared", "Discrete", NoCore)
    with pytest.raises(
        ValueError, match=r"mlp_extractor must take the outputs of actor_core, \[B, 4\]"
    ):
        make(RecurrentA2C, "shared", "Discrete", OfFeatures)
    with pytest.raises(TypeError, match=r"forward of Silent must return .* it returned 3 things"):
        make(RecurrentA2C, "shared", "Discrete", Silent).learn(60)


@pytest.mark.parametrize("share", [True, False])
def test_own_features_are_seen_everywhere(share: bool) -> None:
    class Doubled(FlattenExtractor):
        def forward(self, observations: Tensor) -> Tensor:
            return 2 * super().forward(observations)

    def doubled(self: Any, obs: Any, extractor: Any = None) -> Any:
        features = RecurrentActorCriticPolicy.extract_features(self, obs)
        return tuple(2 * part for part in features) if isinstance(features, tuple) else 2 * features

    kwargs: Any = {"critic_core": "own", "share_features_extractor": share, "hidden_size": 4}
    results = []
    for own, more in (
        (lambda policy: None, {"features_extractor_class": Doubled}),
        (replaced("extract_features", doubled), {}),
    ):
        env = make_vec_env(Recall, n_envs=2, seed=0)
        model = RecurrentPPO(
            "LstmPolicy",
            env,
            n_steps=8,
            batch_size=8,
            seed=0,
            device="cpu",
            policy_kwargs=kwargs | more,
        )
        own(model.policy)
        roll_out(model)
        assert_ratio_is_one(model)
        model.train()
        model.set_random_seed(0)
        results.append(
            (model.policy.parameters_to_vector(), *model.predict(np.ones((4, 3), np.float32))[1])
        )  # type: ignore[misc]
    for one_way, other_way in zip(*results, strict=True):
        np.testing.assert_allclose(one_way, other_way, rtol=1e-4, atol=1e-6)


def test_hooks_on_the_policy_and_in_the_core_are_run_where_pytorch_runs_them() -> None:
    for kind, find in (
        ("LstmPolicy", lambda policy: policy),
        ("LstmPolicy", lambda policy: policy.core),
        ("LstmPolicy", lambda policy: policy.core.cell),
        ("MnmPolicy", lambda policy: policy.core.interaction),
        ("MlpLstmPolicy", lambda policy: policy.core),
        ("SaluPolicy", lambda policy: policy.core),
    ):
        width = "lstm_hidden_size" if kind == "MlpLstmPolicy" else "hidden_size"
        model = RecurrentA2C(
            kind, make_vec_env(Recall, n_envs=2), n_steps=6, device="cpu", policy_kwargs={width: 4}
        )
        calls: list[int] = []
        find(model.policy).register_forward_hook(lambda *_, calls=calls: calls.append(1))
        roll_out(model)
        assert len(calls) >= 6, kind


def test_a_method_of_a_core_that_is_replaced_runs() -> None:
    class Loud(LstmCore):
        def forward(self, inputs: Tensor, state: Any, episode_starts: Tensor) -> Any:
            outputs, state, meta_loss = super().forward(inputs, state, episode_starts)
            return 2 * outputs, state, meta_loss

    for core_class in (Loud, LstmCore, GruCore):
        env = make_vec_env(Recall, n_envs=2, seed=0)
        kwargs = {"core_class": core_class, "hidden_size": 4}
        model = RecurrentA2C(
            RecurrentActorCriticPolicy, env, n_steps=6, seed=0, device="cpu", policy_kwargs=kwargs
        )
        core = model.policy.core
        plain = model.policy.predict_values(
            torch.ones(2, 3), model.policy.initial_state(2), torch.zeros(2, dtype=torch.bool)
        )
        if core_class is not Loud:
            own_step = core.step
            core.step = lambda x, state, own_step=own_step: tuple(  # type: ignore[assignment,method-assign,misc]
                2 * part if k == 0 else part for k, part in enumerate(own_step(x, state))
            )
            assert "replaced" in str(core.why_plain()) or "set from outside" in str(
                core.why_plain()
            )
            loud = model.policy.predict_values(
                torch.ones(2, 3), model.policy.initial_state(2), torch.zeros(2, dtype=torch.bool)
            )
            assert not torch.allclose(plain, loud)
        roll_out(model)
        assert_ratio_is_one(model)


def test_a_hook_may_come_and_go_in_the_middle_of_a_rollout() -> None:
    model = make(RecurrentA2C, "shared", "Discrete")

    class Strict(BaseCallback):
        def _on_step(self) -> bool:
            if self.n_calls == 5:
                replaced("forward", forward)(self.model.policy)
                replaced("evaluate_actions", evaluate_actions)(self.model.policy)
            if self.n_calls == 12:
                del self.model.policy.forward
            return True

    model.learn(60, callback=Strict())
    taken = forbidden(model.rollout_buffer.actions.reshape(60, 1), model.action_space).reshape(
        20, 3
    )
    assert not taken[5:12].any()
    assert taken.any()


class Wide(nn.Sequential):
    def __init__(self, width: int) -> None:
        super().__init__(nn.Linear(width, 5), nn.Tanh(), nn.Linear(5, 1))


@pytest.mark.parametrize("algorithm", [RecurrentA2C, RecurrentPPO])
@pytest.mark.parametrize("critic_core", ["shared", "own"])
def test_any_module_may_be_the_value_net(algorithm: Any, critic_core: str) -> None:
    class Own(LstmPolicy):
        def _build(self, lr_schedule: Any) -> None:
            super()._build(lr_schedule)
            self.value_net = Wide(self.mlp_extractor.latent_dim_vf)  # type: ignore[assignment]
            self.optimizer = self.optimizer_class(
                self.parameters(), lr=lr_schedule(1), **self.optimizer_kwargs
            )  # type: ignore[call-arg]

    model = make(algorithm, critic_core, "Discrete", Own)
    roll_out(model)
    values, *_ = evaluate(model.policy, model.rollout_buffer.sequence())
    np.testing.assert_allclose(values.detach(), model.rollout_buffer.values, rtol=1e-4, atol=1e-6)
    before = [p.clone() for p in model.policy.value_net.parameters()]
    model.learn(60)
    assert not any(
        torch.equal(p, was)
        for p, was in zip(model.policy.value_net.parameters(), before, strict=True)
    )
    assert model.policy.popart.std == 1
    model.policy.asked_popart = True
    with pytest.raises(
        ValueError,
        match=(
            r"popart=True .* the Wide that was put in its place: leave out popart, or set it to "
            r"False"
        ),
    ):
        model.learn(60)


def test_the_value_net_gives_values_to_whoever_asks_it() -> None:
    """Also where the returns are normalized: what overrides ``forward`` as in Stable-Baselines3
    calls it by itself."""
    model = make(RecurrentA2C, "shared", "Discrete")
    model.policy.take_in_returns(torch.linspace(90, 110, 50))
    policy, obs = model.policy, torch.ones(2, 3)
    given = obs, policy.initial_state(2), torch.zeros(2, dtype=torch.bool)
    latent, _ = policy._one_step(*given)
    assert policy.popart.std != 1
    assert torch.equal(
        policy.value_net(policy.mlp_extractor.forward_critic(latent)), policy.predict_values(*given)
    )


def test_a_distribution_of_ones_own_is_not_taken_for_its_base() -> None:
    class Sharp(CategoricalDistribution):
        def log_prob(self, actions: Tensor) -> Tensor:
            return super().log_prob(actions) - 100

    model = make(RecurrentPPO, "shared", "Discrete")
    model.policy.action_dist = Sharp(3)
    roll_out(model)
    assert (model.rollout_buffer.log_probs < -90).all()
    assert_ratio_is_one(model)

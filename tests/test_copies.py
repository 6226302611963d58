"""Copies of a model: by export and from_pretrained over all options, and by pickle and deepcopy at
any moment of its life."""

import copy
import pickle
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import cloudpickle
import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces
from hypothesis import given, settings
from hypothesis import strategies as st
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.logger import HumanOutputFormat
from stable_baselines3.common.sb2_compat.rmsprop_tf_like import RMSpropTFLike
from stable_baselines3.common.vec_env import DummyVecEnv, SubprocVecEnv, VecFrameStack, VecNormalize

from mnm_rl import GruCore, MnmCore, PlasticCore, RecurrentA2C, RecurrentPPO
from mnm_rl.algorithms.recurrent_policy import POLICIES as REGISTERED
from mnm_rl.memory import WRITE_RULES
from tests.counting import Random, Recall
from tests.policies import POLICIES, ROUNDING, small

OBSERVATIONS = [
    spaces.Box(-1, 1, (3,), np.float32),
    spaces.Box(-1, 1, (2, 3), np.float64),
    spaces.Box(0, 1, (3,), bool),
    spaces.Box(0, 255, (36, 36, 1), np.uint8),
    spaces.Box(0, 255, (3, 8, 8), np.uint8),
    spaces.Discrete(3, dtype=np.int32),
    spaces.MultiDiscrete([3, 4], dtype=np.int16),
    spaces.MultiBinary([2, 2]),
    spaces.Dict(
        {
            "z": spaces.Discrete(3),
            "a": spaces.Box(-1, 1, (2,)),
            "image": spaces.Box(0, 255, (36, 36, 1), np.uint8),
        }
    ),
]
ACTIONS = [
    spaces.Discrete(2),
    spaces.Box(np.array([-1, 0], np.float32), np.array([1, 0.3], np.float32)),
    spaces.Box(-2, 2, (2, 2), np.float64),
    spaces.MultiDiscrete([2, 3], dtype=np.int32),
    spaces.MultiBinary(2),
]
GENERAL = {
    "hidden_size": [5],
    "critic_core": ["shared", "detached", "own", "none"],
    "core_layers": [2],
    "core_dropout": [0.5],
}
CONTRIB = {
    "lstm_hidden_size": [5],
    "n_lstm_layers": [2],
    "enable_critic_lstm": [False],
    "lstm_kwargs": [{"dropout": 0.3}],
}
OF_POLICY: dict[str, dict[str, list[Any]]] = {
    name: GENERAL
    for name, policy in REGISTERED.items()
    if policy.__module__.startswith("mnm_rl.") and hasattr(policy, "core_class")
} | {
    "MnmPolicy": GENERAL
    | {
        "write_rule": [*WRITE_RULES],
        "heads": [2],
        "replay": [2],
        "memory_layers": [1],
        "learn_initial_memory": [False],
    },
    "PlasticPolicy": GENERAL | {"rule": ["oja", "modulated", "retroactive"]},
    "LstmPolicy": GENERAL | {"init": ["pytorch"]},
    "SaluPolicy": GENERAL | {"slots": [4]},
    "NtmPolicy": GENERAL | {"slots": [4], "width": [3]},
    "RecurrentActorCriticPolicy": GENERAL | {"core_class": [GruCore, MnmCore, PlasticCore]},
    "MlpLstmPolicy": CONTRIB,
    "CnnLstmPolicy": CONTRIB,
    "MultiInputLstmPolicy": CONTRIB,
}
NEEDED = {"hidden_size", "lstm_hidden_size", "core_class"}
OF_EVERY_POLICY: dict[str, list[Any]] = {
    "popart": [True, False],
    "share_features_extractor": [False],
    "net_arch": [[], [4], {"pi": [4]}, {"pi": [], "vf": [3]}],
    "activation_fn": [torch.nn.ReLU, torch.nn.ELU],
    "ortho_init": [False],
    "normalize_images": [False],
    "log_std_init": [-1.0],
    "full_std": [False],
    "use_expln": [True],
    "optimizer_class": [torch.optim.SGD, torch.optim.AdamW, RMSpropTFLike],
    "optimizer_kwargs": [{}, {"weight_decay": 0.1}],
}
OF_ALGORITHM: dict[str, list[Any]] = {
    "use_sde": [True],
    "sde_sample_freq": [2],
    "max_grad_norm": [np.inf],
    "gamma": [np.float32(0.9)],
    "meta_coef": [0],
    "seed": [3],
}


@st.composite
def models(draw: st.DrawFn) -> tuple[Any, str, Any, dict[str, Any]]:
    """The arguments of any model: algorithm, policy with any of its options, any spaces."""

    def some(options: dict[str, list[Any]]) -> dict[str, Any]:
        return {
            name: draw(st.sampled_from(values))
            for name, values in options.items()
            if name in NEEDED or draw(st.integers(0, 2), label=name) == 0
        }

    algorithm = draw(st.sampled_from([RecurrentA2C, RecurrentPPO]))
    policy = draw(st.sampled_from([*OF_POLICY]))
    action_space = draw(st.sampled_from(ACTIONS))
    fitting = {
        "CnnLstmPolicy": [space for space in OBSERVATIONS if space.shape == (36, 36, 1)],
        "MultiInputLstmPolicy": [space for space in OBSERVATIONS if isinstance(space, spaces.Dict)],
        "MlpLstmPolicy": [space for space in OBSERVATIONS if not isinstance(space, spaces.Dict)],
    }
    observation_space = draw(st.sampled_from(fitting.get(policy, OBSERVATIONS)))
    arguments, policy_kwargs = some(OF_ALGORITHM), some(OF_EVERY_POLICY) | some(OF_POLICY[policy])
    if not isinstance(action_space, spaces.Box):
        arguments.pop("use_sde", None)
    if arguments.get("use_sde") and draw(st.booleans(), label="squash_output"):
        policy_kwargs["squash_output"] = True
    if (
        policy_kwargs.get("critic_core", "shared") in ("shared", "detached")
        and "lstm_hidden_size" not in policy_kwargs
    ):
        policy_kwargs.pop("share_features_extractor", None)
    return (
        algorithm,
        policy,
        Random(observation_space, action_space),
        arguments | {"policy_kwargs": policy_kwargs},
    )


@settings(max_examples=30)
@given(models())
def test_an_export_is_the_same_model_whatever_its_options(made_of: Any) -> None:
    algorithm, policy, env, arguments = made_of
    model = algorithm(policy, env, n_steps=4, device="cpu", **arguments)
    with TemporaryDirectory() as directory:
        model.export(directory)
        again = type(model).from_pretrained(directory, device="cpu")
    assert (again.observation_space, again.action_space) == (
        model.observation_space,
        model.action_space,
    )
    assert str(again.policy) == str(model.policy)
    assert again.policy.state_dict().keys() == model.policy.state_dict().keys()
    torch.testing.assert_close(
        [*again.policy.state_dict().values()], [*model.policy.state_dict().values()], rtol=0, atol=0
    )
    assert_predicts_alike(model, again)
    optimizers = [type(either.policy.optimizer) for either in (model, again)]
    settings_ = [
        {k: v for k, v in m.policy.optimizer.param_groups[0].items() if k != "params"}
        for m in (model, again)
    ]
    assert (optimizers[0], settings_[0]) == (optimizers[1], settings_[1])
    assert {n: getattr(model, n, None) for n in model.hyperparameters()} == {
        n: getattr(again, n, None) for n in model.hyperparameters()
    }


def test_describing_a_model_draws_nothing_and_checks_distributions_as_before(
    tmp_path: Path,
) -> None:
    checked = torch.distributions.Distribution._validate_args
    small(RecurrentA2C, "lstm", "Pendulum-v1", use_sde=True).export(tmp_path)
    torch.manual_seed(3)
    RecurrentA2C.from_pretrained(tmp_path, device="cpu", seed=4)
    again = torch.rand(())
    torch.manual_seed(3)
    RecurrentA2C.from_pretrained(tmp_path, device="cpu", seed=4)
    assert torch.rand(()) == again
    assert torch.distributions.Distribution._validate_args is checked


def assert_predicts_alike(one: Any, other: Any) -> None:
    space = copy.deepcopy(one.observation_space)
    space.seed(1)
    states: list[Any] = [None, None]
    for _ in range(3):
        observation = space.sample()
        (action, states[0]), (again, states[1]) = (
            model.predict(observation, state, deterministic=True)
            for model, state in zip((one, other), states, strict=True)
        )
        torch.testing.assert_close(again, action, **ROUNDING)
        torch.testing.assert_close(states[1], states[0], **ROUNDING)


WAYS: dict[str, Callable[[Any], Any]] = {
    "pickle": lambda model: pickle.loads(pickle.dumps(model)),
    "cloudpickle": lambda model: pickle.loads(cloudpickle.dumps(model)),
    "deepcopy": copy.deepcopy,
}


def check_copies(model: Any, env: Callable[[], Any] | None = None) -> None:
    """Every copy predicts as the model does, goes on learning, and does not change the model.

    Args:
        env: makes environments for copies that have none.
    """
    before = model.policy.parameters_to_vector()
    for way in WAYS.values():
        again = way(model)
        assert_predicts_alike(model, again)
        assert (again.env is None) == (env is not None)
        if env is not None:
            again.set_env(env())
        again.learn(10, reset_num_timesteps=False)
        assert again.num_timesteps == model.num_timesteps + 10
        assert not np.array_equal(again.policy.parameters_to_vector(), before)
    np.testing.assert_array_equal(model.policy.parameters_to_vector(), before)


class Copying(BaseCallback):
    """Copies the model within a rollout and at both of its ends, and interrupts the training at
    step 12."""

    def _on_rollout_start(self) -> None:
        if self.num_timesteps:
            check_copies(self.model)

    def _on_step(self) -> bool:
        if self.n_calls == 12:
            raise KeyboardInterrupt
        if self.n_calls == 3:
            check_copies(self.model)
        return True

    def _on_rollout_end(self) -> None:
        if self.n_calls == 5:
            check_copies(self.model)


@pytest.mark.parametrize("name", POLICIES)
def test_a_model_can_be_copied_at_any_moment(make: Any, name: str) -> None:
    model = make(name, make_vec_env(Recall, n_envs=2), n_steps=5)
    check_copies(model)
    with pytest.raises(KeyboardInterrupt):
        model.learn(100, callback=Copying())
    check_copies(model)
    model.learn(20)
    check_copies(model)


def pendulums() -> Any:
    return make_vec_env("Pendulum-v1", n_envs=2)


@pytest.mark.parametrize("use_sde", [False, True])
def test_a_model_of_continuous_actions_can_be_copied(make: Any, use_sde: bool) -> None:
    """The distributions that it keeps hold parts of a graph."""
    model = make("gru", pendulums(), n_steps=5, use_sde=use_sde)
    check_copies(model)
    model.learn(20)
    check_copies(model)
    if use_sde:  # the copy goes on with the same noise
        noise, again = (m.policy.action_dist.exploration_mat for m in (model, copy.deepcopy(model)))
        torch.testing.assert_close(again, noise)


@pytest.mark.parametrize(
    "env",
    [
        lambda: VecNormalize(pendulums()),
        lambda: VecFrameStack(VecNormalize(pendulums()), 2),
        lambda: gym.make_vec("CartPole-v1", num_envs=2, vectorization_mode="sync"),
        lambda: gym.make_vec("mnm/MazeSmall-v0", num_envs=2),
    ],
)
def test_a_copy_has_environments_of_its_own(env: Callable[[], Any]) -> None:
    model = small(RecurrentPPO, "lstm", env()).learn(20)
    check_copies(model)
    again = copy.deepcopy(model)
    assert again.env is not model.env
    normalized = model.get_vec_normalize_env()
    if normalized is not None:
        own = again.get_vec_normalize_env()
        assert own is not None
        assert own is not normalized
        np.testing.assert_array_equal(own.obs_rms.mean, normalized.obs_rms.mean)
        np.testing.assert_array_equal(own.returns, normalized.returns)
    actions = np.stack([model.action_space.sample() for _ in range(2)])
    assert again.env is not None
    assert model.env is not None
    torch.testing.assert_close(again.env.step(actions)[:3], model.env.step(actions)[:3])


def test_a_model_whose_environments_cannot_be_pickled_is_copied_without(caplog: Any) -> None:
    class Held(Recall):
        def __reduce__(self) -> Any:
            raise TypeError("held by a window")

    model = small(RecurrentPPO, "mnm-p", DummyVecEnv([Held, Held])).learn(20)
    with caplog.at_level("INFO", logger="mnm_rl"):
        check_copies(model, env=lambda: make_vec_env(Recall, n_envs=2))
    assert (
        "has no environments, until set_env: they cannot be pickled (held by a window)"
        in caplog.text
    )
    processes = SubprocVecEnv([Recall, Recall], start_method="forkserver")
    model.set_env(processes)
    check_copies(model, env=lambda: make_vec_env(Recall, n_envs=2))
    processes.close()


def test_a_copy_does_not_write_into_the_logs_of_the_model(tmp_path: Path, capsys: Any) -> None:
    model = small(
        RecurrentPPO,
        "lstm",
        make_vec_env(Recall, n_envs=2),
        verbose=1,
        tensorboard_log=str(tmp_path),
    ).learn(20)
    check_copies(model)
    assert any(isinstance(output, HumanOutputFormat) for output in model.logger.output_formats)
    assert len(list(tmp_path.iterdir())) >= 1


@pytest.mark.parametrize("name", POLICIES)
def test_a_recording_is_copied_with_its_states_and_gives_the_same_gradient(
    make: Any, name: str
) -> None:
    model = make(name, make_vec_env(Recall, n_envs=2), n_steps=5).learn(10)
    recording = model.policy.core.record(model.policy.initial_state(2), 4)
    stepper = recording.stepper
    inputs, starts = torch.randn(4, 2, 3), torch.zeros(4, 2, dtype=torch.bool)
    for x, start in zip(inputs[:2], starts[:2], strict=True):
        stepper.step(x, start)
    copied = copy.deepcopy(recording)
    again = copied.stepper
    for steps in (1, 2):
        torch.testing.assert_close(
            tuple(again.state_after(steps)), tuple(stepper.state_after(steps)), **ROUNDING
        )
    for x, start in zip(inputs[2:], starts[2:], strict=True):
        torch.testing.assert_close(again.step(x, start), stepper.step(x, start), **ROUNDING)
    gradients = []
    for either in (recording, copied):
        leaf = inputs.clone().requires_grad_()
        outputs, meta_loss = either.replay(leaf, starts)
        (outputs.sum() + meta_loss.sum()).backward()
        gradients.append(leaf.grad)
    torch.testing.assert_close(gradients[1], gradients[0], **ROUNDING)

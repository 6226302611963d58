"""A policy as an ONNX model acts as predict does, step by step, with the state carried over and
episodes beginning at any time."""

import os
import pickle
import warnings
from contextlib import nullcontext
from copy import deepcopy
from itertools import cycle, product
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from gymnasium import spaces

from mnm_rl import LstmPolicy, RecurrentA2C, RecurrentPPO, RnnCore
from tests.counting import Random

BOX = spaces.Box(-1, 1, (3,), np.float32)
IMAGE = spaces.Box(0, 255, (36, 36, 1), np.uint8)
OBSERVATIONS: dict[str, spaces.Space[Any]] = {
    "Box": BOX,
    "Discrete": spaces.Discrete(5),
    "MultiDiscrete": spaces.MultiDiscrete([3, 4]),
    "MultiBinary": spaces.MultiBinary(4),
    "image": IMAGE,
    "Dict": spaces.Dict({"numbers": BOX, "choice": spaces.Discrete(3), "image": IMAGE}),
}
ACTIONS: dict[str, tuple[spaces.Space[Any], dict[str, Any]]] = {
    "Discrete": (spaces.Discrete(4), {}),
    "MultiDiscrete": (spaces.MultiDiscrete([3, 2]), {}),
    "MultiBinary": (spaces.MultiBinary(3), {}),
    "Box": (spaces.Box(np.array([-2, 0], np.float32), np.array([0.1, 3], np.float32)), {}),
    "Box, squashed": (
        spaces.Box(-2, 3, (2,)),
        {"use_sde": True, "policy_kwargs": {"squash_output": True}},
    ),
}
POLICIES: dict[str, tuple[str, dict[str, Any]]] = {
    "mnm-p": ("MnmPolicy", {}),
    "mnm-g, two heads, replay": ("MnmPolicy", {"write_rule": "g", "heads": 2, "replay": 2}),
    "mnm-p-paper": ("MnmPolicy", {"variant": "paper"}),
    "deltanet": ("MnmPolicy", {"write_rule": "delta"}),
    "plastic": ("PlasticPolicy", {"rule": "retroactive"}),
    "lstm, own critic": ("LstmPolicy", {"critic_core": "own", "net_arch": [8]}),
    "two layers of gru": ("GruPolicy", {"core_layers": 2}),
    "rnn": ("RnnPolicy", {}),
    "salu": ("SaluPolicy", {"slots": 4}),
    "ntm": ("NtmPolicy", {"slots": 5, "width": 4}),
    "sb3-contrib's": ("MultiInputLstmPolicy", {}),
}


def model_of(policy: str, observations: str, actions: str, algorithm: Any = RecurrentPPO) -> Any:
    name, kwargs = POLICIES[policy]
    space, arguments = ACTIONS[actions]
    if name == "MultiInputLstmPolicy" and observations != "Dict":
        name = "CnnLstmPolicy" if observations == "image" else "MlpLstmPolicy"
    kwargs = kwargs | {
        "lstm_hidden_size"
        if name.endswith("LstmPolicy") and name != "LstmPolicy"
        else "hidden_size": 8
    }
    arguments = arguments | {"policy_kwargs": kwargs | arguments.get("policy_kwargs", {})}
    model = algorithm(
        name,
        Random(OBSERVATIONS[observations], space),
        n_steps=8,
        seed=0,
        device="cpu",
        **arguments,
    )
    # an untrained policy's logits are equal but for rounding, which would choose the action
    if not isinstance(space, spaces.Box):
        model.policy.action_net.weight.data *= 100
    return model


def check(model: Any, path: Path, steps: int, n_envs: int = 1) -> None:
    model.export(path, format="onnx")
    compare(model, path, steps, n_envs)


def compare(model: Any, path: Path, steps: int, n_envs: int) -> None:
    """The ONNX model and predict, over some steps with resets."""
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    assert session.get_modelmeta().custom_metadata_map["policy"] == type(model.policy).__name__
    inputs = {i.name: i for i in session.get_inputs()}
    state = {
        name: np.zeros([n_envs, *i.shape[1:]], np.float32)
        for name, i in inputs.items()
        if name.startswith("state_")
    }
    rng, theirs = np.random.default_rng(0), None
    model.observation_space.seed(0)
    space = model.observation_space
    for t in range(steps):
        start = (rng.random(n_envs) < 0.05) | (t == 0)
        drawn = [space.sample() for _ in range(n_envs)]
        if isinstance(space, spaces.Dict):
            observation: Any = {key: np.stack([one[key] for one in drawn]) for key in space.spaces}
            given = {f"observation_{key}": part for key, part in observation.items()}
        else:
            observation = np.stack(drawn)
            given = {"observation": observation}
        action, numbers, *after = session.run(None, {**given, "episode_start": start, **state})
        state = dict(zip(state, after, strict=True))
        wanted, theirs = model.predict(observation, theirs, start, deterministic=True)
        if isinstance(model.action_space, spaces.Box):
            # an NTM sharpens its addresses, and rounding with them
            np.testing.assert_allclose(action, wanted, rtol=1e-4, atol=1e-4)
            assert model.action_space.contains(action[0].astype(np.float32))
        else:
            np.testing.assert_array_equal(action, wanted)
        assert len(numbers) == n_envs


ALL = "ONNX_PRODUCT" in os.environ
"""Every policy with all spaces, for 1,000 steps: 90 minutes of one core. Otherwise, some policies,
each with one pair of spaces."""
STEPS = 1_000 if ALL else 100
FEW = (
    "mnm-p",
    "mnm-g, two heads, replay",
    "plastic",
    "two layers of gru",
    "salu",
    "ntm",
    "sb3-contrib's",
)
CASES = (
    [*product(POLICIES, OBSERVATIONS, ACTIONS)]
    if ALL
    else [*zip(FEW, cycle(OBSERVATIONS), cycle(ACTIONS), strict=False), ("mnm-p", "Box", "Box")]
)


@pytest.mark.parametrize(("policy", "observations", "actions"), CASES)
def test_an_onnx_model_acts_as_predict_does(
    policy: str, observations: str, actions: str, tmp_path: Path
) -> None:
    algorithm = RecurrentA2C if policy == "two layers of gru" else RecurrentPPO
    check(
        model_of(policy, observations, actions, algorithm),
        tmp_path / "policy.onnx",
        steps=STEPS,
        n_envs=3,
    )


def test_the_critic_is_left_behind(tmp_path: Path) -> None:
    model_of("sb3-contrib's", "Box", "Discrete").export(tmp_path / "policy.onnx", format="onnx")
    weights = [weight.name for weight in onnx.load(tmp_path / "policy.onnx").graph.initializer]
    assert any("cores.0" in name for name in weights)
    assert not any("cores.1" in name for name in weights)


def test_an_unknown_format_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="format must be 'safetensors' or 'onnx', got 'tflite'"):
        model_of("rnn", "Box", "Discrete").export(tmp_path, format="tflite")


class OwnForward(LstmPolicy):
    def forward(self, *args: Any, **kwargs: Any) -> Any:
        actions, *others = super().forward(*args, **kwargs)
        return torch.full_like(actions, 2), *others


class OwnPredict(LstmPolicy):
    def _predict(self, *args: Any, **kwargs: Any) -> Any:
        actions, state = super()._predict(*args, **kwargs)
        return torch.full_like(actions, 2), state


class OwnDistribution(LstmPolicy):
    def _get_action_dist_from_latent(self, latent_pi: torch.Tensor) -> Any:
        return self.action_dist.proba_distribution(-3 * self.action_net(latent_pi))


class OwnGetDistribution(LstmPolicy):
    def get_distribution(self, *args: Any, **kwargs: Any) -> Any:
        distribution, state = super().get_distribution(*args, **kwargs)
        return self.action_dist.proba_distribution(-3 * distribution.distribution.logits), state


@pytest.mark.parametrize("policy", [OwnForward, OwnPredict, OwnDistribution, OwnGetDistribution])
def test_whatever_is_overridden_acts_in_the_onnx_model_as_in_predict(
    policy: Any, tmp_path: Path
) -> None:
    kwargs = {"hidden_size": 4, "critic_core": "own"}
    model = RecurrentPPO(
        policy,
        Random(BOX, spaces.Discrete(4)),
        n_steps=8,
        seed=0,
        device="cpu",
        policy_kwargs=kwargs,
    )
    check(model, tmp_path / "policy.onnx", steps=20, n_envs=3)


def fail(*_: Any) -> None:
    raise ZeroDivisionError


@pytest.mark.parametrize("actions", ["Discrete", "Box, squashed"])
@pytest.mark.parametrize("fails", [False, True])
def test_an_export_changes_nothing(
    actions: str, fails: bool, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    name = "mnm-p" if actions == "Discrete" else "two layers of gru"
    model = model_of(name, "Box", actions).learn(16)
    model.policy.set_training_mode(True)
    model.policy.action_net.eval()
    if fails:
        model.policy.action_net.register_forward_hook(fail)

    def now() -> Any:
        space = model.observation_space.np_random.bit_generator.state
        rng = torch.get_rng_state().tolist(), np.random.get_state()[1].tolist(), space  # noqa: NPY002
        return (
            rng,
            [module.training for module in model.policy.modules()],
            pickle.dumps(model.policy.state_dict()),
        )

    before = now()
    capfd.readouterr()
    with (
        pytest.raises(Exception, match="Failed to export") if fails else nullcontext(),
        warnings.catch_warnings(),
    ):
        warnings.simplefilter("error")
        model.export(tmp_path / "policy.onnx", format="onnx")
    assert capfd.readouterr() == ("", "")
    assert now() == before
    # nothing without numbers was left behind
    for a_copy in (deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert all(part.isfinite().all() for part in a_copy.policy.core.diagnostics.values())
    model.save(tmp_path / "model.zip")
    if not fails:
        model.learn(16)


def test_a_number_of_environments_that_is_taken_for_a_constant_is_told(tmp_path: Path) -> None:
    class Fixed(RnnCore):
        def step(self, x: torch.Tensor, state: Any) -> Any:
            outputs, state, meta_loss = super().step(x, state)
            return outputs + torch.zeros(len(x), 1), state, meta_loss

    kwargs = {"core_class": Fixed, "hidden_size": 4}
    model = RecurrentPPO(
        "RecurrentActorCriticPolicy",
        Random(BOX, spaces.Discrete(4)),
        n_steps=8,
        policy_kwargs=kwargs,
    )
    with pytest.raises(ValueError, match=r"one number of environments only.*len\(tensor\)"):
        model.export(tmp_path / "policy.onnx", format="onnx")
    assert not [*tmp_path.iterdir()]


def test_where_a_model_is_written(tmp_path: Path) -> None:
    model = model_of("rnn", "Box", "Discrete")
    # as for the other format, and without a suffix
    model.export(tmp_path / "new" / "directory" / "policy", format="onnx")
    assert (tmp_path / "new" / "directory" / "policy").is_file()
    with pytest.raises(IsADirectoryError, match="the ONNX model is one file"):
        model.export(tmp_path, format="onnx")


def test_one_model_serves_any_batch_and_any_key(tmp_path: Path) -> None:
    space = spaces.Dict(
        [
            ("z/a b", BOX),
            ("episode_start", spaces.Discrete(3)),
            ("state h", spaces.MultiBinary([2, 3])),
        ]
    )
    model = RecurrentPPO(
        "RnnPolicy", Random(space, spaces.Discrete(4)), n_steps=8, device="cpu", seed=0
    )
    model.export(tmp_path / "policy.onnx", format="onnx")
    for n_envs in (1, 2, 7):
        compare(model, tmp_path / "policy.onnx", steps=10, n_envs=n_envs)

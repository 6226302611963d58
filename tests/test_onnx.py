"""A policy as an ONNX model acts as predict does, step by step, with the state carried over and episodes beginning at any time."""

import os
from itertools import cycle, product
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
from gymnasium import spaces

from mnm_rl import RecurrentA2C, RecurrentPPO
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
    "Box, squashed": (spaces.Box(-2, 3, (2,)), {"use_sde": True, "policy_kwargs": {"squash_output": True}}),
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
    kwargs = kwargs | {"lstm_hidden_size" if name.endswith("LstmPolicy") and name != "LstmPolicy" else "hidden_size": 8}
    arguments = arguments | {"policy_kwargs": kwargs | arguments.get("policy_kwargs", {})}
    return algorithm(name, Random(OBSERVATIONS[observations], space), n_steps=8, seed=0, device="cpu", **arguments)


def check(model: Any, path: Path, steps: int, n_envs: int = 1) -> None:
    """The ONNX model and predict, over some steps with resets."""
    model.export(path, format="onnx")
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    assert session.get_modelmeta().custom_metadata_map["policy"] == type(model.policy).__name__
    inputs = {i.name: i for i in session.get_inputs()}
    state = {name: np.zeros([n_envs, *i.shape[1:]], np.float32) for name, i in inputs.items() if name.startswith("state_")}
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
            np.testing.assert_allclose(action, wanted, rtol=1e-4, atol=1e-5)
            assert model.action_space.contains(action[0].astype(np.float32))
        else:
            np.testing.assert_array_equal(action, wanted)
        assert len(numbers) == n_envs


ALL = "ONNX_PRODUCT" in os.environ
"""Every policy with all spaces, for 1,000 steps: an hour of one core. Otherwise, some policies, each with one pair of spaces."""
STEPS = 1_000 if ALL else 100
FEW = "mnm-p", "mnm-g, two heads, replay", "plastic", "two layers of gru", "salu", "ntm", "sb3-contrib's"
CASES = [*product(POLICIES, OBSERVATIONS, ACTIONS)] if ALL else [*zip(FEW, cycle(OBSERVATIONS), cycle(ACTIONS), strict=False)]


@pytest.mark.parametrize(("policy", "observations", "actions"), CASES)
def test_an_onnx_model_acts_as_predict_does(policy: str, observations: str, actions: str, tmp_path: Path) -> None:
    algorithm = RecurrentA2C if policy == "two layers of gru" else RecurrentPPO
    check(model_of(policy, observations, actions, algorithm), tmp_path / "policy.onnx", steps=STEPS, n_envs=3)


def test_an_unknown_format_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="format must be 'safetensors' or 'onnx', got 'tflite'"):
        model_of("rnn", "Box", "Discrete").export(tmp_path, format="tflite")

"""Every policy on every space and every vectorization: it learns, is saved, predicts, repeats
itself, keeps environments apart."""

from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv
from stable_baselines3 import A2C
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor, FlattenExtractor, NatureCNN
from stable_baselines3.common.vec_env import DummyVecEnv, SubprocVecEnv, VecFrameStack, VecMonitor
from torch import Tensor

from mnm_rl import RecurrentA2C, RecurrentPPO
from mnm_rl.algorithms.on_policy import RecurrentOnPolicyAlgorithm
from tests.counting import Random
from tests.policies import POLICIES, ROUNDING, a2c, roll_out, small

OBSERVATIONS: dict[str, spaces.Space[Any]] = {
    "vector": spaces.Box(-1, 1, (3,)),
    "double vector": spaces.Box(-1, 1, (3,), np.float64),
    "matrix": spaces.Box(-1, 1, (2, 3)),
    "image": spaces.Box(0, 255, (36, 40, 1), np.uint8),
    "image, channels first": spaces.Box(0, 255, (3, 36, 36), np.uint8),
    "small image": spaces.Box(0, 255, (7, 7, 3), np.uint8),
    "discrete": spaces.Discrete(5),
    "multi-discrete": spaces.MultiDiscrete([3, 4]),
    "multi-binary": spaces.MultiBinary(4),
    "dict": spaces.Dict(
        {
            "a": spaces.Box(-1, 1, (2,)),
            "b": spaces.Discrete(3),
            "c": spaces.Box(0, 255, (7, 7, 3), np.uint8),
        }
    ),
}
NESTED: dict[str, spaces.Space[Any]] = {
    "nested dict": spaces.Dict(
        {"a": spaces.Box(-1, 1, (2,)), "b": spaces.Dict({"c": spaces.Discrete(3)})}
    ),
    "tuple": spaces.Tuple((spaces.Box(-1, 1, (2,)), spaces.Discrete(3))),
}
ACTIONS: dict[str, spaces.Space[Any]] = {
    "discrete": spaces.Discrete(3),
    "box": spaces.Box(-1, 1, (2,)),
    "matrix": spaces.Box(
        np.array([[-1, 0], [-2, 1]], np.float32), np.array([[1, 1], [2, 3]], np.float32)
    ),
    "multi-discrete": spaces.MultiDiscrete([2, 3]),
    "multi-binary": spaces.MultiBinary(2),
}
VECTORIZATIONS: dict[str, Any] = {
    "dummy": DummyVecEnv,
    "subproc": partial(SubprocVecEnv, start_method="fork"),
    "sync, next step": SyncVectorEnv,
    "sync, same step": partial(SyncVectorEnv, autoreset_mode=AutoresetMode.SAME_STEP),
    "sync, disabled": partial(SyncVectorEnv, autoreset_mode=AutoresetMode.DISABLED),
    "async": AsyncVectorEnv,
}
# All pairs of a policy with a space or a vectorization, and all observations with all actions.
CASES = [
    *product(POLICIES, OBSERVATIONS, ["discrete"], ["dummy"]),
    *product(POLICIES, ["vector"], list(ACTIONS)[1:], ["dummy"]),
    *product(POLICIES, ["dict"], ["box"], list(VECTORIZATIONS)[1:]),
    *product(["lstm"], list(OBSERVATIONS)[1:], list(ACTIONS)[1:], ["sync, same step"]),
]
CASES_OF_PPO = [
    *product(["lstm"], OBSERVATIONS, ["box"], ["dummy"]),
    *product(["mnm-p"], ["dict"], ACTIONS, ["sync, next step"]),
]


def environments(
    observations: str, actions: str, vectorization: str, seeds: tuple[int, ...] = (0, 1)
) -> Any:
    space = (OBSERVATIONS | NESTED)[observations]
    return VECTORIZATIONS[vectorization](
        [partial(Random, space, ACTIONS[actions], seed) for seed in seeds]
    )


def build(policy: str, env: Any, n_steps: int = 10) -> RecurrentA2C:
    return a2c(policy, env, n_steps=n_steps)


def play(
    model: RecurrentOnPolicyAlgorithm, observations: list[Any], steps: int = 5
) -> tuple[list[Any], Any]:
    actions, state = [], None
    for t in range(steps):
        action, state = model.predict(observations[t], state, deterministic=True)
        actions.append(action)
    return actions, state


@pytest.mark.parametrize(
    ("algorithm", "policy", "observations", "actions", "vectorization"),
    [*((RecurrentA2C, *case) for case in CASES), *((RecurrentPPO, *case) for case in CASES_OF_PPO)],
)
def test_learns_saves_predicts_and_repeats_itself(
    algorithm: Any, policy: str, observations: str, actions: str, vectorization: str, tmp_path: Path
) -> None:
    parameters = []
    for _ in range(2):
        env = environments(observations, actions, vectorization)
        model = small(algorithm, policy, env, n_steps=10)
        before = model.policy.parameters_to_vector()
        model.learn(60)
        parameters.append(model.policy.parameters_to_vector())
        env.close()
    assert np.abs(before - parameters[0]).max() > 1e-3  # it learns
    np.testing.assert_allclose(*parameters, **ROUNDING)  # a seed repeats it

    model.save(tmp_path / "model")
    model.export(tmp_path / "exported")
    space = OBSERVATIONS[observations]
    space.seed(5)
    singles = [space.sample() for _ in range(5)]
    made, state = play(model, singles)
    assert all(model.action_space.contains(action) for action in made)
    assert state is not None
    for again in (
        algorithm.load(tmp_path / "model", device="cpu"),
        algorithm.from_pretrained(tmp_path / "exported", device="cpu"),
    ):
        assert again.num_timesteps == 60
        torch.testing.assert_close(play(again, singles), (made, state), **ROUNDING)


@pytest.mark.parametrize("observations", NESTED)
@pytest.mark.parametrize("vectorization", ["sync, next step", "sync, disabled", "async", "alone"])
def test_nested_observations_are_flattened(observations: str, vectorization: str) -> None:
    space = NESTED[observations]
    env = (
        Random(space, ACTIONS["discrete"])
        if vectorization == "alone"
        else environments(observations, "discrete", vectorization)
    )
    model = build("mnm-p", env).learn(40)
    assert model.observation_space == spaces.flatten_space(space)
    observation = spaces.flatten(space, space.sample())
    assert model.action_space.contains(model.predict(observation)[0])
    env.close()


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize(
    ("observations", "actions"),
    [("vector", "box"), ("image", "discrete"), ("dict", "multi-binary")],
)
def test_no_environment_sees_another(policy: str, observations: str, actions: str) -> None:
    """What one environment shows changes nothing for its neighbours; their episodes end at
    different steps.

    States are the same to the bit where all of a step is in a kernel of ours, inputs included, and
    no convolution before it.
    """
    rollouts, states = [], []
    for seeds in ((3, 4, 5), (3, 9, 5)):
        model = build(policy, environments(observations, actions, "dummy", seeds), n_steps=20)
        roll_out(model)
        buffer = model.rollout_buffer
        rollouts.append((buffer.values, buffer.log_probs, buffer.actions, buffer.advantages))
        states.append([part.numpy() for part in model._last_state or ()])
    for one, other in zip(*rollouts, strict=True):
        np.testing.assert_allclose(one[:, [0, 2]], other[:, [0, 2]], **ROUNDING)
    to_the_bit = policy in ("mnm-g", "mnm-p", "lstm") and observations != "image"
    for one, other in zip(*states, strict=True):
        np.testing.assert_allclose(
            one[[0, 2]], other[[0, 2]], **(dict(rtol=0) if to_the_bit else ROUNDING)
        )
    assert np.abs(rollouts[0][0][:, 1] - rollouts[1][0][:, 1]).max() > 1e-3


@pytest.mark.parametrize("observations", ["vector", "image"])
def test_stacked_frames(observations: str) -> None:
    model = build(
        "mnm-p", VecFrameStack(environments(observations, "discrete", "dummy"), n_stack=3)
    ).learn(40)
    assert model.observation_space.shape is not None
    assert model.observation_space.shape != OBSERVATIONS[observations].shape


def test_monitored_environments() -> None:
    model = build("lstm", VecMonitor(environments("vector", "discrete", "subproc"))).learn(60)
    assert model.ep_info_buffer
    assert {episode["l"] for episode in model.ep_info_buffer} == {7, 6}
    assert model.env is not None
    model.env.close()


def test_arguments_of_the_policy_mean_what_they_mean_in_stable_baselines3() -> None:
    env = environments("vector", "box", "dummy")
    shared: dict[str, Any] = {
        "net_arch": {"pi": [5], "vf": [6, 7]},
        "activation_fn": torch.nn.ReLU,
        "ortho_init": False,
        "features_extractor_class": FlattenExtractor,
        "log_std_init": -1.0,
        "optimizer_class": torch.optim.Adam,
        "optimizer_kwargs": {"eps": 1e-4},
    }
    ours = RecurrentA2C(
        "LstmPolicy", env, policy_kwargs=shared | {"hidden_size": 3}, device="cpu"
    ).policy
    theirs = A2C("MlpPolicy", env, policy_kwargs=shared, device="cpu").policy
    # the LSTM is as wide as the observation
    assert str(ours.mlp_extractor) == str(theirs.mlp_extractor)
    assert str(ours.action_net) == str(theirs.action_net)
    torch.testing.assert_close(ours.log_std, theirs.log_std)
    assert str(ours.optimizer) == str(theirs.optimizer)

    image = environments("image", "discrete", "dummy")
    extractor = {
        "features_extractor_kwargs": {"features_dim": 9},
        "normalize_images": False,
        "features_extractor_class": NatureCNN,
    }
    model = RecurrentA2C(
        "LstmPolicy",
        image,
        policy_kwargs={"features_extractor_kwargs": {"features_dim": 9}},
        device="cpu",
    )
    assert model.policy.features_dim == 9
    assert model.policy.normalize_images
    with pytest.raises(AssertionError, match="NatureCNN"):
        RecurrentA2C("LstmPolicy", env, policy_kwargs=extractor, device="cpu")
    with pytest.raises(
        ValueError,
        match="share_features_extractor=False is not possible: actor and critic share one memory",
    ):
        RecurrentA2C(
            "LstmPolicy", env, policy_kwargs={"share_features_extractor": False}, device="cpu"
        )


@pytest.mark.parametrize("observations", ["discrete", "multi-discrete", "small image", "dict"])
def test_an_extractor_of_ones_own_sees_the_same_shapes_in_rollout_and_update(
    observations: str,
) -> None:
    seen: set[str] = set()

    class Watching(BaseFeaturesExtractor):
        def __init__(self, space: spaces.Space[Any]) -> None:
            super().__init__(space, 1)

        def forward(self, observation: Any) -> Tensor:
            parts = observation if isinstance(observation, dict) else {"": observation}
            seen.add(str({key: tuple(part.shape[1:]) for key, part in parts.items()}))
            return torch.zeros(len(next(iter(parts.values()))), 1)

    env = environments(observations, "discrete", "dummy")
    RecurrentA2C(
        "LstmPolicy", env, policy_kwargs={"features_extractor_class": Watching}, device="cpu"
    ).learn(30)
    assert len(seen) == 1


REFUSED: list[tuple[spaces.Space[Any], spaces.Space[Any], str]] = [
    (
        spaces.Text(5),
        ACTIONS["discrete"],
        r"observation space Text.*cannot be used.*TransformObservation",
    ),
    (
        spaces.Dict({"a": spaces.Text(5)}),
        ACTIONS["discrete"],
        r"observation space Dict.*cannot be used.*FilterObservation",
    ),
    (
        spaces.Sequence(spaces.Discrete(2)),
        ACTIONS["discrete"],
        r"observation space Sequence.*TransformObservation",
    ),
    (
        spaces.Tuple((spaces.Text(5),)),
        ACTIONS["discrete"],
        r"observation space Tuple.*cannot be used",
    ),
    (spaces.Box(0, 1, ()), ACTIONS["discrete"], r"Box.*ReshapeObservation"),
    (spaces.Dict({"a": spaces.Box(0, 1, (0,))}), ACTIONS["discrete"], r"Box.*leave it out"),
    (spaces.Dict({}), ACTIONS["discrete"], r"nothing in it"),
    (
        spaces.MultiDiscrete([3, 4], start=[0, 1]),
        ACTIONS["discrete"],
        r"MultiDiscrete.*shift it to start at 0",
    ),
    (
        OBSERVATIONS["vector"],
        spaces.MultiDiscrete([3, 4], start=[0, 1]),
        r"MultiDiscrete.*shift it to start at 0",
    ),
    (
        spaces.Discrete(3, start=1),
        ACTIONS["discrete"],
        r"Discrete\(3, start=1\) cannot be used.*TransformObservation",
    ),
    (
        OBSERVATIONS["vector"],
        spaces.Discrete(3, start=1),
        r"Discrete\(3, start=1\) cannot be used.*TransformAction",
    ),
    (
        OBSERVATIONS["vector"],
        spaces.MultiDiscrete([[2, 3]]),
        r"make it one-dimensional with TransformAction",
    ),
    (
        OBSERVATIONS["vector"],
        spaces.MultiBinary([2, 3]),
        r"make it one-dimensional with TransformAction",
    ),
    (
        OBSERVATIONS["vector"],
        spaces.Box(-np.inf, np.inf, (1,)),
        r"give it bounds with gymnasium\.wrappers\.RescaleAction",
    ),
    (OBSERVATIONS["vector"], spaces.Text(5), r"action space Text.*TransformAction"),
]


@pytest.mark.parametrize(("observation_space", "action_space", "message"), REFUSED)
@pytest.mark.parametrize("vector", [False, True])
def test_spaces_that_cannot_be_used_are_refused_by_name(
    observation_space: spaces.Space[Any],
    action_space: spaces.Space[Any],
    message: str,
    vector: bool,
) -> None:
    env: Any = Random(observation_space, action_space)
    if vector:
        env = SyncVectorEnv([partial(Random, observation_space, action_space)])
    with pytest.raises(ValueError, match=message):
        build("lstm", env)


@pytest.mark.parametrize("vectorization", ["dummy", "sync, same step"])
def test_nested_observations_that_cannot_be_flattened_from_outside_are_refused(
    vectorization: str,
) -> None:
    env = environments("dict", "discrete", vectorization)
    # DummyVecEnv cannot even be made of them
    env.observation_space = env.single_observation_space = NESTED["nested dict"]
    with pytest.raises(
        ValueError, match="FlattenObservation, around each environment, makes one vector"
    ):
        build("lstm", env)

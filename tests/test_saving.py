"""Models as files: save and load, and export and from_pretrained, which runs no code from the
files."""

import json
import os
import pickle
import resource
import time
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces
from stable_baselines3 import A2C
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.torch_layers import CombinedExtractor, FlattenExtractor, NatureCNN
from stable_baselines3.common.utils import LinearSchedule

from agents import AGENTS
from mnm_rl import OtherSpacesError, RecurrentA2C, RecurrentPPO, __version__
from mnm_rl.algorithms.on_policy import RecurrentOnPolicyAlgorithm
from mnm_rl.algorithms.pretrained import _shapes, _wanted_shapes
from tests.counting import Counting, Random, Recall
from tests.policies import ROUNDING, small


def model(algorithm: Any = RecurrentA2C, **kwargs: Any) -> Any:
    policy_kwargs = {"hidden_size": 6, **kwargs.pop("policy_kwargs", {})}
    return small(algorithm, "mnm-p", make_vec_env(Recall, n_envs=2), policy_kwargs, **kwargs)


def assert_same(one: RecurrentOnPolicyAlgorithm, other: RecurrentOnPolicyAlgorithm) -> None:
    observation = np.ones((3, 3), np.float32)
    played, again = (either.predict(observation, deterministic=True) for either in (one, other))
    torch.testing.assert_close(again, played, **ROUNDING)


@pytest.mark.parametrize("way", ["save", "export"])
def test_a_model_goes_on_training_in_other_environments(
    algorithm: Any, way: str, tmp_path: Path
) -> None:
    trained = model(
        algorithm, n_steps=6, gamma=0.5, policy_kwargs={"optimizer_class": torch.optim.Adam}
    ).learn(48)
    env = make_vec_env(Recall, n_envs=5)
    if way == "save":
        trained.save(tmp_path / "model")
        again = algorithm.load(tmp_path / "model", env=env, device="cpu")
    else:
        trained.export(tmp_path / "model")
        again = algorithm.from_pretrained(tmp_path / "model", env, device="cpu")
    assert_same(trained, again)
    assert (again.n_envs, again.n_steps, again.gamma, again.num_timesteps) == (5, 6, 0.5, 48)
    assert isinstance(again.policy.optimizer, torch.optim.Adam)
    again.learn(60, reset_num_timesteps=False)
    assert again.num_timesteps == 48 + 60


def test_training_goes_on_as_if_it_had_not_been_interrupted(algorithm: Any, tmp_path: Path) -> None:
    """Weights and optimizer are all there: from the same seed and new episodes, both learn the
    same."""
    interrupted = model(algorithm, n_steps=6).learn(48)
    interrupted.save(tmp_path / "model")
    loaded = algorithm.load(tmp_path / "model", env=make_vec_env(Recall, n_envs=2), device="cpu")
    interrupted._last_obs, interrupted._last_state = None, None  # new episodes for both
    for either in (interrupted, loaded):
        either.set_random_seed(7)
        either.learn(48, reset_num_timesteps=False)
    np.testing.assert_allclose(
        interrupted.policy.parameters_to_vector(), loaded.policy.parameters_to_vector(), **ROUNDING
    )


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("way", ["save", "export"])
def test_a_model_moves_between_devices(way: str, tmp_path: Path) -> None:
    here = model().learn(20)
    if way == "save":
        here.save(tmp_path / "model")
        there = RecurrentA2C.load(
            tmp_path / "model", env=make_vec_env(Recall, n_envs=2), device="cuda"
        )
    else:
        here.export(tmp_path / "model")
        there = RecurrentA2C.from_pretrained(
            tmp_path / "model", make_vec_env(Recall, n_envs=2), device="cuda"
        )
    assert there.policy.device.type == "cuda"
    observation = np.ones((3, 3), np.float32)
    for one, other in zip(
        here.predict(observation)[1] or (), there.predict(observation)[1] or (), strict=True
    ):
        np.testing.assert_allclose(one, other, rtol=1e-3, atol=1e-4)
    there.learn(20, reset_num_timesteps=False).save(tmp_path / "back")
    assert RecurrentA2C.load(tmp_path / "back", device="cpu").policy.device.type == "cpu"


@pytest.mark.parametrize(
    "space",
    [
        spaces.Box(np.array([-np.inf, -1.5], np.float32), np.array([0.1, np.inf], np.float32)),
        spaces.Box(-np.inf, np.inf, (2, 3), np.float64),
        spaces.Box(0, 255, (36, 36, 1), np.uint8),
        spaces.Box(np.iinfo(np.int64).min, np.iinfo(np.int64).max, (2,), np.int64),
        spaces.MultiDiscrete([3, 4]),
        spaces.MultiBinary([2, 2]),
        spaces.MultiBinary(3),
        spaces.Dict({"z": spaces.Discrete(3), "a": spaces.Box(-1, 1, (2,))}),
    ],
    ids=str,
)
def test_an_export_keeps_the_spaces(space: spaces.Space[Any], tmp_path: Path) -> None:
    action_space = spaces.Box(np.array([-1, 0], np.float32), np.array([1, 0.3], np.float32))
    RecurrentA2C(
        "LstmPolicy", Random(space, action_space), policy_kwargs={"hidden_size": 4}, device="cpu"
    ).export(tmp_path)
    again = RecurrentA2C.from_pretrained(tmp_path, device="cpu")
    env = RecurrentA2C(
        "LstmPolicy", Random(space, action_space), policy_kwargs={"hidden_size": 4}, device="cpu"
    ).get_env()
    assert env is not None
    assert again.observation_space == env.observation_space
    assert again.action_space == action_space
    json.loads(
        (tmp_path / "config.json").read_text(),
        parse_constant=lambda word: pytest.fail(f"{word} is not JSON"),
    )


def test_an_export_keeps_classes_by_name_and_asks_for_what_it_cannot_keep(
    algorithm: Any, tmp_path: Path
) -> None:
    class Own(FlattenExtractor):
        pass

    own = {
        "features_extractor_class": Own,
        "activation_fn": torch.nn.ReLU,
        "net_arch": {"pi": [4], "vf": []},
    }
    trained = model(algorithm, learning_rate=lambda progress: 1e-3 * progress, policy_kwargs=own)
    trained.export(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["not_kept"] == ["features_extractor_class", "learning_rate"]
    assert config["policy_kwargs"]["activation_fn"] == {"class": "torch.nn.ReLU"}
    with pytest.raises(
        ValueError,
        match=(
            r"features_extractor_class \(.*\.Own\), learning_rate of the exported model.*give "
            r"them again"
        ),
    ):
        algorithm.from_pretrained(tmp_path, device="cpu")
    again = algorithm.from_pretrained(
        tmp_path, device="cpu", learning_rate=1e-3, policy_kwargs={"features_extractor_class": Own}
    )
    assert_same(trained, again)
    assert str(again.policy) == str(trained.policy)


def test_an_export_keeps_a_learning_rate_that_falls(algorithm: Any, tmp_path: Path) -> None:
    trained = model(algorithm, learning_rate=LinearSchedule(1e-3, 1e-4, 0.5))
    trained.export(tmp_path)
    again = algorithm.from_pretrained(tmp_path, device="cpu")
    assert [again.lr_schedule(left) for left in (1, 0.75, 0.25)] == pytest.approx(
        [1e-3, 5.5e-4, 1e-4]
    )


def test_from_pretrained_runs_nothing(tmp_path: Path) -> None:
    """Names of classes outside of the list, and arguments that are no hyperparameters, are refused;
    weights are not pickles."""
    model().export(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())

    def refuses(message: str, **changes: Any) -> None:
        (tmp_path / "config.json").write_text(json.dumps(config | changes))
        with pytest.raises(ValueError, match=message):
            RecurrentA2C.from_pretrained(tmp_path, device="cpu")

    for name in ("os.system", "torch.nn.modules.module.Module", "torch.load", "builtins.eval"):
        refuses(f"there is no class '{name}'", policy_kwargs={"activation_fn": {"class": name}})
    refuses("does not know env", algorithm={"env": "os:path"})
    refuses("does not know tensorboard_log", algorithm={"tensorboard_log": "/tmp/x"})
    refuses("does not know 'os.system'", policy="os.system")
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "model.safetensors").write_bytes(pickle.dumps(print))
    with pytest.raises(
        ValueError, match=r"model\.safetensors does not fit config\.json or is damaged"
    ):
        RecurrentA2C.from_pretrained(tmp_path, device="cpu")


def test_an_export_that_cannot_be_read_says_why(tmp_path: Path) -> None:
    with pytest.raises(
        FileNotFoundError, match=r"holds no exported model: there is no config\.json"
    ):
        RecurrentA2C.from_pretrained(tmp_path)
    model().export(tmp_path)
    with pytest.raises(OtherSpacesError, match="Observation spaces do not match"):
        RecurrentA2C.from_pretrained(tmp_path, make_vec_env(Counting), device="cpu")
    config = json.loads((tmp_path / "config.json").read_text())
    for text, message in (
        ("{", "cannot be read"),
        ("[]", "it does not say its format"),
        (
            json.dumps(config | {"format": 9, "mnm_rl": "7.0"}),
            f"of format 9, written by mnm_rl 7.0; this is mnm_rl {__version__}",
        ),
        (json.dumps({"format": 1}), "it has no 'policy'"),
        (
            json.dumps(config | {"observation_space": {"kind": "Graph"}}),
            "there is no space 'Graph'",
        ),
        (json.dumps(config | {"policy_kwargs": {"hidden_size": 7}}), "does not fit config.json"),
    ):
        (tmp_path / "config.json").write_text(text)
        with pytest.raises(ValueError, match=message):
            RecurrentA2C.from_pretrained(tmp_path, device="cpu")
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(
        FileNotFoundError, match=r"holds no weights: there is no model\.safetensors"
    ):
        RecurrentA2C.from_pretrained(tmp_path, device="cpu")


def test_an_export_keeps_the_order_of_a_dict(tmp_path: Path) -> None:
    space = spaces.Dict([("z", spaces.Box(-1, 1, (2,))), ("a", spaces.Box(-1, 1, (2,)))])
    combined = {"features_extractor_class": CombinedExtractor, "hidden_size": np.int64(4)}
    trained = RecurrentA2C(
        "LstmPolicy", Random(space, spaces.Discrete(2)), policy_kwargs=combined, device="cpu"
    )
    trained.export(tmp_path)
    again = RecurrentA2C.from_pretrained(tmp_path, device="cpu", policy_kwargs=None)
    observation = {"z": np.ones(2, np.float32), "a": -np.ones(2, np.float32)}
    torch.testing.assert_close(
        again.predict(observation)[1], trained.predict(observation)[1], **ROUNDING
    )


@pytest.mark.parametrize(
    "change",
    [
        {"policy": ["MnmPolicy"]},
        {"num_timesteps": float("inf")},
        {"policy_kwargs": {"foo": 1}},
        {"policy_kwargs": {"core_class": {"class": "torch.nn.ReLU"}}},
        {"policy_kwargs": {"hidden_size": "8"}},
        {"policy_kwargs": {"optimizer_class": {"class": "torch.nn.ReLU"}}},
        {"algorithm": {"n_steps": 0}},
        {"algorithm": {"learning_rate": "x"}},
        {"action_space": {"kind": "Dict", "spaces": {}}},
        {"not_kept": "../x"},
    ],
    ids=str,
)
def test_a_description_that_makes_no_sense_is_refused(
    change: dict[str, Any], tmp_path: Path
) -> None:
    model().export(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | change))
    with pytest.raises(
        ValueError, match=r"config\.json (cannot be read|describes a model that cannot be built): "
    ):
        RecurrentA2C.from_pretrained(tmp_path, device="cpu")


def test_weights_that_are_not_numbers_are_refused(tmp_path: Path) -> None:
    broken = model()
    broken.policy.value_net.bias.data.fill_(float("nan"))
    broken.export(tmp_path)
    with pytest.raises(ValueError, match="weights that are NaN or infinite"):
        RecurrentA2C.from_pretrained(tmp_path, device="cpu")


def test_an_export_is_not_loaded_as_a_file(tmp_path: Path) -> None:
    model().export(tmp_path)
    with pytest.raises(ValueError, match="what export wrote is read by from_pretrained"):
        RecurrentA2C.load(tmp_path)


def test_only_the_policies_of_the_library_are_exported(tmp_path: Path) -> None:
    from mnm_rl import LstmPolicy

    class Own(LstmPolicy):
        pass

    own = RecurrentA2C(Own, make_vec_env(Recall), device="cpu")
    with pytest.raises(
        ValueError, match=r"only the policies .*, MnmPolicy, .* can be exported; save\(\) keeps Own"
    ):
        own.export(tmp_path)


def test_a_file_that_is_no_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        RecurrentA2C.load(tmp_path / "nothing")
    (tmp_path / "text.zip").write_text("hello")
    with pytest.raises(
        ValueError,
        match=f"text is not a model that mnm_rl {__version__} can load: File is not a zip file",
    ):
        RecurrentA2C.load(tmp_path / "text")
    with zipfile.ZipFile(tmp_path / "other.zip", "w") as archive:
        archive.writestr("notes.txt", "hello")
    A2C("MlpPolicy", "CartPole-v1", device="cpu").save(tmp_path / "a2c")
    for name, reason in (
        ("other", "there is no data of a model in it"),
        ("a2c", "stable_baselines3 saved it"),
    ):
        with pytest.raises(
            ValueError,
            match=f"{name} is not a model that mnm_rl {__version__} can load: .*{reason}",
        ):
            RecurrentA2C.load(tmp_path / name, device="cpu")


def test_a_model_of_another_version_is_refused(tmp_path: Path) -> None:
    """Such as one whose core has other parameters."""
    old = model()
    old.policy.core.register_parameter("gone", torch.nn.Parameter(torch.zeros(1)))
    old.save(tmp_path / "old")
    with pytest.raises(
        ValueError, match=r"old is not a model that mnm_rl .* can load: .*gone"
    ) as error:
        RecurrentA2C.load(tmp_path / "old", device="cpu")
    assert "saved by" not in str(error.value)
    old.mnm_rl_version = "0.0.9"
    old.save(tmp_path / "old")
    with pytest.raises(
        ValueError,
        match=r"old is not a model that mnm_rl .* can load: .* \(saved by version 0\.0\.9\)",
    ):
        RecurrentA2C.load(tmp_path / "old", device="cpu")


@pytest.mark.parametrize("way", ["saved", "exported"])
def test_models_of_version_0_1_0_are_read(way: str) -> None:
    """Written by that version: MNM-p on CartPole, 40 steps, and what it then makes of three
    observations."""
    directory, env = (
        Path(__file__).parent / "data" / "version-0.1.0",
        make_vec_env("CartPole-v1", n_envs=3),
    )
    if way == "saved":
        model = RecurrentA2C.load(directory / "saved.zip", env, device="cpu")
    else:
        model = RecurrentA2C.from_pretrained(directory / "exported", env, device="cpu")
    state: Any = None
    for _ in range(3):
        _, state = model.predict(np.ones((1, 4), np.float32), state)
    np.testing.assert_allclose(state[0], [[0.4913317, 0.1356157, 0.1046777, -0.2392184]], rtol=1e-5)
    model.learn(30, reset_num_timesteps=False)
    assert model.num_timesteps == 70
    assert (model.policy.popart.std == 1) == (way == "saved")  # whose training goes on as it began


def test_a_saved_model_says_its_version(tmp_path: Path) -> None:
    model().save(tmp_path / "model")
    with zipfile.ZipFile(tmp_path / "model.zip") as archive:
        assert json.loads(archive.read("data"))["mnm_rl_version"] == __version__


def test_an_export_names_its_algorithm(tmp_path: Path) -> None:
    class Other(RecurrentOnPolicyAlgorithm):
        def __init__(self, policy: Any, env: Any, clip_range: float = 0.2, **kwargs: Any) -> None:
            self.clip_range = clip_range
            shared: dict[str, Any] = dict(
                gamma=0.9, gae_lambda=1.0, vf_coef=0.5, max_grad_norm=0.5, sde_sample_freq=-1
            )
            super().__init__(
                policy, env, learning_rate=1e-3, ent_coef=0.0, use_sde=False, **shared, **kwargs
            )

    arguments: dict[str, Any] = dict(
        clip_range=0.3, n_steps=4, normalize_advantage=True, meta_coef=1.0, device="cpu"
    )
    Other("LstmPolicy", make_vec_env(Recall), **arguments).export(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["algorithm"]["clip_range"] == 0.3
    assert Other.from_pretrained(tmp_path, device="cpu").clip_range == 0.3
    with pytest.raises(
        ValueError,
        match=r"was exported by Other, not RecurrentA2C; read it with Other\.from_pretrained",
    ):
        RecurrentA2C.from_pretrained(tmp_path, device="cpu")


def test_a_subclass_reads_what_its_base_class_exported(tmp_path: Path) -> None:
    class Own(RecurrentA2C):
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)

    model(gamma=0.5).export(tmp_path / "base")
    own = Own.from_pretrained(tmp_path / "base", device="cpu")
    own.export(tmp_path / "own")
    assert Own.from_pretrained(tmp_path / "own", device="cpu").gamma == own.gamma == 0.5


def test_a_model_is_not_loaded_for_environments_of_other_spaces(tmp_path: Path) -> None:
    model().save(tmp_path / "model")
    with pytest.raises(OtherSpacesError, match="Observation spaces do not match"):
        RecurrentA2C.load(tmp_path / "model", env=make_vec_env(Counting), device="cpu")


def test_an_image_policy_shares_its_extractor_and_is_exported_once(tmp_path: Path) -> None:
    env = Random(spaces.Box(0, 255, (36, 36, 1), np.uint8), spaces.Discrete(2))
    trained = RecurrentA2C("LstmPolicy", env, policy_kwargs={"hidden_size": 4}, device="cpu")
    assert isinstance(trained.policy.features_extractor, NatureCNN)
    trained.export(tmp_path)
    again = RecurrentA2C.from_pretrained(tmp_path, device="cpu")
    assert again.policy.pi_features_extractor is again.policy.features_extractor
    np.testing.assert_array_equal(
        trained.policy.parameters_to_vector(), again.policy.parameters_to_vector()
    )


@pytest.mark.parametrize(
    ("policy", "kwargs"),
    [
        ("MlpLstmPolicy", {"lstm_hidden_size": 6, "n_lstm_layers": 2}),
        (
            "MlpLstmPolicy",
            {"lstm_hidden_size": 6, "shared_lstm": True, "enable_critic_lstm": False},
        ),
        ("MnmPolicy", {"hidden_size": 6, "write_rule": "g", "critic_core": "own", "popart": True}),
        ("GruPolicy", {"hidden_size": 6, "core_layers": 2, "core_dropout": 0.5}),
    ],
)
def test_a_policy_is_saved_and_loaded_alone(
    policy: str, kwargs: dict[str, Any], tmp_path: Path
) -> None:
    """With Stable-Baselines3's ``policy.save``: all that makes the policy is an argument that it
    remembers."""
    saved = RecurrentPPO(
        policy,
        make_vec_env(Recall, n_envs=2),
        n_steps=4,
        batch_size=4,
        policy_kwargs=kwargs,
        device="cpu",
    ).policy
    saved.save(tmp_path / "policy")
    loaded = type(saved).load(tmp_path / "policy", device="cpu")
    observation = np.ones((3, 3), np.float32)
    torch.testing.assert_close(
        loaded.predict(observation, deterministic=True),
        saved.predict(observation, deterministic=True),
    )
    assert [*map(str, loaded.parameters())] == [*map(str, saved.parameters())]
    assert loaded.normalizes_returns == saved.normalizes_returns


LARGE_DESCRIPTIONS: list[dict[str, Any]] = [
    {"policy_kwargs": {"hidden_size": 20_000}},
    {"policy_kwargs": {"hidden_size": 10**15}},
    {"policy_kwargs": {"hidden_size": 6, "memory_layers": 10**9}},
    {"policy_kwargs": {"hidden_size": 6, "memory_size": 10**9}},
    {"policy_kwargs": {"hidden_size": 6, "core_layers": 10**9}},
    {"policy_kwargs": {"hidden_size": 6, "heads": 10**9}},
    {"policy_kwargs": {"hidden_size": 6, "net_arch": [10**6, 10**6]}},
    {
        "observation_space": {
            "kind": "Box",
            "shape": [300_000_000],
            "dtype": "float32",
            "low": 0,
            "high": 1,
        }
    },
    {
        "observation_space": {
            "kind": "Box",
            "shape": [4],
            "dtype": "U99999999",
            "low": "a",
            "high": "b",
        }
    },
    {"observation_space": {"kind": "MultiBinary", "n": 10**12}},
    {"observation_space": {"kind": "Discrete", "n": 10**12}},
    {"action_space": {"kind": "Discrete", "n": 10**12}},
    {"action_space": {"kind": "MultiDiscrete", "nvec": [10**12], "start": [0]}},
    {"algorithm": {"n_steps": 10**15}},
]


@pytest.mark.parametrize("change", LARGE_DESCRIPTIONS, ids=lambda change: str(change)[:60])
def test_a_description_takes_no_more_memory_and_time_than_the_weights(
    change: dict[str, Any], tmp_path: Path
) -> None:
    model().export(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | change))
    before, since = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
    with pytest.raises(ValueError, match=r"(config\.json|model\.safetensors) "):
        RecurrentA2C.from_pretrained(tmp_path, device="cpu")
    assert time.process_time() - since < 2
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 500_000  # kB


@pytest.mark.parametrize("name", AGENTS)
def test_every_core_can_be_described_without_memory(name: str, tmp_path: Path) -> None:
    """Or else its exports could not be checked before they are built."""
    agent = AGENTS[name]()
    arguments = agent.arguments()
    of_core = {
        key: arguments[key]
        for key in ("init", "write_rule", "heads", "replay", "rule", "memory_layers")
        if key in arguments
    }
    trained = RecurrentA2C(
        agent.policy,
        make_vec_env(Recall),
        policy_kwargs={"hidden_size": 6, **of_core},
        device="cpu",
    )
    trained.export(tmp_path)
    shapes = _shapes(tmp_path / "model.safetensors")
    wanted = _wanted_shapes(trained, may_fail=False)
    assert wanted.items() <= shapes.items()
    assert sum(map(np.prod, wanted.values())) > 0.9 * sum(map(np.prod, shapes.values()))


def test_weights_that_are_not_a_file_are_refused(tmp_path: Path) -> None:
    """Reading a FIFO would wait for a writer."""
    model().export(tmp_path)
    weights = tmp_path / "model.safetensors"
    whole = weights.read_bytes()
    weights.unlink()
    os.mkfifo(weights)
    with pytest.raises(ValueError, match=r"model\.safetensors is not a file"):
        RecurrentA2C.from_pretrained(tmp_path, device="cpu")
    weights.unlink()
    weights.mkdir()
    with pytest.raises(ValueError, match=r"model\.safetensors is not a file"):
        RecurrentA2C.from_pretrained(tmp_path, device="cpu")
    weights.rmdir()
    for damaged in (b"", whole[:100], whole[:-100], b"\xff" * 8 + whole[8:]):
        weights.write_bytes(damaged)
        with pytest.raises(
            ValueError, match=r"model\.safetensors does not fit config\.json or is damaged"
        ):
            RecurrentA2C.from_pretrained(tmp_path, device="cpu")


def test_a_damaged_file_is_named(algorithm: Any, tmp_path: Path) -> None:
    """An empty part, a hole, an end that is missing, and weights that are not numbers."""
    path = tmp_path / "model.zip"
    trained = model(algorithm).learn(20)
    trained.save(path)
    whole = path.read_bytes()
    with zipfile.ZipFile(path) as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    for emptied in ("policy.pth", "policy.optimizer.pth", "data"):
        with zipfile.ZipFile(path, "w") as archive:
            for name, part in parts.items():
                archive.writestr(name, b"" if name == emptied else part)
        with pytest.raises(ValueError, match=r"model\.zip is not a model that mnm_rl"):
            algorithm.load(path, device="cpu")
    for i in range(10):
        start, length = len(whole) * i // 10, len(whole) // 20
        path.write_bytes(whole[:start] + bytes(length) + whole[start + length :])
        try:
            algorithm.load(path, device="cpu")
        except ValueError as error:
            assert f"{path} is not a model that mnm_rl" in str(error)  # noqa: PT017  (some holes do no harm)
    for share in (0.1, 0.5, 0.9):
        path.write_bytes(whole[: int(share * len(whole))])
        with pytest.raises(ValueError, match=r"model\.zip is not a model that mnm_rl"):
            algorithm.load(path, device="cpu")
    trained.policy.value_net.bias.data.fill_(float("nan"))
    trained.save(path)
    with pytest.raises(
        ValueError,
        match=r"model\.zip is not a model .*: value_net\.bias of the policy is NaN or infinite",
    ):
        algorithm.load(path, device="cpu")

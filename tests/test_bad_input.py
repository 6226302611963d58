"""What users get wrong, and what goes wrong in their environments: said in their words, with the
training's state kept."""

import os
import subprocess
import sys
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces
from gymnasium.vector import AsyncVectorEnv
from stable_baselines3 import PPO
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import DummyVecEnv, SubprocVecEnv

from mnm_rl import RecurrentA2C, TrainingDivergedError
from mnm_rl.algorithms import on_policy
from mnm_rl.algorithms.checks import checked_rewards
from mnm_rl.callbacks import AtomicCheckpoints
from mnm_rl.files import checkpoints
from tests.counting import Counting, Random, Recall
from tests.policies import ROUNDING


def lstm(env: Any, **kwargs: Any) -> RecurrentA2C:
    return RecurrentA2C(
        "LstmPolicy", env, policy_kwargs={"hidden_size": 4}, seed=0, device="cpu", **kwargs
    )


OBSERVATION = np.ones((3, 3), np.float32)


@pytest.mark.parametrize(
    ("state", "got"),
    [
        # of 2 environments
        ((np.zeros((2, 4), np.float32),) * 2, "float32 [2, 4], float32 [2, 4]"),
        ((np.zeros((3, 5), np.float32),) * 2, "float32 [3, 5], float32 [3, 5]"),  # of another model
        ((np.zeros((3, 4), np.float32),), "float32 [3, 4]"),
        (np.zeros((3, 4), np.float32), "float32 [3, 4]"),  # an array, not a tuple
        ((np.zeros((3, 4), int),) * 2, "int64 [3, 4], int64 [3, 4]"),
        (("a", "b"), "<U1 [], <U1 []"),
        (1, "int64 []"),
    ],
)
def test_a_state_that_does_not_fit(state: Any, got: str) -> None:
    with pytest.raises(
        ValueError, match="state must be what predict returned for 3 environments"
    ) as error:
        lstm(make_vec_env(Recall)).predict(OBSERVATION, state)
    assert str(error.value).endswith(
        f"(float arrays of the shapes [3, 4], [3, 4]) or None, got {got}"
    )


def test_a_state_that_is_not_finite() -> None:
    with pytest.raises(ValueError, match="state holds a NaN or an infinity"):
        lstm(make_vec_env(Recall)).predict(OBSERVATION, (np.full((3, 4), np.nan, np.float32),) * 2)


@pytest.mark.parametrize("env", [3, object(), [Recall]])
def test_what_is_no_environment(env: Any) -> None:
    with pytest.raises(
        TypeError,
        match="env must be an environment of Gymnasium or Stable-Baselines3, or an id, not a ",
    ):
        lstm(env)


def test_a_rollout_of_no_steps() -> None:
    with pytest.raises(ValueError, match="n_steps must be at least 1, got 0"):
        lstm(make_vec_env(Recall), n_steps=0)


def test_a_state_in_double_precision_is_taken() -> None:
    model = lstm(make_vec_env(Recall))
    _, state = model.predict(OBSERVATION, None)
    assert state is not None
    _, again = model.predict(OBSERVATION, tuple(part.astype(float) for part in state))
    assert again is not None
    assert all(part.dtype == np.float32 for part in again)


def test_episode_starts_that_do_not_fit_and_that_are_left_out() -> None:
    model = lstm(make_vec_env(Recall))
    with pytest.raises(ValueError, match="one entry for each of the 3 observations, got 2"):
        model.predict(OBSERVATION, None, np.ones(2, bool))
    _, state = model.predict(OBSERVATION, None)
    # the episode goes on
    left_out, false = (
        model.predict(OBSERVATION, state, starts)[1] for starts in (None, np.zeros(3, bool))
    )
    torch.testing.assert_close(left_out, false, **ROUNDING)


@pytest.mark.parametrize(
    ("space", "observation", "message"),
    [
        (spaces.Box(0, 1, (3,)), np.ones(4, np.float32), "Unexpected observation shape"),
        (spaces.Box(0, 1, (3,)), np.array([0, np.nan, 0]), "the observation is NaN or infinite"),
        (
            spaces.Box(0, 1, (3,)),
            {"a": np.ones(3)},
            r"the observation must be in Box.*, got a dict",
        ),
        (
            spaces.Box(0, 1, (3,)),
            np.array(["a", "b", "c"]),
            r"the observation must be in Box.*, got <U1",
        ),
        (
            spaces.Box(0, 1, (3,)),
            (np.ones(3), {}),
            r"got a tuple \(reset gives an observation and an info\)",
        ),
        (spaces.Discrete(5), np.array(2.5), r"the observation is outside of Discrete\(5\): 2.5"),
        (spaces.Discrete(5), np.array(5), r"the observation is outside of Discrete\(5\): 5"),
        (
            spaces.Discrete(5),
            np.array([1, -1]),
            r"the observation is outside of Discrete\(5\): \[ 1 -1\]",
        ),
        (
            spaces.MultiDiscrete([2, 3]),
            np.array([1, 3]),
            r"the observation is outside of MultiDiscrete\(\[2 3\]\): \[1 3\]",
        ),
        (
            spaces.MultiBinary(2),
            np.array([1, 2]),
            r"the observation is outside of MultiBinary\(2\): \[1 2\]",
        ),
        (
            spaces.Dict({"a": spaces.Discrete(2)}),
            {"b": np.array(0)},
            r"must have the keys \['a'\], got \['b'\]",
        ),
        (
            spaces.Dict({"a": spaces.Discrete(2)}),
            {"a": np.array(2)},
            r"the observation 'a' is outside of Discrete\(2\): 2",
        ),
        (
            spaces.Dict({"a": spaces.Discrete(2)}),
            np.array(0),
            r"the observation must be in Dict.*, got a ndarray",
        ),
    ],
)
def test_predict_refuses_what_is_not_an_observation(
    space: spaces.Space[Any], observation: Any, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        lstm(Random(space, spaces.Discrete(2))).predict(observation)


def test_values_beyond_the_bounds_of_a_box_are_let_pass() -> None:
    """As in Stable-Baselines3: many environments exceed their own bounds a little."""
    lstm(make_vec_env(Recall)).predict(10 * OBSERVATION)


class Breaking(Counting):
    """Does what ``how`` says in its 10th step, over all its episodes."""

    def __init__(self, how: str) -> None:
        super().__init__(length=20)
        self.how = how
        self.steps = 0

    def step(self, action: Any) -> Any:
        self.steps += 1
        if self.steps == 10 and self.how == "dies":
            os._exit(3)
        if self.steps == 10 and self.how == "raises":
            raise ZeroDivisionError("the pole has no length")
        return super().step(action)


def test_an_environment_that_leaves_its_space() -> None:
    class Leaving(gym.Env[Any, Any]):
        observation_space = spaces.Dict({"n": spaces.Discrete(3), "m": spaces.MultiBinary(2)})
        action_space = spaces.Discrete(2)

        def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
            self.n = 0
            return self._obs(), {}

        def step(self, action: Any) -> Any:
            self.n += 1
            return self._obs(), 0.0, False, False, {}

        def _obs(self) -> Any:
            return {"n": self.n, "m": np.zeros(2, np.int8)}

    model = lstm(DummyVecEnv([Leaving]))
    with pytest.raises(
        ValueError,
        match=r"the observation 'n' of environment 0 is outside of Discrete\(3\) at step 3: 3",
    ):
        model.learn(10)


@pytest.mark.parametrize("vector", [DummyVecEnv, AsyncVectorEnv])
@pytest.mark.filterwarnings("ignore")
def test_an_error_of_the_environment_is_passed_on_and_the_last_checkpoint_is_there(
    vector: Any, tmp_path: Path
) -> None:
    env = vector([partial(Breaking, "raises"), partial(Breaking, "nothing")])
    model = lstm(env, n_steps=2)
    with pytest.raises(ZeroDivisionError, match="the pole has no length"):
        model.learn(100, callback=AtomicCheckpoints(tmp_path, interval=4))
    assert RecurrentA2C.load(checkpoints(tmp_path)[-1], device="cpu").num_timesteps == 16
    assert np.isfinite(model.policy.parameters_to_vector()).all()
    model.save(tmp_path / "rescued")


@pytest.mark.parametrize("vector", [partial(SubprocVecEnv, start_method="fork"), AsyncVectorEnv])
@pytest.mark.filterwarnings("ignore")
def test_the_death_of_a_process_is_named(vector: Any) -> None:
    env = vector([partial(Breaking, "dies"), partial(Breaking, "nothing")])
    with pytest.raises(
        RuntimeError,
        match="the process of an environment ended at step 18; what it printed before may say why",
    ):
        lstm(env, n_steps=2).learn(100)
    for process in env.processes:
        process.terminate()
    env.closed = True


@pytest.mark.parametrize(
    ("observations", "actions", "message"),
    [
        (spaces.MultiDiscrete([[2, 3], [2, 3]]), spaces.Discrete(2), "make it one-dimensional"),
        (spaces.Box(0, 1, (3,)), spaces.Box(-1, 1, (0,)), "it holds no array of numbers"),
    ],
)
def test_spaces_that_cannot_be_used(
    observations: spaces.Space[Any], actions: spaces.Space[Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        lstm(Random(observations, actions))


@pytest.mark.parametrize("name", ["MNMPolicy", "mnmpolicy", "MnmPolice"])
def test_the_name_of_a_policy_that_does_not_exist(algorithm: Any, name: str) -> None:
    with pytest.raises(
        ValueError,
        match=rf"there is no policy '{name}'; did you mean 'MnmPolicy'\? There are .*LstmPolicy",
    ):
        algorithm(name, "CartPole-v1")


def test_a_file_of_another_library_is_named(tmp_path: Path) -> None:
    PPO("MlpPolicy", "CartPole-v1", device="cpu").save(tmp_path / "model")
    with pytest.raises(
        ValueError, match=r"model.* can load: stable_baselines3 saved it, .* load it there"
    ):
        RecurrentA2C.load(tmp_path / "model")


class Paying(Recall):
    """Pays something else than a number in its third step."""

    def __init__(self, reward: Any) -> None:
        super().__init__()
        self.reward, self.steps = reward, 0

    def step(self, action: Any) -> Any:
        obs, reward, terminated, truncated, info = super().step(action)
        self.steps += 1
        return obs, self.reward if self.steps == 3 else reward, terminated, truncated, info


@pytest.mark.parametrize(
    ("reward", "message"),
    [
        (None, "the reward of environment 1 is None at step 6, and must be a number"),
        ("much", "the reward of environment 1 is 'much' at step 6, and must be a number"),
        ([1.0, 2.0], r"a reward each, \[2\], and gave \[2, 2\] at step 6"),
        (float("nan"), "the reward of environment 1 is NaN or infinite at step 6"),
        (-np.inf, "the reward of environment 1 is NaN or infinite at step 6"),
    ],
)
def test_a_reward_that_is_no_number_is_named_with_its_environment(
    reward: Any, message: str
) -> None:
    """As vector environments that gather what their environments give hand it on, such as
    SubprocVecEnv."""

    class Gathering(DummyVecEnv):
        def step_wait(self) -> Any:
            steps = [env.step(action) for env, action in zip(self.envs, self.actions, strict=True)]
            obs, rewards, terminated, _, infos = zip(*steps, strict=True)
            if isinstance(rewards[1], list):
                rewards = tuple(np.broadcast_to(part, 2) for part in rewards)
            return np.stack(obs), np.stack(rewards), np.array(terminated), list(infos)

    model = lstm(Gathering([Recall, lambda: Paying(reward)]), n_steps=4)
    before = model.policy.parameters_to_vector()
    with pytest.raises((ValueError, TrainingDivergedError), match=message):
        model.learn(100)
    np.testing.assert_array_equal(model.policy.parameters_to_vector(), before)


def test_rewards_that_are_numbers_of_any_kind_are_taken() -> None:
    assert checked_rewards([np.float64(1), 2, True], 3, 0).tolist() == [1, 2, 1]
    assert checked_rewards(np.array([Fraction(1, 2), 3], dtype=object), 2, 0).tolist() == [0.5, 3]


def test_an_id_that_is_not_registered_says_what_to_import() -> None:
    with pytest.raises(
        gym.error.NameNotFound,
        match=r"import envs first, or name the module in the id, MODULE:mnm/Nothing-v0",
    ):
        lstm("mnm/Nothing-v0")
    with pytest.raises(
        gym.error.NamespaceNotFound,
        match="import the module that registers it first, or name the module",
    ):
        lstm("elsewhere/Maze-v0")


def test_mazes_are_to_be_imported_first() -> None:
    """In a process of its own, since the tests import them."""
    code = "from mnm_rl import RecurrentPPO; RecurrentPPO('MnmPolicy', 'mnm/Maze-v0')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "NamespaceNotFound" in done.stderr
    assert "import envs first" in done.stderr


@pytest.mark.parametrize("verbose", [0, 1])
def test_a_gpu_that_auto_picks_is_announced_once(
    verbose: int, monkeypatch: Any, caplog: Any, capsys: Any
) -> None:
    monkeypatch.setattr("stable_baselines3.common.utils.th.cuda.is_available", lambda: True)
    monkeypatch.setattr("mnm_rl.cores.implementations._logged", set())
    on_policy._announce_gpu.cache_clear()
    arguments: dict[str, Any] = {
        "policy_kwargs": {"hidden_size": 4},
        "verbose": verbose,
        "_init_setup_model": False,
    }
    with caplog.at_level("INFO", logger="mnm_rl"):
        for device in ("auto", "auto", "cuda", "cpu"):
            RecurrentA2C("LstmPolicy", make_vec_env(Recall), device=device, **arguments)
    hint = "device='auto' has picked cuda"
    assert caplog.text.count(hint) == 1
    assert "set device='cpu'" in caplog.text
    assert capsys.readouterr().out.count(hint) == verbose

"""The meta-RL observation: single, in vector environments of every reset mode, and under
Stable-Baselines3."""

import doctest
from functools import partial
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.utils.env_checker import check_env
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv, VectorEnv
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import DummyVecEnv, SubprocVecEnv

import mnm_rl.wrappers
from mnm_rl import GymnasiumVecEnv, RecurrentA2C
from mnm_rl.wrappers import MetaObservation
from mnm_rl.wrappers import vector as vector_wrappers
from tests.counting import Counting, CountingVector

LENGTHS = [3, 2, 4]
MODES = list(AutoresetMode)


class Acting(gym.Env[Any, Any]):
    """Takes actions of a given space; rewards the step number."""

    def __init__(self, action_space: spaces.Space[Any]) -> None:
        self.observation_space, self.action_space = spaces.Discrete(2), action_space

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        self.t = 0
        return 0, {}

    def step(self, action: Any) -> Any:
        self.t += 1
        return 1, float(self.t), False, False, {}


ACTIONS: dict[str, tuple[spaces.Space[Any], Any, list[float]]] = {
    "discrete": (spaces.Discrete(3, start=5), 6, [0, 1, 0]),
    "multi-discrete": (spaces.MultiDiscrete([2, 3]), [1, 0], [0, 1, 1, 0, 0]),
    "table of choices": (
        spaces.MultiDiscrete([[2, 2], [2, 2]]),
        [[0, 1], [1, 0]],
        [1, 0, 0, 1, 0, 1, 1, 0],
    ),
    "multi-binary": (spaces.MultiBinary(3), [1, 0, 1], [1, 0, 1]),
    "box": (spaces.Box(1, 2, (2, 1)), [[1.5], [1.25]], [1.5, 1.25]),
}


@pytest.mark.parametrize("kind", ACTIONS)
def test_the_previous_action_in_every_space(kind: str) -> None:
    space, action, numbers = ACTIONS[kind]
    env = MetaObservation(Acting(space))
    first, _ = env.reset()
    second, *_ = env.step(np.array(action))
    assert first["previous_action"].tolist() == [0] * len(numbers)
    assert second["previous_action"].tolist() == numbers
    for observation in (first, second):
        assert env.observation_space.contains(observation)


def test_every_step_says_what_was_done_what_it_earned_and_when() -> None:
    env = MetaObservation(Counting(3), horizon=4)
    for _ in range(2):
        observation, _ = env.reset()
        assert (
            observation["previous_reward"],
            observation["episode_start"],
            observation["time"],
        ) == (0, 1, 0)
        for t in (1, 2):
            observation, reward, *_ = env.step(1)
            assert observation["observation"].tolist()[1] == t
            assert observation["previous_reward"] == reward == t
            assert (observation["episode_start"], observation["time"]) == (0, t / 4)


# of CartPole's velocities and of rewards; and of its being wrapped
@pytest.mark.filterwarnings("ignore:.*(infinity|unwrapped)")
def test_it_passes_the_checker_of_gymnasium_and_survives_a_round_trip_through_its_spec() -> None:
    env = MetaObservation(gym.make("CartPole-v1"), horizon=500)
    check_env(env, skip_render_check=True)
    assert env.spec is not None
    again = gym.make(env.spec)
    assert again.observation_space == env.observation_space
    assert again.reset(seed=0)[0].keys() == env.reset(seed=0)[0].keys()


def test_the_keys_of_a_dict_observation_stay() -> None:
    class Pair(Acting):
        def __init__(self, *names: str) -> None:
            super().__init__(spaces.Discrete(2))
            self.observation_space = spaces.Dict({name: spaces.Discrete(2) for name in names})  # type: ignore[assignment]

        def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
            return dict.fromkeys(self.observation_space, 0), {}  # type: ignore[call-overload]

    observation, _ = MetaObservation(Pair("a", "b")).reset()
    assert set(observation) == {"a", "b", "previous_action", "previous_reward", "episode_start"}
    with pytest.raises(ValueError, match="has a 'previous_reward' already"):
        MetaObservation(Pair("previous_reward"))


def test_what_cannot_be_observed_is_refused() -> None:
    with pytest.raises(
        ValueError, match=r"action space Text.* cannot be observed.*TransformAction"
    ):
        MetaObservation(Acting(spaces.Text(3)))
    with pytest.raises(ValueError, match="horizon must be positive, got 0"):
        MetaObservation(Counting(), horizon=0)
    envs = SyncVectorEnv([Counting])
    envs.metadata = {}
    with pytest.raises(ValueError, match="autoreset_mode"):
        vector_wrappers.MetaObservation(envs)


def play(env: Any) -> list[Any]:
    history = [(env.reset(),), *(env.step(np.array([t, t + 1, t]) % 2) for t in range(12))]
    env.close()
    return history


def vector_envs(kind: str, mode: AutoresetMode, truncates: bool) -> VectorEnv[Any, Any, Any]:
    make = AsyncVectorEnv if kind == "async" else SyncVectorEnv
    return make([partial(Counting, length, truncates) for length in LENGTHS], autoreset_mode=mode)


@pytest.mark.parametrize("truncates", [False, True])
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("kind", ["sync", "async"])
def test_a_vector_of_environments_gives_what_wrapped_environments_give(
    kind: str, mode: AutoresetMode, truncates: bool
) -> None:
    ours = GymnasiumVecEnv(
        vector_wrappers.MetaObservation(vector_envs(kind, mode, truncates), horizon=10)
    )
    theirs = DummyVecEnv([partial(wrapped, length, truncates) for length in LENGTHS])
    assert ours.observation_space == theirs.observation_space
    for step, step_2 in zip(play(ours), play(theirs), strict=True):
        np.testing.assert_equal(step[0], step_2[0])
        for info, info_2 in zip(*(s[3] if len(s) > 1 else [] for s in (step, step_2)), strict=True):
            np.testing.assert_equal(
                info.get("terminal_observation"), info_2.get("terminal_observation")
            )


def wrapped(length: int, truncates: bool) -> MetaObservation:
    return MetaObservation(Counting(length, truncates), horizon=10)


def test_next_step_resets_without_a_mask() -> None:
    """The step that resets is the start of the new episode; its action and its reward belong to
    none."""
    env = vector_wrappers.MetaObservation(CountingVector([2, 3]))
    env.reset()
    starts, rewards = [], []
    for _ in range(5):
        observations = env.step(np.ones(2, int))[0]
        starts.append(observations["episode_start"][:, 0].tolist())
        rewards.append(observations["previous_reward"][:, 0].tolist())
        assert env.observation_space.contains(observations)
    assert starts == [[0, 0], [0, 0], [1, 0], [0, 1], [0, 0]]
    assert rewards == [[1, 1], [2, 2], [0, 3], [1, 0], [2, 1]]


def test_make_vec_takes_either() -> None:
    single = gym.make_vec(
        "CartPole-v1", num_envs=2, vectorization_mode="sync", wrappers=[MetaObservation]
    )
    vector = vector_wrappers.MetaObservation(
        gym.make_vec("CartPole-v1", num_envs=2, vectorization_mode="vector_entry_point")
    )
    for envs in (single, vector):
        observations, _ = envs.reset(seed=0)
        assert envs.observation_space.contains(observations)
    np.testing.assert_equal(
        single.step(np.array([0, 1]))[0]["previous_action"],
        vector.step(np.array([0, 1]))[0]["previous_action"],
    )


@pytest.mark.parametrize("vec_env_cls", [DummyVecEnv, SubprocVecEnv])
def test_an_agent_trains_on_it(vec_env_cls: Any) -> None:
    env = make_vec_env(
        "CartPole-v1", n_envs=2, wrapper_class=MetaObservation, vec_env_cls=vec_env_cls
    )
    RecurrentA2C("LstmPolicy", env, policy_kwargs={"hidden_size": 4}, device="cpu").learn(20)
    env.close()
    vector_env = vector_wrappers.MetaObservation(
        gym.make_vec("mnm/MazeSmall-v0", num_envs=3, horizon=5)
    )
    RecurrentA2C("MnmPolicy", vector_env, policy_kwargs={"hidden_size": 4}, device="cpu").learn(30)


def test_examples_in_docstrings_print_what_they_say() -> None:
    assert doctest.testmod(mnm_rl.wrappers).attempted > 0
    assert doctest.testmod(mnm_rl.wrappers).failed == 0

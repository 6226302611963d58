"""Gymnasium vector environments under Stable-Baselines3: every autoreset mode looks like Stable-Baselines3's own."""

from functools import partial
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv, VectorEnv
from gymnasium.wrappers.vector import RecordEpisodeStatistics
from stable_baselines3 import PPO
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv, VecMonitor

from mnm_rl import GymnasiumVecEnv
from tests.counting import Counting, CountingVector

LENGTHS = [3, 2, 5]
MODES = list(AutoresetMode)


def makers(truncates: bool) -> list[Any]:
    return [partial(Counting, length, truncates) for length in LENGTHS]


def vector_env(kind: str, mode: AutoresetMode, truncates: bool) -> VectorEnv[Any, Any, Any]:
    make = AsyncVectorEnv if kind == "async" else SyncVectorEnv
    return make(makers(truncates), autoreset_mode=mode)


def play(env: VecEnv, steps: int = 12) -> list[Any]:
    history = [env.reset(), *(env.step(np.zeros(env.num_envs, int)) for _ in range(steps))]
    env.close()
    return history


@pytest.mark.parametrize("truncates", [False, True])
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("kind", ["sync", "async"])
def test_every_autoreset_mode_gives_what_stable_baselines3_gives(kind: str, mode: AutoresetMode, truncates: bool) -> None:
    ours = play(GymnasiumVecEnv(vector_env(kind, mode, truncates)))
    theirs = play(VecMonitor(DummyVecEnv(makers(truncates))))
    np.testing.assert_array_equal(ours[0], theirs[0])
    for (obs, rewards, dones, infos), (obs_2, rewards_2, dones_2, infos_2) in zip(ours[1:], theirs[1:], strict=True):
        np.testing.assert_array_equal(obs, obs_2)
        np.testing.assert_array_equal(rewards, rewards_2)
        assert rewards.dtype == rewards_2.dtype
        np.testing.assert_array_equal(dones, dones_2)
        for info, info_2, done in zip(infos, infos_2, dones, strict=True):
            if done:
                assert {key: info["episode"][key] for key in "rl"} == {key: info_2["episode"][key] for key in "rl"}
                np.testing.assert_array_equal(info.pop("terminal_observation"), info_2.pop("terminal_observation"))
                assert info["TimeLimit.truncated"] == info_2["TimeLimit.truncated"]
            for either in (info, info_2):
                either.pop("episode", None)
                either.pop("TimeLimit.truncated", None)
            assert info == info_2


@pytest.mark.parametrize("mode", MODES)
def test_infos_of_a_reset_go_where_stable_baselines3_puts_them(mode: AutoresetMode) -> None:
    env = GymnasiumVecEnv(vector_env("sync", mode, False))
    env.reset()
    assert [info["begins"] for info in env.reset_infos] == [1, 1, 1]
    for _ in range(3):
        env.step(np.zeros(3, int))
    assert [info["begins"] for info in env.reset_infos] == [2, 2, 1]


@pytest.mark.parametrize("truncates", [False, True])
def test_without_masked_resets_the_resetting_step_ends_the_episode(truncates: bool) -> None:
    history = play(GymnasiumVecEnv(CountingVector([2, 3], truncates)), steps=8)
    dones = np.array([step[2] for step in history[1:]])
    np.testing.assert_array_equal(dones[:, 0], [0, 0, 1, 0, 0, 1, 0, 0])
    np.testing.assert_array_equal(dones[:, 1], [0, 0, 0, 1, 0, 0, 0, 1])
    obs, rewards, _, infos = history[3]
    assert rewards[0] == 0
    np.testing.assert_array_equal(obs[0], [2, 0])  # the new episode
    np.testing.assert_array_equal(infos[0]["terminal_observation"], [1, 2])
    assert (infos[0]["episode"]["r"], infos[0]["episode"]["l"]) == (3, 2)
    assert infos[0]["TimeLimit.truncated"] == truncates
    assert (history[6][3][0]["episode"]["r"], history[6][3][0]["episode"]["l"]) == (3, 2)
    assert history[4][3][1]["episode"]["l"] == 3


def test_statistics_recorded_below_are_kept() -> None:
    for mode in MODES:
        env = RecordEpisodeStatistics(vector_env("sync", mode, False))
        history = play(GymnasiumVecEnv(gym.wrappers.vector.TransformReward(env, lambda reward: 10 * reward)))
        ends = [info["episode"] for step in history[1:] for info in step[3] if "episode" in info]
        assert {(end["r"], end["l"]) for end in ends} == {(6, 3), (3, 2), (15, 5)}
        assert history[1][1].tolist() == [10, 10, 10]


def test_dict_observations() -> None:
    class Pair(Counting):
        def __init__(self) -> None:
            super().__init__(length=2)
            self.observation_space = spaces.Dict({"a": spaces.Box(0, 1000, (2,)), "b": spaces.Discrete(10)})

        def _obs(self) -> Any:
            return {"a": super()._obs(), "b": self.t}

    for mode in MODES:
        env = GymnasiumVecEnv(SyncVectorEnv([Pair, Pair], autoreset_mode=mode))
        assert set(env.reset()) == {"a", "b"}
        env.step(np.zeros(2, int))
        obs, _, dones, infos = env.step(np.zeros(2, int))
        assert dones.all()
        assert obs["b"].tolist() == [0, 0]
        assert infos[1]["terminal_observation"]["b"] == 2
        assert infos[1]["terminal_observation"]["a"].tolist() == [1, 2]


def test_a_stable_baselines3_algorithm_learns_on_it() -> None:
    env = GymnasiumVecEnv(gym.make_vec("mnm/MazeSmall-v0", num_envs=4, horizon=20))
    model = PPO("MlpPolicy", env, n_steps=40, batch_size=40, n_epochs=1, device="cpu").learn(320)
    assert model.ep_info_buffer
    assert {episode["l"] for episode in model.ep_info_buffer} == {20}


def test_seeds_reach_the_environments() -> None:
    env = GymnasiumVecEnv(gym.make_vec("CartPole-v1", num_envs=3, vectorization_mode="sync"))
    env.seed(7)
    first = env.reset()
    assert not np.array_equal(first, env.reset())
    env.seed(7)
    np.testing.assert_array_equal(first, env.reset())


def test_attributes_and_methods_of_the_environments() -> None:
    env = GymnasiumVecEnv(SyncVectorEnv([partial(lambda n: Monitor(Counting(n)), n) for n in LENGTHS]))
    assert env.get_attr("length") == LENGTHS
    assert env.get_attr("length", [2]) == [5]
    env.set_attr("length", 9, indices=1)
    assert env.env_is_wrapped(Monitor) == [True] * 3
    assert env.env_is_wrapped(gym.wrappers.TimeLimit, 0) == [False]
    env.reset()
    assert len(env.env_method("get_episode_rewards")) == 3
    maze = GymnasiumVecEnv(gym.make_vec("mnm/Maze-v0", num_envs=2))
    assert maze.get_attr("horizon") == [200, 200]
    with pytest.raises(ValueError, match="indices=None"):
        maze.set_attr("horizon", 3, indices=[0])
    assert maze.has_attr("horizon")
    assert not maze.has_attr("nothing_of_that_name")


def test_methods_are_called_where_they_are_asked_for() -> None:
    env = GymnasiumVecEnv(SyncVectorEnv(makers(False)))
    env.reset()
    env.env_method("reset", indices=[1])
    assert env.get_attr("episode") == [1, 2, 1]
    with pytest.raises(ValueError, match="indices=None"):
        GymnasiumVecEnv(gym.make_vec("mnm/Maze-v0", num_envs=2)).env_method("render", indices=[0])


@pytest.mark.parametrize("mode", MODES)
def test_environments_that_use_their_arrays_again_do_not_change_what_was_returned(mode: AutoresetMode) -> None:
    history = play(GymnasiumVecEnv(SyncVectorEnv(makers(False), copy=False, autoreset_mode=mode)))
    theirs = play(DummyVecEnv(makers(False)))
    np.testing.assert_array_equal(history[0], theirs[0])
    for ours, other in zip(history[1:], theirs[1:], strict=True):
        np.testing.assert_array_equal(ours[0], other[0])
        np.testing.assert_array_equal(ours[1], other[1])


@pytest.mark.parametrize("mode", MODES)
def test_reset_options_are_the_users(mode: AutoresetMode) -> None:
    class Optional(Counting):
        seen: list[Any] = []  # noqa: RUF012

        def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
            self.seen.append(options or None)
            return super().reset(seed=seed, options=options)

    env = GymnasiumVecEnv(RecordEpisodeStatistics(SyncVectorEnv([Optional], autoreset_mode=mode)))
    env.set_options({"goal": 3})
    play(env, steps=4)
    assert Optional.seen == [{"goal": 3}, None]
    two = GymnasiumVecEnv(SyncVectorEnv([Counting, Counting]))
    two.set_options([{"a": 1}, {"a": 2}])
    with pytest.raises(ValueError, match="one set of reset options"):
        two.reset()


def test_pictures_are_tiled() -> None:
    env = GymnasiumVecEnv(gym.make_vec("mnm/MazeSmall-v0", num_envs=4, render_mode="rgb_array"))
    env.reset()
    picture = env.render("rgb_array")
    assert picture is not None
    assert picture.shape == (2 * (7 * 32 + 16), 2 * 7 * 32, 3)


def test_what_is_not_a_vector_environment_is_refused() -> None:
    with pytest.raises(TypeError, match=r"gymnasium\.vector\.VectorEnv"):
        GymnasiumVecEnv(Counting())  # type: ignore[arg-type]

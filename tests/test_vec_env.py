"""Gymnasium vector environments under Stable-Baselines3: every autoreset mode looks like
Stable-Baselines3's own."""

from functools import partial
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv, VectorEnv, VectorWrapper
from gymnasium.vector.utils import batch_space
from gymnasium.wrappers.vector import DictInfoToList, RecordEpisodeStatistics, TransformAction
from stable_baselines3 import PPO
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv, VecMonitor

from mnm_rl import GymnasiumVecEnv
from mnm_rl.wrappers.vector import MetaObservation
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
def test_every_autoreset_mode_gives_what_stable_baselines3_gives(
    kind: str, mode: AutoresetMode, truncates: bool
) -> None:
    ours = play(GymnasiumVecEnv(vector_env(kind, mode, truncates)))
    theirs = play(VecMonitor(DummyVecEnv(makers(truncates))))
    np.testing.assert_array_equal(ours[0], theirs[0])
    for (obs, rewards, dones, infos), (obs_2, rewards_2, dones_2, infos_2) in zip(
        ours[1:], theirs[1:], strict=True
    ):
        np.testing.assert_array_equal(obs, obs_2)
        np.testing.assert_array_equal(rewards, rewards_2)
        assert rewards.dtype == rewards_2.dtype
        np.testing.assert_array_equal(dones, dones_2)
        for info, info_2, done in zip(infos, infos_2, dones, strict=True):
            if done:
                assert {key: info["episode"][key] for key in "rl"} == {
                    key: info_2["episode"][key] for key in "rl"
                }
                np.testing.assert_array_equal(
                    info.pop("terminal_observation"), info_2.pop("terminal_observation")
                )
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
        history = play(
            GymnasiumVecEnv(gym.wrappers.vector.TransformReward(env, lambda reward: 10 * reward))
        )
        ends = [info["episode"] for step in history[1:] for info in step[3] if "episode" in info]
        assert {(end["r"], end["l"]) for end in ends} == {(6, 3), (3, 2), (15, 5)}
        assert history[1][1].tolist() == [10, 10, 10]


def test_dict_observations() -> None:
    class Pair(Counting):
        def __init__(self) -> None:
            super().__init__(length=2)
            self.observation_space = spaces.Dict(
                {"a": spaces.Box(0, 1000, (2,)), "b": spaces.Discrete(10)}
            )

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
    env = GymnasiumVecEnv(
        SyncVectorEnv([partial(lambda n: Monitor(Counting(n)), n) for n in LENGTHS])
    )
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
def test_environments_that_use_their_arrays_again_do_not_change_what_was_returned(
    mode: AutoresetMode,
) -> None:
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

        def reset(
            self, *, seed: int | None = None, options: dict[str, Any] | None = None
        ) -> tuple[Any, dict[str, Any]]:
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


class Telling(VectorEnv[Any, Any, Any]):
    """Says what it is told to say in every step, whose number it rewards; an episode ends where
    ``ends`` tells."""

    def __init__(
        self, n: int = 3, mode: AutoresetMode = AutoresetMode.NEXT_STEP, **says: Any
    ) -> None:
        self.metadata = {"autoreset_mode": mode}
        self.num_envs, self.says = n, {"infos": {}} | says
        self.single_observation_space, self.single_action_space = (
            spaces.Box(-1, 1000, (2,)),
            spaces.Discrete(2),
        )
        self.observation_space = batch_space(self.single_observation_space, n)
        self.action_space = batch_space(self.single_action_space, n)

    def reset(self, **_: Any) -> Any:
        return np.zeros((self.num_envs, 2), np.float32), self.says["infos"]

    def step(self, actions: Any) -> Any:
        none = np.zeros(self.num_envs, bool)
        return (
            np.ones((self.num_envs, 2), np.float32),
            self.says.get("rewards", np.arange(self.num_envs) / 2),
            self.says.get("terminated", none),
            self.says.get("truncated", none),
            self.says["infos"],
        )


def told(infos: Any, n: int = 3) -> list[dict[Any, Any]]:
    """The infos of a step, which are those of a reset as well."""
    env = GymnasiumVecEnv(Telling(n, infos=infos))
    env.reset()
    step_infos = env.step(np.zeros(n, int))[3]
    np.testing.assert_equal(env.reset_infos, step_infos)
    return step_infos


MASK = np.array([True, False, True])
INFOS: dict[str, tuple[Any, list[dict[Any, Any]]]] = {
    "none at all": (None, [{}, {}, {}]),
    "a number for all": ({"frame": 5}, [{"frame": 5}] * 3),
    "None for all": ({"found": None}, [{"found": None}] * 3),
    "a long string for all": ({"name": "maze"}, [{"name": "maze"}] * 3),
    "a string of as many letters": ({"name": "abc"}, [{"name": "abc"}] * 3),
    "bytes": ({"name": b"abcd"}, [{"name": b"abcd"}] * 3),
    "a set": ({"seen": {1, 2, 3}}, [{"seen": {1, 2, 3}}] * 3),
    "an array without axes": ({"t": np.array(2.5)}, [{"t": 2.5}] * 3),
    "an array of another length for all": (
        {"goal": np.array([1, 2])},
        [{"goal": np.array([1, 2])}] * 3,
    ),
    "a list of another length for all": ({"goal": [1, 2]}, [{"goal": [1, 2]}] * 3),
    "a dict for all": (
        {"world": {"size": 9, "name": "maze"}},
        [{"world": {"size": 9, "name": "maze"}}] * 3,
    ),
    "an array": ({"t": np.arange(3)}, [{"t": 0}, {"t": 1}, {"t": 2}]),
    "rows of an array": ({"goal": np.eye(3)}, [{"goal": row} for row in np.eye(3)]),
    "a list": ({"name": ["a", "b", None]}, [{"name": "a"}, {"name": "b"}, {"name": None}]),
    "a tuple": ({"t": (1, 2, 3)}, [{"t": 1}, {"t": 2}, {"t": 3}]),
    "a tensor": ({"t": torch.arange(3)}, [{"t": 0}, {"t": 1}, {"t": 2}]),
    "with a mask": ({"t": np.arange(3), "_t": MASK}, [{"t": 0}, {}, {"t": 2}]),
    "with a mask that is a list": (
        {"t": np.arange(3), "_t": MASK.tolist()},
        [{"t": 0}, {}, {"t": 2}],
    ),
    "with a mask that is a column": (
        {"t": np.arange(3), "_t": MASK[:, None]},
        [{"t": 0}, {}, {"t": 2}],
    ),
    "with a mask that is a tensor": (
        {"t": np.arange(3), "_t": torch.as_tensor(MASK)},
        [{"t": 0}, {}, {"t": 2}],
    ),
    "an array without axes, with a mask": (
        {"t": np.array(7), "_t": MASK},
        [{"t": 7}, {}, {"t": 7}],
    ),
    "a key that looks like a mask, with a list": (
        {"x": 1, "_x": [[], [1], []]},
        [{"x": 1, "_x": y} for y in ([], [1], [])],
    ),
    "a number with a mask": ({"t": 7, "_t": MASK}, [{"t": 7}, {}, {"t": 7}]),
    "a string with a mask": ({"t": "abc", "_t": MASK}, [{"t": "abc"}, {}, {"t": "abc"}]),
    "a dict with a mask": (
        {"end": {"r": np.arange(3), "name": "abcd"}, "_end": MASK},
        [{"end": {"r": 0, "name": "abcd"}}, {}, {"end": {"r": 2, "name": "abcd"}}],
    ),
    "keys that are no strings": (
        {3: np.arange(3), ("a", 1): 4, None: MASK, "_3": MASK},
        [
            {3: 0, ("a", 1): 4, None: True},
            {("a", 1): 4, None: False},
            {3: 2, ("a", 1): 4, None: True},
        ],
    ),
    "a key with an underscore": (
        {"_private": np.arange(3)},
        [{"_private": 0}, {"_private": 1}, {"_private": 2}],
    ),
    "a key that looks like a mask": (
        {"x": np.arange(3), "_x": 0.5},
        [{"x": 0, "_x": 0.5}, {"x": 1, "_x": 0.5}, {"x": 2, "_x": 0.5}],
    ),
    "one dict each": ([{"t": 1}, {}, {3: None}], [{"t": 1}, {}, {3: None}]),
    "one dict each, or None": (({"t": 1}, None, {}), [{"t": 1}, {}, {}]),
}


@pytest.mark.parametrize("case", INFOS)
def test_infos_in_every_form(case: str) -> None:
    infos, expected = INFOS[case]
    np.testing.assert_equal(told(infos), expected)


@pytest.mark.parametrize(
    ("infos", "words"),
    [
        (
            {"t": np.arange(2), "_t": MASK},
            r"infos\['t'\] has a mask, so it must hold one value per environment \(3\)",
        ),
        ({"t": ["a"], "_t": MASK}, r"infos\['t'\] has a mask"),
        ([{}, {}], r"a list of one dict per environment \(3\)"),
        ("nothing", "infos must be a dict"),
    ],
)
def test_infos_that_cannot_be_told_apart_are_refused(infos: Any, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        told(infos)


class Informing(Counting):
    """Infos of every kind, other ones in every step."""

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[Any, Any]]:
        obs, reward, terminated, truncated, _ = super().step(action)
        kinds: list[dict[Any, Any]] = [
            {"name": "abcdef", 3: 4.5, "_private": np.arange(3)},
            {("a", 1): None, "nested": {"name": "abc", 7: {"deep": True}}, None: [1, 2, 3]},
            {"set": {1, 2}, "goal": np.eye(3), "string": np.str_("abc"), 3: self.t / 2},
        ]
        return obs, reward, terminated, truncated, kinds[(self.t + self.length) % 3]


@pytest.mark.parametrize("lists", [False, True])
@pytest.mark.parametrize("mode", MODES)
def test_infos_are_those_of_dummy_vec_env(mode: AutoresetMode, lists: bool) -> None:
    fns = [partial(Informing, length) for length in LENGTHS]
    vector = SyncVectorEnv(fns, autoreset_mode=mode)
    if lists:  # those that Gymnasium's wrapper takes
        fns = [partial(Counting, length) for length in LENGTHS]
        vector = DictInfoToList(SyncVectorEnv(fns, autoreset_mode=mode))  # type: ignore[assignment]
    for ours, theirs in zip(
        play(GymnasiumVecEnv(vector))[1:], play(DummyVecEnv(fns))[1:], strict=True
    ):
        for info, info_2, done in zip(ours[3], theirs[3], ours[2], strict=True):
            info.pop("episode", None)
            if not done:
                info_2.pop("TimeLimit.truncated")
            np.testing.assert_equal(info, info_2)


def test_infos_do_not_change_when_the_environment_uses_its_arrays_again() -> None:
    infos: dict[str, Any] = {
        "goal": np.zeros((3, 2)),
        "t": np.zeros(3),
        "all": [1],
        "nested": {"x": np.zeros((3, 1))},
    }
    first = told(infos)
    for array in (infos["goal"], infos["t"], infos["nested"]["x"]):
        array += 1
    infos["all"].append(2)
    np.testing.assert_equal(
        first[0], {"goal": np.zeros(2), "t": 0, "all": [1], "nested": {"x": np.zeros(1)}}
    )


FORMS: dict[str, Any] = {
    "list": lambda array: array.tolist(),
    "tuple": lambda array: tuple(array.tolist()),
    "column": lambda array: array[:, None],
    "row": lambda array: array[None],
    "floats": lambda array: array.astype(np.float32),
    "integers": lambda array: array.astype(np.int8),
    "objects": lambda array: array.astype(object),
    "tensor": lambda array: torch.as_tensor(array),
    "list of arrays": lambda array: [np.array([x]) for x in array],
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("mode", [AutoresetMode.NEXT_STEP, AutoresetMode.SAME_STEP])
def test_rewards_and_flags_in_every_form(mode: AutoresetMode, form: str) -> None:
    says = {
        "rewards": np.array([1, 0, 2]),
        "terminated": np.array([True, False, False]),
        "truncated": np.array([True, True, False]),
    }
    infos = {"final_obs": np.ones((3, 2), np.float32)}
    plain, other = (
        GymnasiumVecEnv(
            wrap(
                Telling(
                    infos=infos, mode=mode, **{key: change(array) for key, array in says.items()}
                )
            )
        )
        for change, wrap in ((np.copy, VectorWrapper), (FORMS[form], MetaObservation))
    )
    for _, (ours, theirs) in zip(
        range(4), zip(play(other)[1:], play(plain)[1:], strict=True), strict=False
    ):
        for array, array_2 in zip(ours[1:3], theirs[1:3], strict=True):
            np.testing.assert_array_equal(array, array_2)
            assert array.dtype == array_2.dtype
        assert [info.get("TimeLimit.truncated") for info in ours[3]] == [
            info.get("TimeLimit.truncated") for info in theirs[3]
        ]


@pytest.mark.parametrize(
    ("says", "words"),
    [
        (
            {"rewards": [1.0, None, 2.0]},
            r"the rewards of .*Telling.* must be numbers, got \[1.0, None, 2.0\]",
        ),
        ({"rewards": ["1", "2", "3"]}, "the rewards of .* must be numbers"),
        (
            {"rewards": np.zeros(2)},
            r"the rewards of .* must be one per environment, \[3\], got an array of shape \[2\]",
        ),
        ({"rewards": [[1], [2, 3], [4]]}, r"the rewards of .* must be one per environment, \[3\]"),
        ({"rewards": 1.0}, r"the rewards of .* must be one per environment, \[3\]"),
        (
            {"terminated": np.zeros((3, 3), bool)},
            "the terminations of .* must be one per environment",
        ),
        (
            {"terminated": [0, 0.5, 1]},
            r"the terminations of .* must be true or false, got \[0.0, 0.5, 1.0\]",
        ),
        ({"truncated": [None] * 3}, "the truncations of .* must be numbers"),
        ({"truncated": np.array([0, np.nan, 0])}, "the truncations of .* must be true or false"),
    ],
)
@pytest.mark.parametrize("wrap", [VectorWrapper, MetaObservation])
def test_rewards_and_flags_that_are_none_are_refused(
    wrap: Any, says: dict[str, Any], words: str
) -> None:
    env = GymnasiumVecEnv(wrap(Telling(**says)))
    env.reset()
    with pytest.raises(ValueError, match=words):
        env.step(np.zeros(3, int))


FINAL = np.arange(6, dtype=np.float32).reshape(3, 2)


@pytest.mark.parametrize("wrap", [VectorWrapper, MetaObservation, DictInfoToList])
@pytest.mark.parametrize(
    "final_obs",
    [FINAL, list(FINAL), torch.as_tensor(FINAL), np.array([*FINAL, None], dtype=object)[:3]],
    ids=type,
)
def test_final_observations_in_every_form(final_obs: Any, wrap: Any) -> None:
    says = {
        "terminated": MASK,
        "infos": {"final_obs": FINAL if wrap is DictInfoToList else final_obs},
    }
    env = GymnasiumVecEnv(wrap(Telling(mode=AutoresetMode.SAME_STEP, **says)))
    env.reset()
    infos = env.step(np.zeros(3, int))[3]
    for i in np.flatnonzero(MASK):
        last = infos[i]["terminal_observation"]
        np.testing.assert_array_equal(
            last["observation"] if wrap is MetaObservation else last, FINAL[i]
        )
    assert infos[1] == {}


@pytest.mark.parametrize("wrap", [VectorWrapper, MetaObservation, DictInfoToList])
def test_an_episode_that_terminates_needs_no_final_observation_and_one_that_is_cut_short_does(
    wrap: Any,
) -> None:
    env = GymnasiumVecEnv(
        wrap(Telling(mode=AutoresetMode.SAME_STEP, terminated=MASK, infos={"won": np.arange(3)}))
    )
    env.reset()
    _, _, dones, infos = env.step(np.zeros(3, int))
    assert dones.tolist() == MASK.tolist()
    assert "terminal_observation" not in infos[0]
    assert (infos[2]["won"], infos[2]["episode"]["r"], env.reset_infos[2]["won"]) == (2, 1.0, 2)
    env = GymnasiumVecEnv(wrap(Telling(mode=AutoresetMode.SAME_STEP, truncated=MASK)))
    env.reset()
    with pytest.warns(UserWarning, match=r"cuts episodes short .* gives no infos\['final_obs'\]"):
        infos = env.step(np.zeros(3, int))[3]
    assert infos[0]["TimeLimit.truncated"]


@pytest.mark.parametrize("mode", MODES)
def test_actions_are_not_changed_for_who_took_them(mode: AutoresetMode) -> None:
    env = SyncVectorEnv([partial(Counting, length) for length in LENGTHS], autoreset_mode=mode)
    other = TransformAction(env, lambda actions: np.subtract(1, actions, out=actions))
    ours, actions = GymnasiumVecEnv(other), np.array([0, 1, 1])
    ours.reset()
    ours.step(actions)
    assert actions.tolist() == [0, 1, 1]

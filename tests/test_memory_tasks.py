"""Memory tasks: what they show is enough to answer, what they pay, and the same episodes one at a
time and batched."""

from collections import deque
from collections.abc import Callable
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from gymnasium.wrappers.vector import RecordEpisodeStatistics
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from stable_baselines3.common.env_checker import check_env as sb3_check_env

from envs import TASKS, BanditEnv, BanditVectorEnv, Episodes, MemoryEnv, MemoryTask, MemoryVectorEnv
from mnm_rl import GymnasiumVecEnv

IDS = {
    "recall": "mnm/Recall-v0",
    "dictionary": "mnm/Dictionary-v0",
    "copy": "mnm/Copy-v0",
    "repeat_previous": "mnm/RepeatPrevious-v0",
    "sort": "mnm/Sort-v0",
}
SETTINGS: list[tuple[str, dict[str, Any]]] = [
    ("recall", {}),
    ("recall", {"pairs": 1, "keys": 1, "values": 2}),
    ("recall", {"pairs": 5, "keys": 7, "values": 3}),
    ("dictionary", {}),
    ("dictionary", {"letters": 10, "support": 1, "string_length": 3}),
    ("dictionary", {"letters": 2, "support": 3, "string_length": 1}),
    ("dictionary", {"support": 2, "string_length": 5, "min_string_length": 2, "queries": 3}),
    ("copy", {}),
    ("copy", {"items": 6, "min_items": 1, "symbols": 3}),
    ("repeat_previous", {}),
    ("repeat_previous", {"lag": 32, "steps": 104}),
    ("repeat_previous", {"lag": 3, "steps": 20, "clock": 2}),
    ("sort", {}),
    ("sort", {"items": 5, "answers": 2, "symbols": 4}),
]
every_setting = pytest.mark.parametrize(("name", "settings"), SETTINGS)

VECTORS: list[Callable[[int], Any]] = [
    lambda n: MemoryVectorEnv("recall", n, pairs=3),
    lambda n: MemoryVectorEnv("copy", n, items=3, min_items=1),
    lambda n: MemoryVectorEnv("dictionary", n, string_length=2, min_string_length=1),
    lambda n: BanditVectorEnv(n, arms=3, steps=4),
]
every_kind = pytest.mark.parametrize(
    "vector", VECTORS, ids=["recall", "copies of all lengths", "strings of all lengths", "bandit"]
)


Player = Callable[[NDArray[np.float32]], int]


def recaller(task: Any) -> Player:
    memory: dict[int, int] = {}

    def act(observation: NDArray[np.float32]) -> int:
        keys, values, answer = np.split(observation, [-task.values - 1, -1])
        key = int(keys.argmax())
        if answer:
            return memory[key]
        memory[key] = int(values.argmax())
        return 0

    return act


def translator(task: Any) -> Player:
    dictionary: dict[int, int] = {}
    source: deque[int] = deque()

    def act(observation: NDArray[np.float32]) -> int:
        letter, (is_source, is_translation, answer) = (
            int(observation[:-3].argmax()),
            observation[-3:],
        )
        if is_source:
            source.append(letter)
        elif is_translation:
            dictionary[source.popleft()] = letter
        elif answer:
            return dictionary[source.popleft()]
        return 0

    return act


def copier(task: Any) -> Player:
    symbols: deque[int] = deque()

    def act(observation: NDArray[np.float32]) -> int:
        symbol, answer = observation[task.part("symbol")], observation[task.part("answer")]
        if symbol.any():
            symbols.append(int(symbol.argmax()))
        return symbols.popleft() if answer else 0

    return act


def sorter(task: Any) -> Player:
    items: list[tuple[float, int]] = []

    def act(observation: NDArray[np.float32]) -> int:
        if observation[-1]:
            items.sort()
            return items.pop()[1]
        items.append((float(observation[-2]), int(observation[:-2].argmax())))
        return 0

    return act


PLAYERS = {
    "recall": recaller,
    "dictionary": translator,
    "copy": copier,
    "repeat_previous": copier,
    "sort": sorter,
}


def assert_who_remembers_scores_1(name: str, settings: dict[str, Any], seed: int) -> None:
    env = MemoryEnv(name, **settings)
    observation, _ = env.reset(seed=seed)
    act, total, terminated = PLAYERS[name](env.task), 0.0, False
    while not terminated:
        answers = observation[env.task.part("answer")]
        observation, reward, terminated, _, info = env.step(np.int64(act(observation)))
        assert info["asked"] == bool(answers) == (info["target"] >= 0) == (reward != 0)
        total += reward
    assert total == pytest.approx(1)
    assert info["accuracy"] == 1


@every_setting
def test_who_remembers_scores_1(name: str, settings: dict[str, Any]) -> None:
    for seed in range(20):
        assert_who_remembers_scores_1(name, settings, seed)


sizes = st.integers(1, 6)
some = st.integers(2, 5)
any_settings = st.one_of(
    st.tuples(
        st.just("recall"),
        st.fixed_dictionaries({"pairs": sizes, "keys": st.integers(6, 9), "values": some}),
    ),
    st.tuples(
        st.just("dictionary"),
        st.fixed_dictionaries(
            {"letters": some, "support": sizes, "string_length": sizes, "queries": sizes}
        ),
    ),
    st.tuples(
        st.just("copy"),
        st.fixed_dictionaries({"items": st.integers(6, 9), "min_items": sizes, "symbols": some}),
    ),
    st.tuples(
        st.just("repeat_previous"),
        st.fixed_dictionaries(
            {
                "lag": sizes,
                "steps": st.integers(7, 12),
                "symbols": some,
                "clock": st.integers(0, 3),
            }
        ),
    ),
    st.tuples(
        st.just("sort"),
        st.fixed_dictionaries({"items": st.integers(6, 9), "answers": sizes, "symbols": some}),
    ),
)


@given(drawn=any_settings, seed=st.integers(0, 1000))
def test_who_remembers_scores_1_at_any_difficulty(
    drawn: tuple[str, dict[str, Any]], seed: int
) -> None:
    assert_who_remembers_scores_1(*drawn, seed)


def total_rewards(env: Any, act: Callable[[], NDArray[np.int64]]) -> NDArray[np.float64]:
    """Returns of the first episode of every environment."""
    env.reset(seed=0)
    total, going = np.zeros(env.num_envs), np.ones(env.num_envs, bool)
    while going.any():
        _, rewards, terminated, _, _ = env.step(act())
        total += going * rewards
        going &= ~terminated
    return total


def assert_mean(values: NDArray[Any], expected: float) -> None:
    assert values.mean() == pytest.approx(expected, abs=4 * values.std() / len(values) ** 0.5)


@every_setting
def test_chance_scores_0(name: str, settings: dict[str, Any]) -> None:
    env, rng = MemoryVectorEnv(name, 2000, **settings), np.random.default_rng(1)
    returns = total_rewards(env, lambda: rng.integers(env.task.n_answers, size=2000))
    assert returns.std() > 0
    assert_mean(returns, 0)


@every_setting
def test_who_answers_all_questions_wrong_pays_for_it(name: str, settings: dict[str, Any]) -> None:
    env = MemoryVectorEnv(name, 3, **settings)
    wrong = total_rewards(env, lambda: (np.maximum(env._ask(), 0) + 1) % env.task.n_answers)
    np.testing.assert_allclose(wrong, -1 / (env.task.n_answers - 1))


@pytest.mark.parametrize("arms", [2, 5])
def test_a_bandit_pays_0_for_chance_and_1_for_the_best_arm(arms: int) -> None:
    env, rng = BanditVectorEnv(5000, arms=arms, steps=10), np.random.default_rng(1)
    assert_mean(total_rewards(env, lambda: rng.integers(arms, size=5000)), 0)
    assert_mean(total_rewards(env, lambda: env._odds.argmax(axis=1)), 1)


def test_a_bandit_shows_what_was_pulled_and_whether_it_won() -> None:
    env = BanditEnv(arms=3, steps=500)
    observation, _ = env.reset(seed=0)
    assert not observation.any()
    wins = []
    for _ in range(500):
        observation, reward, terminated, _, info = env.step(np.int64(2))
        assert observation[:3].tolist() == [0, 0, 1]
        assert (reward > 0) == (observation[3] == 1)
        assert info["asked"]
        wins.append(observation[3])
    odds = env._batch._odds[0]  # type: ignore[attr-defined]
    assert terminated
    assert np.mean(wins) == pytest.approx(odds[2], abs=0.1)
    assert info["target"] == odds.argmax()
    assert info["accuracy"] == float(odds.argmax() == 2)


@every_setting
def test_episodes_are_as_large_as_the_task_says(name: str, settings: dict[str, Any]) -> None:
    task = TASKS[name](**settings)
    observations, targets = task.episodes(np.random.default_rng(0), 50)
    assert observations.shape == (task.length, 50, task.observation_size)
    assert targets.shape == (task.length, 50)
    assert (observations.dtype, targets.dtype) == (np.float32, np.int64)
    assert set(np.unique(targets).tolist()) == {-1, *range(task.n_answers)}
    low, high = task.bounds
    assert (observations >= low).all()
    assert (observations <= high).all()


@every_setting
def test_episodes_are_independent_and_their_answers_evenly_distributed(
    name: str, settings: dict[str, Any]
) -> None:
    task, rng = TASKS[name](**settings), np.random.default_rng(0)
    draws = [task.episodes(rng, 4000).targets for _ in range(2)]
    # neighbours, and one after the other
    for here, there in ((draws[0][:, :-1], draws[0][:, 1:]), (draws[0], draws[1])):
        both = (here >= 0) & (there >= 0)
        assert_mean((here == there)[both], 1 / task.n_answers)
    for t in range(task.length):
        asked = draws[0][t][draws[0][t] >= 0]
        for answer in range(task.n_answers) if asked.size else ():
            assert (asked == answer).mean() == pytest.approx(
                1 / task.n_answers, abs=5 * (0.25 / asked.size) ** 0.5
            )


@given(letters=st.integers(2, 9), support=sizes, string_length=sizes, seed=st.integers(0, 1000))
def test_a_dictionary_is_one_to_one_and_shown_as_far_as_there_is_room(
    letters: int, support: int, string_length: int, seed: int
) -> None:
    task = TASKS["dictionary"](letters=letters, support=support, string_length=string_length)
    observations, _ = task.episodes(np.random.default_rng(seed), 1)
    letter = observations[:, 0, :letters].argmax(axis=1)
    is_source, is_translation = (
        observations[:, 0, letters] == 1,
        observations[:, 0, letters + 1] == 1,
    )
    room = support * string_length
    shown, translated, asked = (
        letter[is_source][:room],
        letter[is_translation],
        letter[is_source][room:],
    )
    assert (
        len(set(zip(shown, translated, strict=True)))
        == len(set(shown))
        == len(set(translated))
        == min(room, letters)
    )
    assert set(asked) <= set(shown)
    times = np.unique(shown, return_counts=True)[1]
    assert times.max() - times.min() <= 1


def test_copies_end_when_all_is_copied() -> None:
    env = MemoryVectorEnv("copy", 1000, items=6, min_items=3)
    env.reset(seed=0)
    lengths = np.zeros(1000, int)
    for t in range(1, 13):
        _, _, terminated, _, infos = env.step(np.zeros(1000, np.int64))
        lengths[terminated & (lengths == 0)] = t
        if terminated.any():
            assert (infos["final_info"]["questions"][terminated & (lengths == t)] == t // 2).all()
    assert set(lengths.tolist()) == {6, 8, 10, 12}
    assert_mean(lengths == 6, 1 / 4)


def test_popgyms_medium_setting_is_one_of_repeat_previous() -> None:
    """There, too, 72 of the answers count: 104 cards, and the first 32 have no card to be compared
    with."""
    task = TASKS["repeat_previous"](lag=32, steps=104)
    assert (task.episodes(np.random.default_rng(0), 1).targets >= 0).sum() == 104 - 32
    assert task.n_answers == 4


def test_a_clock_tells_the_step_and_every_hand_goes_round_in_twice_as_many() -> None:
    task = TASKS["repeat_previous"](steps=64, clock=5)
    observations, _ = task.episodes(np.random.default_rng(0), 3)
    clock = observations[:, :, task.part("clock")]
    np.testing.assert_array_equal(clock, np.broadcast_to(clock[:, :1], clock.shape))
    assert len(np.unique(clock[:, 0].round(3), axis=0)) == 64
    for hand in range(5):
        sine, cosine = clock[:, 0, hand], clock[:, 0, 5 + hand]
        np.testing.assert_allclose(sine**2 + cosine**2, 1, atol=1e-6)
        (midnights,) = np.nonzero(cosine > 1 - 1e-6)
        assert midnights.tolist() == list(range(0, 64, 4 * 2**hand))


def test_a_clock_is_not_described() -> None:
    assert TASKS["repeat_previous"](clock=3).describe(np.ones(11, np.float32)) == "symbol 0  answer"


@pytest.mark.filterwarnings("ignore:.*render")
@pytest.mark.parametrize(
    ("env_id", "settings"),
    [*((IDS[name], settings) for name, settings in SETTINGS), ("mnm/Bandit-v0", {})],
)
def test_passes_the_checkers_of_gymnasium_and_stable_baselines3(
    env_id: str, settings: dict[str, Any]
) -> None:
    env = gym.make(env_id, **settings).unwrapped
    check_env(env)
    sb3_check_env(env)


@pytest.mark.parametrize(
    ("env_id", "settings", "horizon"),
    [
        ("mnm/Recall-v0", {"pairs": 3}, 6),
        ("mnm/Dictionary-v0", {"support": 2, "string_length": 3}, 18),
        ("mnm/Copy-v0", {"items": 4}, 8),
        ("mnm/RepeatPrevious-v0", {"steps": 9}, 9),
        ("mnm/Sort-v0", {"items": 5, "answers": 2}, 7),
        ("mnm/Bandit-v0", {"steps": 7}, 7),
    ],
)
def test_registered_environments_are_native_batches_of_the_single_ones(
    env_id: str, settings: dict[str, Any], horizon: int
) -> None:
    single, batched = (
        gym.make(env_id, **settings).unwrapped,
        gym.make_vec(env_id, num_envs=2, **settings).unwrapped,
    )
    assert isinstance(single, MemoryEnv | BanditEnv)
    assert isinstance(batched, MemoryVectorEnv | BanditVectorEnv)
    assert single.horizon == batched.horizon == horizon
    assert single.observation_space == batched.single_observation_space
    assert single.action_space == batched.single_action_space


@every_kind
@given(seed=st.integers(0, 10_000))
def test_single_and_batched_are_the_same_given_the_same_seed(
    vector: Callable[[int], Any], seed: int
) -> None:
    batch = vector(1)
    if isinstance(batch, BanditVectorEnv):
        single: Any = BanditEnv(arms=3, steps=4)
    else:
        single = MemoryEnv(batch.task)
    rng = np.random.default_rng(seed)
    observations, _ = batch.reset(seed=seed)
    observation, _ = single.reset(seed=seed)
    np.testing.assert_array_equal(observations[0], observation)
    for _ in range(20):
        action = rng.integers(single.action_space.n)
        observations, rewards, terminations, truncations, infos = batch.step(np.array([action]))
        observation, reward, terminated, truncated, info = single.step(action)
        assert (reward, terminated, truncated) == (rewards[0], terminations[0], truncations[0])
        if terminated:
            np.testing.assert_array_equal(infos["final_obs"][0], observation)
            assert info == {key: infos["final_info"][key][0] for key in info}
            assert not infos["_asked"][0]
            observation, _ = single.reset()
        else:
            assert info == {key: infos[key][0] for key in info}
            assert infos["_asked"][0]
        np.testing.assert_array_equal(observations[0], observation)


@every_setting
def test_a_batch_plays_the_episodes_that_the_task_draws(
    name: str, settings: dict[str, Any]
) -> None:
    """Each of them as it is, whatever the others do."""
    env = MemoryVectorEnv(name, 3, **settings)
    first, _ = env.reset(seed=0)
    observations, targets = env.task.episodes(np.random.default_rng(0), 3)
    np.testing.assert_array_equal(first, observations[0])
    going = np.ones(3, bool)
    for t in range(env.horizon):
        seen, _, terminated, _, infos = env.step(np.array([0, 1, 1]))
        for i in np.flatnonzero(going):
            info = {
                key: infos["final_info"][key][i] if terminated[i] else infos[key][i]
                for key in ("asked", "target")
            }
            assert info == {"asked": targets[t, i] >= 0, "target": targets[t, i]}
            if terminated[i]:
                assert (targets[t + 1 :, i] == -1).all()
                assert not infos["final_obs"][i].any()
            else:
                np.testing.assert_array_equal(seen[i], observations[t + 1, i])
        going &= ~terminated
    assert not going.any()


def run(env: Any, seed: int, steps: int = 40) -> list[NDArray[Any]]:
    rng = np.random.default_rng(1)
    return [
        env.reset(seed=seed)[0],
        *(env.step(rng.integers(env.single_action_space.n, size=8))[0] for _ in range(steps)),
    ]


@every_kind
def test_seeds_make_the_same_episodes(vector: Callable[[int], Any]) -> None:
    np.testing.assert_array_equal(run(vector(8), 5), run(vector(8), 5))
    assert (np.array(run(vector(8), 5)) != np.array(run(vector(8), 6))).any()


@every_kind
def test_a_mask_resets_only_the_environments_it_names(vector: Callable[[int], Any]) -> None:
    env, undisturbed = vector(4), vector(4)
    for other in (env, undisturbed):
        other.reset(seed=0)
        seen = other.step(np.zeros(4, np.int64))[0]
    observations, _ = env.reset(options={"reset_mask": np.array([False, True, False, False])})
    np.testing.assert_array_equal(observations[[0, 2, 3]], seen[[0, 2, 3]])
    assert env._t.tolist() == [1, 0, 1, 1]
    assert env.episode_info()["questions"][1] == 0
    if isinstance(env, MemoryVectorEnv):
        np.testing.assert_array_equal(
            env._observations[:, [0, 2, 3]], undisturbed._observations[:, [0, 2, 3]]
        )
        assert (env._observations[:, 1] != undisturbed._observations[:, 1]).any()


@every_kind
def test_what_a_step_returned_stays_as_it_was(vector: Callable[[int], Any]) -> None:
    env = vector(3)
    kept, copies, actions = [], [], np.ones(3, np.int64)
    env.reset(seed=0)
    for _ in range(14):
        *arrays, infos = env.step(actions)
        result = [
            *arrays,
            actions,
            *(
                value
                for key, value in infos.items()
                if not key.endswith(("final_obs", "final_info"))
            ),
        ]
        result += list(infos.get("final_info", {}).values())
        kept.append(result)
        copies.append([array.copy() for array in result])
    env.reset(options={"reset_mask": np.array([True, False, False])})
    for result, copy in zip(kept, copies, strict=True):
        np.testing.assert_equal(result, copy)


@every_kind
def test_stable_baselines3_gets_the_figures_of_each_episode(vector: Callable[[int], Any]) -> None:
    env = GymnasiumVecEnv(RecordEpisodeStatistics(vector(5)))
    env.seed(0)
    env.reset()
    finished = 0
    for _ in range(20):
        *_, dones, infos = env.step(np.zeros(5, np.int64))
        for done, info in zip(dones, infos, strict=True):
            assert "asked" in info
            assert "target" in info
            assert ("accuracy" in info) == ("questions" in info) == done
            if done:
                finished += 1
                assert info["terminal_observation"].shape == env.observation_space.shape
                if isinstance(env.env.unwrapped, MemoryVectorEnv):
                    n = env.action_space.n  # type: ignore[attr-defined]
                    assert info["episode"]["r"] == pytest.approx(
                        (info["accuracy"] * n - 1) / (n - 1), abs=1e-6
                    )
    assert finished > 5


def test_the_picture_is_what_was_seen_and_answered() -> None:
    env = MemoryEnv("recall", render_mode="ansi", pairs=1, values=2)
    env.reset(seed=0)
    observations, _ = env.task.episodes(np.random.default_rng(0), 1)
    key, value = observations[0, 0, :2].argmax(), observations[0, 0, 2:4].argmax()
    assert env.render() == f"  1  key {key}  value {value}"
    env.step(np.int64(0))
    assert env.render() == f"  1  key {key}  value {value}\n  2  key {key}  answer"
    env.step(np.int64(value))
    assert env.render().splitlines()[1] == f"  2  key {key}  answer  -> {value}, right"
    env.reset(seed=0)
    env.step(np.int64(0))
    env.step(np.int64(1 - value))
    assert (
        env.render().splitlines()[1] == f"  2  key {key}  answer  -> {1 - value}, right is {value}"
    )

    batch = MemoryVectorEnv("sort", 2, render_mode="ansi")
    batch.reset(seed=0)
    batch.step(np.zeros(2, np.int64))
    batch.reset(options={"reset_mask": np.array([True, False])})
    assert [len(picture.splitlines()) for picture in batch.render() or ()] == [1, 2]
    assert all("priority" in picture for picture in batch.render() or ())

    bandit = BanditEnv(render_mode="ansi")
    bandit.reset(seed=0)
    bandit.step(np.int64(3))
    first, second = bandit.render().splitlines()
    assert first.startswith("  1  first pull  -> 3, ")
    assert second in ("  2  arm 3 won", "  2  arm 3 lost")
    assert MemoryEnv("copy").render() is MemoryVectorEnv("copy").render() is None


def test_a_task_of_ones_own_is_played_as_it_is() -> None:
    class Echo(MemoryTask):
        """Say what is shown."""

        parts, n_answers, length = {"symbol": 2}, 2, 1  # type: ignore[assignment]

        def episodes(self, rng: np.random.Generator, n: int) -> Episodes:
            symbols = rng.integers(2, size=(1, n))
            return Episodes(np.eye(2, dtype=np.float32)[symbols], symbols)

    env = MemoryVectorEnv(Echo(), num_envs=4)
    observations, _ = env.reset(seed=0)
    for _ in range(3):
        observations, rewards, terminated, _, _ = env.step(observations.argmax(axis=1))
        assert rewards.tolist() == [1] * 4
        assert terminated.all()
    with pytest.raises(ValueError, match="has its settings already, got pairs"):
        MemoryVectorEnv(Echo(), pairs=3)


@pytest.mark.parametrize(
    ("name", "wrong", "message"),
    [
        (
            "recall",
            {"pairs": 0},
            "the pairs of mnm/Recall must be a whole number, at least 1, got 0",
        ),
        (
            "recall",
            {"pairs": 2.5},
            "the pairs of mnm/Recall must be a whole number, at least 1, got 2.5",
        ),
        (
            "recall",
            {"pairs": 20, "keys": 16},
            "the keys of mnm/Recall must be at least its pairs, 20, got 16",
        ),
        (
            "recall",
            {"values": 1},
            "the values of mnm/Recall must be a whole number, at least 2, got 1",
        ),
        (
            "dictionary",
            {"letters": 1},
            "the letters of mnm/Dictionary must be a whole number, at least 2, got 1",
        ),
        (
            "dictionary",
            {"support": "many"},
            "the support of mnm/Dictionary must be a whole number, at least 1, got 'many'",
        ),
        ("dictionary", {"string_length": 0}, "the string_length of mnm/Dictionary must be"),
        (
            "copy",
            {"items": 5, "min_items": 6},
            "the min_items of mnm/Copy must be at most its items, 5, got 6",
        ),
        (
            "dictionary",
            {"min_string_length": 5},
            "the min_string_length of mnm/Dictionary must be at most its string_length, 4, got 5",
        ),
        (
            "copy",
            {"min_items": 0},
            "the min_items of mnm/Copy must be a whole number, at least 1, got 0",
        ),
        (
            "repeat_previous",
            {"lag": 52},
            "the steps of mnm/RepeatPrevious must be more than its lag, 52, got 52",
        ),
        (
            "repeat_previous",
            {"lag": 0},
            "the lag of mnm/RepeatPrevious must be a whole number, at least 1, got 0",
        ),
        (
            "repeat_previous",
            {"clock": -1},
            "the clock of mnm/RepeatPrevious must be a whole number, at least 0, got -1",
        ),
        (
            "sort",
            {"items": 4, "answers": 5},
            "the answers of mnm/Sort must be at most its items, 4, got 5",
        ),
        (
            "sort",
            {"symbols": True},
            "the symbols of mnm/Sort must be a whole number, at least 2, got True",
        ),
        (
            "solitaire",
            {},
            "task must be one of recall, dictionary, copy, repeat_previous, sort, got 'solitaire'",
        ),
        (
            "recall",
            {"render_mode": "human"},
            r"render_mode must be one of \['ansi'\] or None, got 'human'",
        ),
    ],
)
def test_wrong_settings_are_refused_with_what_would_be_right(
    name: str, wrong: dict[str, Any], message: str
) -> None:
    for make in (MemoryEnv, MemoryVectorEnv):
        with pytest.raises(ValueError, match=message):
            make(name, **wrong)


def test_a_wrong_bandit_is_refused_with_what_would_be_right() -> None:
    for make in (BanditEnv, BanditVectorEnv):
        with pytest.raises(
            ValueError, match="the arms of mnm/Bandit must be a whole number, at least 2, got 1"
        ):
            make(arms=1)
        with pytest.raises(
            ValueError, match="the steps of mnm/Bandit must be a whole number, at least 1, got 0"
        ):
            make(steps=0)


def test_answers_that_do_not_exist_are_refused() -> None:
    single, batched = MemoryEnv("recall"), MemoryVectorEnv("recall", 2)
    single.reset()
    batched.reset()
    for action in (-1, 4):
        with pytest.raises(ValueError, match=rf"actions are answers from 0 to 3, got \[.*{action}"):
            single.step(np.int64(action))
        with pytest.raises(ValueError, match="actions are answers from 0 to 3"):
            batched.step(np.array([0, action]))
    with pytest.raises(ValueError, match="num_envs must be at least 1, got 0"):
        MemoryVectorEnv("recall", 0)

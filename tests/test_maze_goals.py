"""The maze with several goals: what is seen, asked for and paid, one at a time and batched."""

from itertools import pairwise
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from hypothesis import given
from hypothesis import strategies as st
from stable_baselines3.common.env_checker import check_env as sb3_check_env

from envs import MazeGoalsEnv, MazeGoalsVectorEnv
from envs.layouts import distances, free_cells
from envs.references import REFERENCES, reference_episodes

TINY = "####\n#..#\n##.#\n####"
MAZES: list[dict[str, Any]] = [
    {"horizon": 60},
    {"size": 7, "horizon": 30, "view": 5, "wall_penalty": 0.25, "colors": 3},
    {"layout": "open", "start": "random", "horizon": 50, "colors": 2},
    {"layout": "perfect", "horizon": 40},
    {"layout": "perfect", "size": 5, "horizon": 40, "start": "random"},  # no cell is left over
    {"size": 7, "horizon": 30, "mask_walls": True},
    {"layout": TINY, "horizon": 20, "view": 1, "colors": 2},
    {"layout": "..\n..\n..", "horizon": 40, "view": 7, "goal_reward": 1.0, "colors": 4},
]


@pytest.mark.filterwarnings("ignore:.*render")
@pytest.mark.parametrize("maze", MAZES)
def test_passes_the_checkers_of_gymnasium_and_stable_baselines3(maze: dict[str, Any]) -> None:
    env = gym.make("mnm/MazeGoals-v0", **maze).unwrapped
    check_env(env)
    sb3_check_env(env)
    batched = gym.make_vec("mnm/MazeGoals-v0", num_envs=2, **maze).unwrapped
    assert isinstance(batched, MazeGoalsVectorEnv)
    assert batched.single_observation_space == env.observation_space


@pytest.mark.parametrize("start", ["center", "random"])
@pytest.mark.parametrize("layout", ["pillars", "open", "perfect"])
def test_goals_and_start_are_where_they_may_be_and_every_color_is_asked_for(
    layout: str, start: Any
) -> None:
    env, rows = (
        MazeGoalsVectorEnv(500, layout=layout, start=start, size=7, colors=5),
        np.arange(500),
    )
    env.reset(seed=0)
    cells = np.concatenate([env.goal_cells, env.position[:, None]], axis=1)
    assert not env.walls[rows[:, None], cells[..., 0], cells[..., 1]].any()
    assert all(len({*map(tuple, of_one)}) == 6 for of_one in cells.tolist())
    assert (env.goal == env.goal_cells[rows, env.color]).all()
    assert np.bincount(env.color, minlength=5).min() > 60
    if start == "center":
        assert (env.position == env.position[0]).all() or layout == "perfect"
    elif layout == "pillars":
        assert len(np.unique(env.position, axis=0)) == (~env.walls[0]).sum()
    first = len(np.unique(env.goal_cells[:, 0], axis=0))
    # anywhere but in the centre
    assert first == (~env.walls).any(axis=0).sum() - 1 or layout == "perfect"


def test_rules() -> None:
    env = MazeGoalsEnv(layout=".....", horizon=9, wall_penalty=0.5, colors=2)
    env.reset(seed=0)
    env.goal_cells, env.position = ((0, 0), (0, 3)), (0, 2)
    env.seen[:] = False
    env._ask(0)
    other, asked = [0] * 9, [1, 0]
    obs = env._observation(0.0, None)
    assert obs.tolist() == [
        1,
        1,
        1,
        0,
        0,
        0,
        1,
        1,
        1,
        1,
        0,
        0,
        0,
        0,
        0,
        0,
        *other,
        0,
        0,
        0,
        0,
        0,
        1,
        0,
        0,
        0,
        *asked,
    ]
    obs, reward, *_ = env.step(np.int64(3))  # onto the goal that is not asked for
    assert (env.position, reward, env.color) == ((0, 3), 0, 0)
    rewards = [env.step(np.int64(2))[1] for _ in range(3)]
    assert (env.position, rewards) == ((0, 0), [0, 0, 10])  # and it stays there
    assert (env.color, env.goal) == (1, (0, 3))
    obs, reward, *_ = env.step(np.int64(2))  # into the wall, on a goal that is no longer asked for
    assert (env.position, reward) == ((0, 0), -0.5)
    assert obs[-2:].tolist() == [0, 1]
    rewards = [env.step(np.int64(3))[1] for _ in range(3)]
    assert (rewards, env.color) == ([0, 0, 10], 0)
    *_, terminated, truncated, info = env.step(np.int64(0))
    assert terminated
    assert not truncated
    assert info == {
        "goals": 2,
        "steps_to_first_goal": 4,
        "mean_steps_between_goals": 4.0,
        "mean_steps_to_seen_goals": 4.0,
    }


class Told(MazeGoalsEnv):
    """A maze that is told which color to ask for."""

    told = 0

    def _ask(self, color: int) -> None:
        super()._ask(self.told)


@pytest.mark.parametrize("maze", MAZES)
@given(seed=st.integers(0, 10_000))
def test_single_and_batched_mazes_agree(maze: dict[str, Any], seed: int) -> None:
    """For the same layout, goals, colors and actions."""
    rng, n = np.random.default_rng(seed), 3
    batched = MazeGoalsVectorEnv(n, **maze)
    observations, _ = batched.reset(seed=seed)
    singles = [Told(**maze) for _ in range(n)]
    for i, env in enumerate(singles):
        env.reset(seed=0)
        env.walls, env.position = batched.walls[i].copy(), tuple(batched.position[i].tolist())
        env.goal_cells, env.told = (
            tuple(map(tuple, batched.goal_cells[i].tolist())),
            batched.color[i],
        )
        env.seen[:] = False
        env._ask(0)
        np.testing.assert_array_equal(observations[i], env._observation(0.0, None))
    for _ in range(batched.horizon):
        actions = rng.integers(4, size=n)
        observations, rewards, terminations, truncations, infos = batched.step(actions)
        for i, env in enumerate(singles):
            final = infos["final_obs"][i] if terminations[i] else observations[i]
            before, env.told = env.color, final[-env.task.colors :].argmax()
            obs, reward, terminated, truncated, info = env.step(actions[i])
            assert (reward, terminated, truncated) == (rewards[i], terminations[i], truncations[i])
            assert (env.told != before) == (reward == env.task.goal_reward)
            np.testing.assert_array_equal(final, obs)
            if terminated:
                np.testing.assert_equal(info, {key: infos["final_info"][key][i] for key in info})
            else:
                assert batched.goal_found[i] == env.seen[env.color]
                np.testing.assert_equal(info, {key: infos[key][i] for key in info})


@given(seed=st.integers(0, 1000))
def test_goals_are_seen_where_they_are(seed: int) -> None:
    env, rng = MazeGoalsEnv(size=7, view=5, layout="perfect", colors=4), np.random.default_rng(seed)
    env.reset(seed=seed)
    for _ in range(20):
        obs, *_ = env.step(rng.integers(4))
        planes = obs[25 + 7 : -4].reshape(4, 5, 5)
        seen = {
            (c, env.position[0] + r - 2, env.position[1] + k - 2)
            for c, r, k in np.argwhere(planes).tolist()
        }
        near = {
            (c, *cell)
            for c, cell in enumerate(env.goal_cells)
            if max(np.abs(np.subtract(cell, env.position))) <= 2
        }
        assert seen == near


def test_the_next_color_is_any_but_the_last() -> None:
    env, hits = (
        MazeGoalsVectorEnv(64, layout="..\n..", colors=3, horizon=1000),
        np.zeros((3, 3), int),
    )
    env.reset(seed=0)
    rng, before = np.random.default_rng(0), env.color.copy()
    for _ in range(300):
        _, rewards, *_ = env.step(rng.integers(4, size=64))
        np.add.at(hits, (before[rewards > 0], env.color[rewards > 0]), 1)
        before = env.color.copy()
    shares = hits / hits.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(shares, (1 - np.eye(3)) / 2, atol=0.05)


def test_seeds_make_the_same_episodes_and_a_mask_resets_only_the_environments_it_names() -> None:
    runs = []
    for _ in range(2):
        env, rng = MazeGoalsVectorEnv(8, layout="perfect"), np.random.default_rng(1)
        runs.append(
            [env.reset(seed=5)[0], *(env.step(rng.integers(4, size=8))[0] for _ in range(250))]
        )
    np.testing.assert_array_equal(runs[0], runs[1])
    before, found = runs[0][-1], env.goal_found
    after, _ = env.reset(options={"reset_mask": np.arange(8) == 3})
    others = np.arange(8) != 3
    np.testing.assert_array_equal(after[others], before[others])
    np.testing.assert_array_equal(env.goal_found[others], found[others])
    assert after[3, 10] == 0


def test_the_oracle_needs_shortest_paths() -> None:
    """Between the goals that are asked for, one after the other, from where each was reached."""
    env = MazeGoalsVectorEnv(30, layout="perfect", horizon=60, size=7)
    env.reset(seed=0)
    played = reference_episodes(
        "oracle", 30, env_class=MazeGoalsVectorEnv, layout="perfect", horizon=60, size=7
    )
    for i in range(30):
        cells = free_cells(env.walls[i]).tolist()
        shortest = distances(env.walls[i])[
            cells.index(env.position[i].tolist()), cells.index(env.goal[i].tolist())
        ]
        assert played["steps_to_first_goal"][i] == shortest


@pytest.mark.parametrize(
    "maze", [{"size": 7, "horizon": 100}, {"size": 7, "horizon": 100, "layout": "perfect"}]
)
def test_who_knows_more_finds_more(maze: dict[str, Any]) -> None:
    played = {
        of: reference_episodes(of, 200, env_class=MazeGoalsVectorEnv, **maze) for of in REFERENCES
    }
    assert all(
        3 * a["goals"].mean() < 2 * b["goals"].mean()
        for a, b in pairwise([played["random"], played["explorer"]])
    )
    assert played["explorer"]["goals"].mean() < 0.97 * played["oracle"]["goals"].mean()
    assert (played["explorer"]["return"] == 10 * played["explorer"]["goals"]).all()
    seen = {
        of: np.mean([s for s in figures["mean_steps_to_seen_goals"] if s is not None])
        for of, figures in played.items()
    }
    # what has been seen is all that the explorer needs
    assert seen["explorer"] == pytest.approx(seen["oracle"], rel=0.1)
    assert seen["random"] > 2 * seen["oracle"]


def test_a_picture_shows_all_goals_and_the_one_that_is_asked_for() -> None:
    env = MazeGoalsEnv(render_mode="ansi")
    env.reset(seed=0)
    text = env.render()
    assert (text.count("A"), text.count("G"), text.count("g")) == (1, 1, 5)
    env.render_mode = "rgb_array"
    picture = env.render()
    colors = [tuple(picture[32 * row + 16, 32 * col + 16]) for row, col in env.goal_cells]
    assert len(set(colors)) == 6
    env.goal, env.position = (-1, -1), (1, 1)  # out of reach
    env.step(np.int64(0))
    env.goal = env.goal_cells[env.color]
    assert tuple(env.render()[-8, 0]) == colors[env.color]  # the time that is over
    frames = MazeGoalsVectorEnv(2, render_mode="rgb_array")
    frames.reset(seed=0)
    assert [frame.shape for frame in frames.render() or ()] == [picture.shape] * 2


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"colors": 1}, "at least 2 colors, got 1"),
        ({"colors": 2.0}, "whole number, got 2.0"),
        (
            {"colors": 2, "layout": ".."},
            "with 2 goals needs 3 free cells, one for the agent; the layout has 2",
        ),
        (
            {"colors": 7, "layout": "perfect", "size": 5},
            "needs 8 free cells, one for the agent; the layout has 7",
        ),
        ({"size": 8}, "odd and at least 5, got 8"),
        ({"render_mode": "human"}, "render_mode"),
    ],
)
def test_wrong_arguments_are_refused_with_what_is_wrong(
    wrong: dict[str, Any], message: str
) -> None:
    for make in (MazeGoalsEnv, MazeGoalsVectorEnv):
        with pytest.raises(ValueError, match=message):
            make(**wrong)

"""The maze: its rules, its layouts, and the same transitions one at a time and batched."""

from copy import deepcopy

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from hypothesis import given
from hypothesis import strategies as st
from stable_baselines3.common.env_checker import check_env as sb3_check_env

from envs import MazeEnv, MazeVectorEnv
from envs.layouts import distances, perfect, pillars
from envs.maze import MOVES
from envs.references import REFERENCES, reference_episodes

TINY = "####\n#..#\n##.#\n####"
MAZES = [
    {},
    {"size": 7, "horizon": 30, "view": 5, "wall_penalty": 0.25},
    {"layout": "open", "start": "random", "horizon": 50},
    {"layout": "perfect", "horizon": 40},
    {"size": 7, "horizon": 30, "mask_walls": True},
    {"layout": TINY, "horizon": 20, "view": 1},
    {"layout": "..\n..\n..", "horizon": 20, "view": 7, "goal_reward": 1.0},
]


@pytest.mark.filterwarnings("ignore:.*render")
@pytest.mark.parametrize("maze", MAZES)
@pytest.mark.parametrize("env_id", ["mnm/Maze-v0", "mnm/MazeSmall-v0"])
def test_passes_the_checkers_of_gymnasium_and_stable_baselines3(
    env_id: str, maze: dict[str, object]
) -> None:
    env = gym.make(env_id, **maze).unwrapped  # type: ignore[arg-type]
    check_env(env)
    sb3_check_env(env)


def test_registered_mazes_are_the_papers_and_a_small_one() -> None:
    for env_id, size, horizon in (("mnm/Maze-v0", 9, 200), ("mnm/MazeSmall-v0", 7, 100)):
        single, batched = gym.make(env_id).unwrapped, gym.make_vec(env_id, num_envs=2).unwrapped
        assert isinstance(single, MazeEnv)
        assert isinstance(batched, MazeVectorEnv)
        for env in (single, batched):
            assert (env.task.size, env.task.horizon) == (size, horizon)


def test_the_pillars_stand_on_even_cells_and_the_centre_is_open() -> None:
    walls = pillars(9)
    for row in range(9):
        for col in range(9):
            border = row in (0, 8) or col in (0, 8)
            assert walls[row, col] == (
                border or (row % 2 == 0 and col % 2 == 0 and (row, col) != (4, 4))
            )


@given(size=st.sampled_from([5, 7, 9, 13]), seed=st.integers(0, 1000))
def test_a_perfect_maze_has_one_path_between_any_two_cells(size: int, seed: int) -> None:
    walls = perfect(size, np.random.default_rng(seed))
    assert np.isfinite(distances(walls)).all()
    free = ~walls
    edges = (free[1:] & free[:-1]).sum() + (free[:, 1:] & free[:, :-1]).sum()
    assert edges == free.sum() - 1  # connected with n - 1 edges: a tree
    assert free[1::2, 1::2].all()


def test_perfect_mazes_are_new_every_episode() -> None:
    env = MazeEnv(layout="perfect")
    env.reset(seed=0)
    first = env.walls.copy()
    env.reset()
    assert (env.walls != first).any()


def test_rules() -> None:
    env = MazeEnv(layout="...\n...\n...", horizon=5, wall_penalty=0.5)
    obs, _ = env.reset(seed=0)
    assert env.position == (1, 1)
    assert obs.tolist() == [0] * 9 + [1, 0, 0] + [0] * 4
    env.goal = (0, 2)
    obs, reward, *_ = env.step(np.int64(0))
    assert (env.position, reward) == ((0, 1), 0)
    np.testing.assert_allclose(obs, [1, 1, 1, 0, 0, 0, 0, 0, 0, 1, 0.2, 0, 1, 0, 0, 0], rtol=1e-6)
    obs, reward, *_ = env.step(np.int64(0))  # into the wall
    assert (env.position, reward) == ((0, 1), -0.5)
    assert obs[11] == -0.5
    obs, reward, *_ = env.step(np.int64(3))  # onto the goal
    assert reward == 10
    assert env.position != env.goal == (0, 2)
    np.testing.assert_allclose(obs[9:], [1, 0.6, 10, 0, 0, 0, 1], rtol=1e-6)


def test_info_at_the_end_of_an_episode() -> None:
    env = MazeEnv(layout="..", horizon=5)  # wherever the agent is put, the goal is the other cell
    env.reset(seed=0)
    toward = np.int64(3 if env.goal[1] > env.position[1] else 2)
    away = np.int64(5 - toward)
    results = [env.step(action) for action in (away, toward, toward, away, toward)]
    assert [info for *_, info in results[:4]] == [{}] * 4
    *_, terminated, truncated, info = results[-1]
    assert terminated
    assert not truncated
    assert info == {"goals": 3, "steps_to_first_goal": 2, "mean_steps_between_goals": 1.5}


def test_info_without_a_goal() -> None:
    env = MazeEnv(layout="..", horizon=3)
    env.reset(seed=0)
    away = np.int64(2 if env.goal[1] > env.position[1] else 3)
    *_, info = [env.step(away) for _ in range(3)][-1]
    assert info == {"goals": 0, "steps_to_first_goal": 3, "mean_steps_between_goals": None}


@pytest.mark.parametrize("start", ["center", "random"])
@pytest.mark.parametrize("layout", ["pillars", "open", "perfect", TINY])
def test_goal_and_start_are_where_they_may_be(layout: str, start: str) -> None:
    env = MazeVectorEnv(500, layout=layout, start=start, size=7)  # type: ignore[arg-type]
    env.reset(seed=0)
    rows = np.arange(500)
    assert not env.walls[rows, *env.goal.T].any()
    assert not env.walls[rows, *env.position.T].any()
    assert (env.goal != env.position).any(axis=1).all()
    if start == "center":
        assert (env.position == env.position[0]).all()
        if layout in ("pillars", "open"):
            assert env.position[0].tolist() == [3, 3]
    elif layout == "pillars":
        assert len(np.unique(env.position, axis=0)) == (~env.walls[0]).sum()


@pytest.mark.parametrize("maze", MAZES)
@given(seed=st.integers(0, 10_000))
def test_single_and_batched_mazes_agree(maze: dict[str, object], seed: int) -> None:
    """For the same layout, goal and actions; where the goal is hit, the single one is put where the
    batched one was."""
    rng = np.random.default_rng(seed)
    batched, n = MazeVectorEnv(3, **maze), 3  # type: ignore[arg-type]
    observations, _ = batched.reset(seed=seed)
    singles = [MazeEnv(**maze) for _ in range(n)]  # type: ignore[arg-type]
    for i, env in enumerate(singles):
        env.reset(seed=0)
        env.walls = batched.walls[i].copy()
        env.free = [tuple(cell) for cell in np.argwhere(~env.walls).tolist()]
        env.goal, env.position = (
            tuple(batched.goal[i].tolist()),
            tuple(batched.position[i].tolist()),
        )
        np.testing.assert_array_equal(observations[i], env._observation(0.0, None))
    for _ in range(batched.horizon):
        actions = rng.integers(4, size=n)
        observations, rewards, terminations, truncations, infos = batched.step(actions)
        for i, env in enumerate(singles):
            obs, reward, terminated, truncated, info = env.step(actions[i])
            assert (reward, terminated, truncated) == (rewards[i], terminations[i], truncations[i])
            final = infos["final_obs"][i] if terminated else observations[i]
            if reward == env.task.goal_reward:
                # all but what is seen after the jump
                assert obs[env.task.view**2 :].tolist() == final[env.task.view**2 :].tolist()
                if not terminated:
                    env.position = tuple(batched.position[i].tolist())
            else:
                np.testing.assert_array_equal(final, obs)
            if terminated:
                jumped = reward == env.task.goal_reward
                np.testing.assert_equal(
                    {
                        key: value
                        for key, value in info.items()
                        if not (jumped and key == "action_mask")
                    },
                    {
                        key: infos["final_info"][key][i]
                        for key in info
                        if not (jumped and key == "action_mask")
                    },
                )
            elif "action_mask" in info:
                np.testing.assert_equal(env.action_masks(), infos["action_mask"][i])


@pytest.mark.parametrize("layout", ["pillars", "perfect"])
@given(seed=st.integers(0, 1000))
def test_a_mask_allows_just_the_moves_that_lead_somewhere(layout: str, seed: int) -> None:
    env = MazeEnv(size=7, layout=layout, mask_walls=True, start="random")
    _, info = env.reset(seed=seed)
    for action, allowed in enumerate(info["action_mask"]):
        other = deepcopy(env)
        other.goal = (-1, -1)
        other.step(np.int64(action))
        assert allowed == (other.position != env.position)
    assert "action_mask" not in MazeEnv().reset()[1]
    assert not hasattr(MazeEnv(), "action_masks")


def test_an_episode_ends_in_the_same_step_that_the_next_begins() -> None:
    env = MazeVectorEnv(4, horizon=3)
    env.reset(seed=0)
    for t in range(1, 7):
        observations, _, terminations, _, infos = env.step(np.zeros(4, np.int64))
        assert terminations.all() == (t % 3 == 0)
        if terminations.all():
            assert (observations[:, 10] == 0).all()  # the time of the new episode
            assert not observations[:, 11:].any()  # no reward and no action before it
            assert all(final[10] == 1 for final in infos["final_obs"])


def test_seeds_make_the_same_episodes() -> None:
    runs = []
    for _ in range(2):
        env = MazeVectorEnv(8, layout="perfect")
        rng = np.random.default_rng(1)
        runs.append(
            [env.reset(seed=5)[0], *(env.step(rng.integers(4, size=8))[0] for _ in range(250))]
        )
    np.testing.assert_array_equal(runs[0], runs[1])


def test_a_mask_resets_only_the_environments_it_names() -> None:
    env = MazeVectorEnv(4)
    env.reset(seed=0)
    env.step(np.array([0, 1, 2, 3]))
    position = env.position
    observations, _ = env.reset(options={"reset_mask": np.array([False, True, False, False])})
    assert (env.position[[0, 2, 3]] == position[[0, 2, 3]]).all()
    assert observations[:, 10].tolist() == pytest.approx([1 / 200, 0, 1 / 200, 1 / 200])
    assert observations[:, 12:].sum(axis=1).tolist() == [1, 0, 1, 1]


def test_reference_policies_score_what_was_measured_before() -> None:
    """DESIGN: 3,000 episodes each gave 1.34, 24.8, 27.6 (7 x 7, 100 steps) and 0.56, 20.0, 27.1 (13
    x 13, 200 steps)."""
    for maze, expected in (
        ({"size": 7, "horizon": 100}, (1.34, 24.8, 27.6)),
        ({"size": 13, "horizon": 200}, (0.56, 20.0, 27.1)),
    ):
        for reference, goals in zip(REFERENCES, expected, strict=True):
            played = reference_episodes(reference, 1000, **maze)["goals"]
            assert played.mean() == pytest.approx(
                goals, abs=3.5 * played.std() * (1 / 1000 + 1 / 3000) ** 0.5
            )


def test_the_oracle_needs_a_shortest_path() -> None:
    played = reference_episodes("oracle", 200, layout="perfect", horizon=50, size=7)
    env = MazeVectorEnv(200, layout="perfect", horizon=50, size=7)
    env.reset(seed=0)
    for i in range(200):
        free = np.argwhere(~env.walls[i]).tolist()
        shortest = distances(env.walls[i])[
            free.index(env.position[i].tolist()), free.index(env.goal[i].tolist())
        ]
        assert played["steps_to_first_goal"][i] == shortest


def test_a_picture_shows_agent_goal_path_and_time() -> None:
    env = MazeEnv(render_mode="rgb_array")
    env.reset(seed=0)
    before = env.render()
    assert before.dtype == np.uint8
    assert before.shape == (9 * 32 + 16, 9 * 32, 3)
    env.step(np.int64(0))
    assert (env.render() != before).any()
    env.render_mode = "ansi"
    text = env.render()
    assert text.count("A") == text.count("G") == 1
    assert text.splitlines()[env.position[0]][env.position[1]] == "A"
    frames = MazeVectorEnv(2, render_mode="rgb_array")
    frames.reset(seed=0)
    assert len(frames.render() or ()) == 2
    frames.render_mode = "ansi"
    assert all(text.count("A") == 1 for text in frames.render() or ())


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"size": 8}, "odd and at least 5, got 8"),
        ({"size": 3}, "odd and at least 5, got 3"),
        ({"horizon": 0}, "horizon"),
        ({"view": 2}, "view"),
        ({"start": "corner"}, "start"),
        ({"goal_reward": float("nan")}, "goal_reward"),
        ({"render_mode": "human"}, "render_mode"),
        ({"layout": "..x.."}, "found 'x'"),
        ({"layout": "maze"}, "pillars, open, perfect"),
        ({"layout": "###\n###"}, "two free cells"),
        ({"layout": "#.#"}, "two free cells"),
        ({"layout": "...\n..\n..."}, "row 1 has 3 cells, row 2 has 2"),
        ({"layout": "..#.."}, "row 1, column 4"),
        ({"layout": ""}, "two free cells"),
    ],
)
def test_wrong_arguments_are_refused_with_what_is_wrong(
    wrong: dict[str, object], message: str
) -> None:
    for make in (MazeEnv, MazeVectorEnv):
        with pytest.raises(ValueError, match=message):
            make(**wrong)  # type: ignore[arg-type]


def test_actions_that_do_not_exist_are_refused() -> None:
    single, batched = MazeEnv(), MazeVectorEnv(2)
    single.reset()
    batched.reset()
    for action in (-1, 4):
        with pytest.raises(ValueError, match="actions of a maze"):
            single.step(np.int64(action))
        with pytest.raises(ValueError, match="actions of a maze"):
            batched.step(np.array([0, action]))


def test_what_a_step_returned_stays_as_it_was() -> None:
    env = MazeVectorEnv(3, horizon=2, layout="..\n..", wall_penalty=1)
    kept, copies, actions = [], [], np.zeros(3, np.int64)
    env.reset(seed=0)
    for _ in range(5):
        result = [*env.step(actions)[:4], actions]
        kept.append(result)
        copies.append([array.copy() for array in result])
    env.reset(options={"reset_mask": np.array([True, False, False])})
    for result, copy in zip(kept, copies, strict=True):
        np.testing.assert_equal(result, copy)


def test_chance_draws_goals_and_actions_independently() -> None:
    """In a corridor of three, the first step of half the episodes finds the goal."""
    played = reference_episodes("random", 2000, layout="...", horizon=1)["goals"]
    # two of four actions move, one of them to the goal
    assert played.mean() == pytest.approx(1 / 4, abs=0.04)


def test_moves_are_up_down_left_right() -> None:
    assert MOVES == ((-1, 0), (1, 0), (0, -1), (0, 1))

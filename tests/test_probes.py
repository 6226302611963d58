"""A look into the memory: what a probe keeps is what the core computed, and it is drawn for every
agent that has fast weights."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from agents import AGENTS
from experiments.analysis.animation import record_gif
from experiments.analysis.probes import look_into_memory, probe_memory, similarity
from experiments.command_line import UsageError
from experiments.configuration import Run
from experiments.episode import play
from experiments.run import build, make_env, write_config
from studies import symbol_readout

T, D = 30, 16
MAZE = "mnm/MazeSmall-v0"
Untrained = Callable[..., tuple[Path, Run]]


@pytest.fixture
def untrained(tmp_path: Path) -> Untrained:
    """A function that makes the run directory of an agent that has learned nothing yet."""

    def make(
        agent: str, env: str = MAZE, env_kwargs: dict[str, Any] | None = None, **kwargs: Any
    ) -> tuple[Path, Run]:
        run = Run(
            hyperparameters=AGENTS[agent].defaults().changed(hidden_size=D, **kwargs),
            env=env,
            env_kwargs={"horizon": T} if env_kwargs is None else env_kwargs,
            total_timesteps=100,
            n_envs=2,
            seed=0,
        )
        directory = tmp_path / agent
        directory.mkdir()
        write_config(run, directory)
        build(run, make_env(run, run.n_envs), "cpu").save(directory / "model.zip")
        return directory, run

    return make


def probe(directory: Path, run: Run) -> dict[str, Any]:
    """Probe a run: the arrays of the ``.npz`` file."""
    path = directory / "probe.png"
    probe_memory(directory, run, path, seed=1, deterministic=False)
    with Image.open(path) as picture:
        assert picture.width > 800
    with np.load(path.with_suffix(".npz")) as data:
        return dict(data)


@pytest.mark.parametrize(
    ("agent", "kwargs"),
    [
        ("mnm-g", {}),
        ("mnm-p", {"heads": 2, "replay": 3, "memory_layers": 2}),
        ("deltanet", {"heads": 2}),
    ],
)
def test_shapes_of_what_is_kept_of_a_neural_memory(
    agent: str, kwargs: dict[str, Any], untrained: Untrained
) -> None:
    look = probe(*untrained(agent, **kwargs))
    H = kwargs.get("heads", 1)
    L = 1 if agent == "deltanet" else kwargs.get("memory_layers", 2)
    assert {name: values.shape for name, values in look.items() if not name.endswith("hit")} == {
        "write_keys": (T, H, D),
        "write_values": (T, H, D),
        "read_keys": (T, H, D),
        "read_values": (T, D),
        "read_gate": (T,),
        "write_strength": (T,),
        "layer_change": (T, L),
        "meta_loss": (T,),
        "key_similarity": (T, H, T, H),
        "value_similarity": (T, 1, T, H),
        "rewards": (T,),
    }


@pytest.mark.parametrize("agent", ["mnm-g", "mnm-p", "deltanet"])
def test_what_is_kept_is_what_the_core_computed(agent: str, untrained: Untrained) -> None:
    """Writing what was kept into the memory, and reading it, gives the values, changes and losses
    that were kept."""
    directory, run = untrained(agent, heads=2)
    episode = play(directory, run, seed=1, deterministic=False)
    look = probe(directory, run)
    memory: Any = episode.core.memory
    kept = {name: torch.tensor(values) for name, values in look.items()}
    with torch.no_grad():
        theta = memory.initial_memory(1)
        for t in range(T):
            k_w, v_w = kept["write_keys"][t : t + 1], kept["write_values"][t : t + 1]
            before, theta = theta, memory.write(theta, k_w, v_w, kept["write_strength"][t : t + 1])
            read = memory.read(theta, kept["read_keys"][t : t + 1]).mean(dim=1)[0]
            error = (memory.read(theta, k_w) - v_w).square().mean()
            change = torch.stack(
                [(W - W_before).norm() for W, W_before in zip(theta, before, strict=True)]
            )
            torch.testing.assert_close(kept["read_values"][t], read, atol=1e-5, rtol=1e-4)
            torch.testing.assert_close(kept["meta_loss"][t], error, atol=1e-6, rtol=1e-4)
            torch.testing.assert_close(kept["layer_change"][t], change, atol=1e-5, rtol=1e-3)
        starts = torch.zeros(T, 1, dtype=torch.bool)
        # by the kernels
        _, state, meta_loss = episode.core(episode.inputs, episode.core.initial_state(1), starts)
    torch.testing.assert_close(
        state.read[0], kept["read_gate"][-1] * kept["read_values"][-1], atol=1e-4, rtol=1e-3
    )
    torch.testing.assert_close(meta_loss[:, 0], kept["meta_loss"], atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize("agent", ["plastic", "plastic-modulated"])
def test_what_is_kept_of_a_plastic_network_is_its_trace(agent: str, untrained: Untrained) -> None:
    directory, run = untrained(agent)
    episode = play(directory, run, seed=1, deterministic=False)
    look = probe(directory, run)
    assert look["trace"].shape == (T, D, D)
    with torch.no_grad():
        starts = torch.zeros(T, 1, dtype=torch.bool)
        _, state, _ = episode.core(episode.inputs, episode.core.initial_state(1), starts)
    np.testing.assert_allclose(look["trace"][-1], state.hebb[0].numpy(), atol=1e-5)
    np.testing.assert_allclose(
        look["trace_size"], np.linalg.norm(look["trace"], axis=(1, 2)), rtol=1e-5
    )
    changes = np.linalg.norm(np.diff(look["trace"], axis=0, prepend=0), axis=(1, 2))
    np.testing.assert_allclose(look["trace_change"], changes, atol=1e-6)
    assert look["trace_similarity"].shape == (T, 1, T, 1)


def test_similarity_is_the_cosine_with_this_step_and_those_before() -> None:
    rng = np.random.default_rng(0)
    now, earlier = (
        rng.normal(size=(5, 2, 3)).astype(np.float32),
        rng.normal(size=(5, 4, 3)).astype(np.float32),
    )
    earlier[1, 2] = 0
    result = similarity(now, earlier)
    cosine = now[3, 1] @ earlier[2, 0] / np.linalg.norm(now[3, 1]) / np.linalg.norm(earlier[2, 0])
    assert result[3, 1, 2, 0] == pytest.approx(cosine, abs=1e-6)
    assert result[3, 1, 1, 2] == 0
    known = ~np.isnan(result).any(axis=(1, 3))
    assert (known == np.tri(5, dtype=bool)).all()


def test_goal_and_wall_hits_of_a_maze_are_marked_at_the_step_that_shows_them(
    untrained: Untrained,
) -> None:
    directory, run = untrained("mnm-p", env_kwargs={"horizon": 200, "size": 5, "wall_penalty": 0.5})
    episode = play(directory, run, seed=1, deterministic=False)
    goals, walls = episode.marks["goal hit"], episode.marks["wall hit"]
    assert goals
    assert walls
    assert [t + 1 for t, reward in enumerate(episode.rewards) if reward == 10] == goals
    assert [t + 1 for t, reward in enumerate(episode.rewards) if reward == -0.5] == walls
    seen = episode.inputs[:, 0, 9 + 2]  # the previous reward is in the observation
    assert [t for t, reward in enumerate(seen) if reward == 10] == [
        t for t in goals if t < len(seen)
    ]


def test_elsewhere_rewards_are_marked(untrained: Untrained) -> None:
    directory, run = untrained("mnm-g", "mnm/Recall-v0", {"pairs": 3})
    look = probe(directory, run)
    assert (look["reward"] == np.flatnonzero(look["rewards"] > 0) + 1).all()
    assert (look["punishment"] == np.flatnonzero(look["rewards"] < 0) + 1).all()
    assert len(look["reward"]) + len(look["punishment"]) == 3


def test_an_agent_without_fast_weights_is_refused_in_words(untrained: Untrained) -> None:
    directory, run = untrained("lstm")
    with pytest.raises(
        UsageError, match=r"no fast weights to look into: lstm has a LstmCore, not MNM or plastic"
    ):
        probe(directory, run)
    assert not (directory / "probe.npz").exists()


def test_several_runs_in_one_animation_each_beside_its_memory(untrained: Untrained) -> None:
    """A maze each, and a memory beside those that have one; of the memory, nothing is shown before
    it happens."""
    runs = [untrained(agent) for agent in ("mnm-p", "plastic", "lstm")]
    path = runs[0][0] / "episodes.gif"
    record_gif(runs, path, seed=1, deterministic=False)
    maze = 7 * 32
    with Image.open(path) as animation:
        assert 5 * maze < animation.width < 6 * maze
        assert animation.n_frames == T + 1
        white = []
        for t in (0, T):
            animation.seek(t)
            memory = np.asarray(animation.convert("L"))[60:230, maze + 60 : 2 * maze]
            white.append((memory > 245).mean())
    assert white[0] > 0.95 > white[1]


def test_the_look_of_one_agent_is_the_same_twice(untrained: Untrained) -> None:
    directory, run = untrained("mnm-g")
    one, other = (
        look_into_memory(play(directory, run, seed=1, deterministic=False)) for _ in range(2)
    )
    for name, values in one.items():
        np.testing.assert_array_equal(values, other[name])


def test_symbols_are_read_off_outputs_that_hold_them_and_off_no_others() -> None:
    rng = np.random.default_rng(0)
    symbols = np.eye(4)[rng.integers(4, size=(90, 64))]
    mixed = np.roll(symbols, 3, axis=0) + 10 * np.roll(symbols, 7, axis=0)
    shares = symbol_readout.read(mixed @ rng.normal(size=(4, 4)), symbols)
    assert shares[7] == 1
    assert all(share < 0.4 for ago, share in enumerate(shares) if ago not in (3, 7))


@pytest.mark.filterwarnings("ignore")
def test_the_outputs_and_symbols_of_an_episode_are_of_the_same_steps(
    untrained: Untrained, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(symbol_readout, "EPISODES", 3)
    directory, run = untrained("gru", "mnm/RepeatPrevious-v0", {"lag": 2, "steps": 9})
    outputs, symbols = symbol_readout.played(run, directory)
    assert outputs.shape == (9, 3, D)
    assert symbols.shape == (9, 3, 4)
    assert (symbols.sum(axis=-1) == 1).all()

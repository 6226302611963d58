"""POPGym's environments can be trained on as they are, and its RepeatPrevious is ours."""

from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest

import envs  # noqa: F401
import train
from experiments import scores
from experiments.configuration import Run
from experiments.grids.grid import Grid

popgym = pytest.importorskip("popgym")
ROOT = Path(__file__).parent.parent

# One of each kind of observations and actions.
KINDS = ["AutoencodeEasy", "HigherLowerMedium", "CountRecallEasy", "NoisyPositionOnlyCartPoleHard"]
KINDS += ["PositionOnlyPendulumEasy", "BattleshipEasy"]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", KINDS)
def test_train_takes_every_kind_of_environment_that_popgym_has(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scores, "FINAL_EPISODES", 8)
    args = ["gru", "--env", f"popgym:popgym-{kind}-v0", "--n-envs", "4", "--hidden-size", "8"]
    args += ["--total-timesteps", "800", "--n-steps", "100", "--threads", "1"]
    train.main([*args, "--out", str(tmp_path / "run")])
    returns = scores.final_episodes(tmp_path / "run", Run.load(tmp_path / "run")).episodes["return"]
    assert np.isfinite(returns).all()


def played(env: gym.Env[Any, Any], lag: int, right: np.ndarray, shown: Any) -> float:
    """The return of an agent that is right, or wrong, as it was told at each step that asks."""
    observation, _ = env.reset(seed=0)
    symbols, total, done = [shown(observation)], 0.0, False
    while not done:
        known = symbols[-1 - lag] if len(symbols) > lag else 0
        action = known if right[len(symbols)] else (known + 1) % 4
        observation, reward, terminated, truncated, _ = env.step(action)
        symbols.append(shown(observation))
        total, done = total + float(reward), terminated or truncated
    return total


@pytest.mark.parametrize(("level", "k", "decks"), [("Easy", 4, 1), ("Medium", 32, 2)])
def test_the_native_repeat_previous_scores_as_popgyms(level: str, k: int, decks: int) -> None:
    """With a lag of k - 1, since POPGym counts the current card; returns are scaled."""
    theirs = gym.make(f"popgym:popgym-RepeatPrevious{level}-v0", disable_env_checker=True)
    ours = gym.make("mnm/RepeatPrevious-v0", lag=k - 1, steps=52 * decks - 1)
    for share in (0.0, 0.25, 0.6, 1.0):
        right = np.random.default_rng(1).random(52 * decks + 1) < share
        score = played(theirs, k - 1, right, int)
        native = played(ours, k - 1, right, lambda observation: int(np.argmax(observation[:4])))
        assert native == pytest.approx((2 * score + 1) / 3)


def test_the_grid_is_of_popgyms_environments() -> None:
    grid = Grid.load(ROOT / "experiments" / "popgym.toml")
    assert all(name.split(":")[1] in gym.registry for name in grid.environments)

"""How well agents do: figures of episodes with intervals, beside the reference policies of the maze, over seeds."""

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats
from stable_baselines3.common.utils import set_random_seed

from envs import MazeVectorEnv
from envs.references import REFERENCES, reference_episodes
from experiments.command_line import RunError, first_line
from experiments.run import Run, load_model, newest_model
from mnm_rl.evaluation import evaluate_episodes

Interval = tuple[float, float]


@dataclass(frozen=True)
class Score:
    """The figures of some episodes; what an environment does not report is None."""

    mean: float
    """Mean return."""
    ci95: Interval | None
    """95% bootstrap interval of the mean return; None for a single episode."""
    goals: float | None
    first_goal: float | None
    between: float | None

    @classmethod
    def of(cls, returns: NDArray[Any], infos: dict[str, Sequence[float | None]]) -> "Score":
        """Sum up returns and the maze's counts, one of each an episode."""
        goals, first, between = (_mean(infos.get(key, ())) for key in ("goals", "steps_to_first_goal", "mean_steps_between_goals"))
        return cls(float(returns.mean()), _bootstrap(returns, np.mean), goals, first, between)


@dataclass(frozen=True)
class Evaluation:
    """A run and how it did."""

    directory: Path
    run: Run
    steps: int
    """Environment steps it was trained for."""
    episodes: int
    score: Score
    references: dict[str, Score]
    """The maze's reference policies; empty for other environments."""

    def normalized(self, value: float) -> float | None:
        """A return on the scale where random is 0 and the oracle 1; None where there are no references."""
        if not self.references:
            return None
        random, oracle = self.references["random"].mean, self.references["oracle"].mean
        return (value - random) / (oracle - random)

    def row(self) -> dict[str, Any]:
        """The entry of the run in the JSON report."""
        return {
            "run": str(self.directory),
            "agent": self.run.agent,
            "env": self.run.environment,
            "seed": self.run.seed,
            "train_steps": self.steps,
            "episodes": self.episodes,
            "return_mean": self.score.mean,
            "return_ci95": self.score.ci95,
            "normalized_score": self.normalized(self.score.mean),
            "goals": self.score.goals,
            "steps_to_first_goal": self.score.first_goal,
            "steps_between_goals": self.score.between,
        }


def evaluate(directory: Path, run: Run, episodes: int, seed: int, deterministic: bool) -> Evaluation:
    """Play episodes with the newest model of a run.

    Raises:
        UsageError, RunError: if there is no model, it is damaged, or its environment cannot be made.
    """
    env = run.make_env(min(episodes, 128))
    model = load_model(run, newest_model(directory), env, "cpu")
    set_random_seed(seed)
    env.seed(seed)
    print(f"playing {episodes:,} episodes with {directory}", file=sys.stderr)
    try:
        played = evaluate_episodes(model, env, episodes, deterministic)
    except RuntimeError as error:
        raise RunError(f"{run.environment}: {first_line(error)}") from error
    returns = np.array([episode["return"] for episode in played])
    if not np.isfinite(returns).all():
        raise RunError(f"{run.environment} gave rewards that are NaN or infinite")
    score = Score.of(
        returns,
        {key: [episode[key] for episode in played if key in episode] for episode in played[:1] for key in episode},
    )
    env.close()
    return Evaluation(directory, run, model.num_timesteps, episodes, score, references(run))


def references(run: Run) -> dict[str, Score]:
    """Scores of the reference policies on the maze of a run, on the same layout and horizon; none for other environments."""
    env = run.make_env(1)
    maze = env.env.unwrapped
    env.close()
    return _maze_references(json.dumps(maze.task.arguments)) if isinstance(maze, MazeVectorEnv) else {}


@cache
def _maze_references(arguments: str) -> dict[str, Score]:
    maze = json.loads(arguments)
    episodes = 200 if maze.get("layout") == "perfect" else 1000  # a new map an episode takes its time
    scores: dict[str, Score] = {}
    for reference in REFERENCES:
        played = reference_episodes(reference, episodes, **maze)
        scores[reference] = Score.of(played.pop("return"), {key: list(values) for key, values in played.items()})
    return scores


def agent_rows(evaluations: Sequence[Evaluation]) -> list[dict[str, Any]]:
    """The entries of the agents in the JSON report: interquartile means over seeds, with bootstrap intervals over seeds."""
    rows = []
    for agent, env in dict.fromkeys((e.run.agent, e.run.environment) for e in evaluations):
        runs = [e for e in evaluations if (e.run.agent, e.run.environment) == (agent, env)]
        means = np.array([e.score.mean for e in runs])
        iqm = float(_interquartile_mean(means))
        rows.append(
            {
                "agent": agent,
                "env": env,
                "seeds": [e.run.seed for e in runs],
                "return_iqm": iqm,
                "return_iqm_ci95": _bootstrap(means, _interquartile_mean),
                "normalized_iqm": runs[0].normalized(iqm),
            }
        )
    return rows


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else None


def _interquartile_mean(values: NDArray[Any], axis: int = -1) -> Any:
    return stats.trim_mean(values, 0.25, axis=axis)


def _bootstrap(values: NDArray[Any], statistic: Any) -> Interval | None:
    if len(values) < 2:
        return None
    interval = stats.bootstrap((values,), statistic, method="percentile", rng=0).confidence_interval
    return float(interval.low), float(interval.high)

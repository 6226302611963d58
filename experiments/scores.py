"""How well agents do: figures of episodes with intervals, beside the reference policies of the
maze, over seeds."""

import json
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from stable_baselines3.common.utils import set_random_seed

from envs import MazeVectorEnv
from envs.references import REFERENCES, reference_episodes
from experiments.command_line import FINAL_EPISODES, FINAL_SEED, RunError, first_line
from experiments.configuration import Run
from experiments.run import load_model, make_env, newest_model
from experiments.run_directory import RunDirectory
from experiments.statistics import Interval, aggregate, interval, mean
from mnm_rl.evaluation import evaluate_episodes
from mnm_rl.files import replacing


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
    def of(cls, returns: NDArray[Any], infos: Mapping[str, Sequence[float | None]]) -> "Score":
        """Sum up returns and the maze's counts, one of each an episode."""
        goals, first, between = (
            _mean(infos.get(key, ()))
            for key in ("goals", "steps_to_first_goal", "mean_steps_between_goals")
        )
        return cls(float(returns.mean()), interval([returns], mean), goals, first, between)


@dataclass(frozen=True)
class Played:
    """Episodes that a run has played."""

    steps: int
    """Environment steps that it was trained for."""
    episodes: dict[str, list[Any]]
    """What is known of each: ``return``, ``length``, ``rewarded`` (the steps that gave a positive
    reward) and, in mazes, what the maze reports."""

    @property
    def score(self) -> Score:
        return Score.of(np.array(self.episodes["return"]), self.episodes)


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
        """A return on the scale where random is 0 and the oracle 1; None where there are no
        references."""
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


def evaluate(
    directory: Path, run: Run, episodes: int, seed: int, deterministic: bool
) -> Evaluation:
    """Play episodes with the newest model of a run, and sum them up; those that a finished run was
    evaluated with are not played again.

    Raises:
        UsageError, RunError: if there is no model, it is damaged, or its environment cannot be
            made.
    """
    final = (episodes, seed, deterministic) == (FINAL_EPISODES, FINAL_SEED, False)
    if final and RunDirectory(directory).evaluated:
        return final_evaluation(directory, run)
    return _evaluation(directory, run, play(directory, run, episodes, seed, deterministic))


def final_evaluation(directory: Path, run: Run) -> Evaluation:
    """The evaluation that a training ends with, see :func:`final_episodes`."""
    return _evaluation(directory, run, final_episodes(directory, run))


def final_episodes(directory: Path, run: Run) -> Played:
    """The episodes that a finished run was evaluated with: played once, and kept in
    ``evaluation.json`` beside the model.

    Raises:
        RunError: if the file is damaged.
    """
    path = RunDirectory(directory).evaluation
    if not path.exists():
        played = play(directory, run, FINAL_EPISODES, FINAL_SEED, deterministic=False)
        with replacing(path) as file:
            file.write((json.dumps(asdict(played)) + "\n").encode())
    try:
        return Played(**json.loads(path.read_text()))
    except (ValueError, TypeError) as error:
        raise RunError(
            f"{path} is damaged ({first_line(error)}); delete it to evaluate the run again"
        ) from None


def play(directory: Path, run: Run, episodes: int, seed: int, deterministic: bool) -> Played:
    """Play episodes with the newest model of a run.

    Raises:
        UsageError, RunError: if there is no model, it is damaged, or its environment cannot be
            made.
    """
    env = make_env(run, min(episodes, 128))
    model = load_model(run, newest_model(directory), env, "cpu")
    set_random_seed(seed)
    env.seed(seed)
    print(f"playing {episodes:,} episodes with {directory}", file=sys.stderr)
    try:
        played = evaluate_episodes(model, env, episodes, deterministic)
    except RuntimeError as error:
        raise RunError(f"{run.environment}: {first_line(error)}") from error
    finally:
        env.close()
    if not np.isfinite([episode["return"] for episode in played]).all():
        raise RunError(f"{run.environment} gave rewards that are NaN or infinite")
    reported = ("goals", "steps_to_first_goal", "mean_steps_between_goals")
    keys = ["return", "length", "rewarded", *(key for key in reported if key in played[0])]
    return Played(
        model.num_timesteps,
        {key: [_plain(episode[key]) for episode in played if key in episode] for key in keys},
    )


def _evaluation(directory: Path, run: Run, played: Played) -> Evaluation:
    return Evaluation(
        directory, run, played.steps, len(played.episodes["return"]), played.score, references(run)
    )


def _plain(value: Any) -> Any:
    """A number as JSON takes it."""
    return value.item() if isinstance(value, np.generic) else value


def references(run: Run) -> dict[str, Score]:
    """Scores of the reference policies on the maze of a run, on the same layout and horizon; none
    for other environments."""
    env = make_env(run, 1)
    maze = env.env.unwrapped
    env.close()
    if not isinstance(maze, MazeVectorEnv):
        return {}
    return _maze_references(json.dumps(maze.task.arguments), type(maze))  # type: ignore[arg-type]  # classes are hashable


@cache
def _maze_references(arguments: str, env_class: Callable[..., MazeVectorEnv]) -> dict[str, Score]:
    maze = json.loads(arguments)
    # a new map an episode takes its time
    episodes = 200 if maze.get("layout") == "perfect" else 1000
    scores: dict[str, Score] = {}
    for reference in REFERENCES:
        played = reference_episodes(reference, episodes, env_class=env_class, **maze)
        scores[reference] = Score.of(
            played.pop("return"), {key: list(values) for key, values in played.items()}
        )
    return scores


def agent_rows(evaluations: Sequence[Evaluation]) -> list[dict[str, Any]]:
    """The entries of the agents in the JSON report: interquartile means over seeds, with bootstrap
    intervals over seeds.

    Runs with other hyperparameters or another number of steps are another entry.
    """
    groups: dict[Any, list[Evaluation]] = {}
    for e in evaluations:
        groups.setdefault(
            (e.run.environment, e.run.hyperparameters, e.run.total_timesteps), []
        ).append(e)
    rows = []
    for runs in groups.values():
        means = [np.array([e.score.mean for e in runs])]
        rows.append(
            {
                "agent": runs[0].run.agent,
                "env": runs[0].run.environment,
                "seeds": [e.run.seed for e in runs],
                "return_iqm": aggregate(means),
                "return_iqm_ci95": interval(means),
                "normalized_iqm": runs[0].normalized(aggregate(means)),
            }
        )
    return rows


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else None

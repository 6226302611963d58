"""How well agents do: the means of episodes with intervals, beside reference policies, over
seeds."""

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from stable_baselines3.common.utils import set_random_seed

from envs import RETURN, Metric
from envs.metrics import metrics_of
from envs.references import episodes_of_references
from experiments.command_line import FINAL_EPISODES, FINAL_SEED, RunError, first_line
from experiments.configuration import Run
from experiments.earlier import with_earlier_keys
from experiments.run import load_model, make_env, metrics_of_run, newest_model
from experiments.run_directory import RunDirectory
from experiments.statistics import Interval, aggregate, interval, mean
from mnm_rl.evaluation import episode_value, evaluate_episodes
from mnm_rl.files import replacing

Episodes = Mapping[str, Sequence[Any] | NDArray[Any]]
"""What is known of some episodes: one value each under every name."""


def means(episodes: Episodes, metrics: Sequence[Metric]) -> dict[str, float | None]:
    """The means of metrics by name, in their order, and of the return; None where no episode has a
    value."""
    found: dict[str, float | None] = {}
    for metric in (*metrics, RETURN):
        known = [value for value in episodes.get(metric.name, ()) if value is not None]
        found[metric.name] = float(np.mean(known)) if known else None
    return found


@dataclass(frozen=True)
class Summary:
    """The means of some episodes."""

    metrics: dict[str, float | None]
    """See :func:`means`."""
    return_ci95: Interval | None
    """95% bootstrap interval of the mean return; None for a single episode."""

    @classmethod
    def of(cls, episodes: Episodes, metrics: Sequence[Metric]) -> "Summary":
        """Sum up episodes."""
        returns = np.array(episodes[RETURN.name])
        return cls(means(episodes, metrics), interval([returns], mean))

    @property
    def mean_return(self) -> float:
        value = self.metrics[RETURN.name]
        assert value is not None
        return value


@dataclass(frozen=True)
class Played:
    """Episodes that a run has played."""

    steps: int
    """Environment steps that it was trained for."""
    episodes: dict[str, list[Any]]
    """What is known of each: ``return``, ``length``, ``rewarded`` (the steps that gave a positive
    reward) and the other metrics of the environment."""


@dataclass(frozen=True)
class Evaluation:
    """A run and how it did."""

    directory: Path
    run: Run
    steps: int
    """Environment steps it was trained for."""
    episodes: int
    metrics: Sequence[Metric]
    """Those that the environment declares."""
    summary: Summary
    references: dict[str, Summary]
    """The environment's reference policies; empty where it has none."""

    def normalized(self, value: float) -> float | None:
        """A return on the scale where random is 0 and the oracle 1; None where there are no
        references."""
        if not self.references:
            return None
        random, oracle = (self.references[of].mean_return for of in ("random", "oracle"))
        return (value - random) / (oracle - random)

    def row(self) -> dict[str, Any]:
        """The entry of the run in the JSON report."""
        return with_earlier_keys(
            {
                "run": str(self.directory),
                "agent": self.run.agent,
                "env": self.run.environment,
                "seed": self.run.seed,
                "train_steps": self.steps,
                "episodes": self.episodes,
                "return_mean": self.summary.mean_return,
                "return_ci95": self.summary.return_ci95,
                "normalized_score": self.normalized(self.summary.mean_return),
                "metrics": self.summary.metrics,
            }
        )


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
    values = {
        metric.name: [
            episode_value(episode[metric.name], metric.name)
            for episode in played
            if metric.name in episode
        ]
        for metric in metrics_of(env.env)
    }
    reported = {name: own for name, own in values.items() if own}
    known = {key: [episode[key] for episode in played] for key in ("return", "length", "rewarded")}
    return Played(model.num_timesteps, reported | known)


def _evaluation(directory: Path, run: Run, played: Played) -> Evaluation:
    metrics = metrics_of_run(run)
    return Evaluation(
        directory,
        run,
        played.steps,
        len(played.episodes["return"]),
        metrics,
        Summary.of(played.episodes, metrics),
        references(run),
    )


_REFERENCES: dict[tuple[str, str], dict[str, Summary]] = {}
"""What :func:`references` has found, by environment and arguments."""


def references(run: Run) -> dict[str, Summary]:
    """How the reference policies of a run's environment do, with the same arguments; none where it
    has none."""
    key = run.env, json.dumps(run.env_kwargs)
    if key not in _REFERENCES:
        env = make_env(run, 1)
        env.close()
        metrics = metrics_of(env.env)
        _REFERENCES[key] = {
            name: Summary.of(episodes, metrics)
            for name, episodes in episodes_of_references(env.env).items()
        }
    return _REFERENCES[key]


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
        returns = [np.array([e.summary.mean_return for e in runs])]
        rows.append(
            {
                "agent": runs[0].run.agent,
                "env": runs[0].run.environment,
                "seeds": [e.run.seed for e in runs],
                "return_iqm": aggregate(returns),
                "return_iqm_ci95": interval(returns),
                "normalized_iqm": runs[0].normalized(aggregate(returns)),
            }
        )
    return rows

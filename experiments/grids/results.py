"""The results of a grid in one small file that is committed: tables and figures are made from it
again, exactly.

The file is JSON. Runs are in it only when they are finished; of a curve some hundred points are
left, of the final evaluation the means of the metrics, how many episodes had each return, and how
long it took to be rewarded again.
"""

import json
import sys
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from agents.agent import Algorithm
from envs import RETURN, Metric
from experiments.command_line import UsageError, calling
from experiments.configuration import UNWRITTEN, Run
from experiments.earlier import results_of_earlier
from experiments.grids.grid import Grid, Job
from experiments.logs import column_of, first_logged
from experiments.run import metrics_of_run, read_progress
from experiments.run_directory import RunDirectory
from experiments.scores import Played, final_episodes, means, references
from experiments.statistics import Scores, iqm, within_episode

POINTS = 100
"""Of a learning curve."""


@dataclass(frozen=True, kw_only=True)
class Result:
    """A finished run."""

    agent: str
    algorithm: str
    environment: str
    setting: str
    seed: int
    steps: int
    """Environment steps that it was trained for."""
    curve: dict[str, list[float]]
    """``steps``, ``seconds`` of training, and ``score``: the first metric that was logged; means of
    a few updates."""
    returns: list[tuple[float, int]]
    """Returns of the final evaluation, and how many episodes had each."""
    metrics: dict[str, float | None]
    """Means of the metrics in the final evaluation, by name, in the order in which the environment
    declares them, and of the return; None where no episode has a value."""
    waits: list[tuple[float, int]]
    """Mean steps to the first reward, from the first to the second, and so on, and of how many
    episodes each is the mean."""

    @property
    def label(self) -> str:
        """The agent, and the setting where it is not the default."""
        return self.agent if self.setting == "default" else f"{self.agent}, {self.setting}"

    @property
    def score(self) -> float:
        """What runs are compared by: the first metric that has a value."""
        return next(mean for mean in self.metrics.values() if mean is not None)

    @property
    def episodes(self) -> int:
        return sum(count for _, count in self.returns)


Group = tuple[str, str, str]
"""What is compared: label, algorithm, environment."""


@dataclass(frozen=True, kw_only=True)
class Results:
    """The results of a grid."""

    name: str
    title: str
    about: str
    grid: dict[str, Any]
    """What the grid's file says."""
    planned: int
    """Runs of the grid, finished or not."""
    versions: dict[str, list[str]]
    """Versions that the runs were made with."""
    hyperparameters: list[dict[str, Any]]
    """All of each agent with each algorithm and setting."""
    metrics: dict[str, list[Metric]]
    """Those that each environment declares."""
    references: dict[str, dict[str, dict[str, float | None]]]
    """Means of the metrics of the reference policies, by environment, policy and name; empty for an
    environment without such policies."""
    results: list[Result]

    def __post_init__(self) -> None:
        runs = Counter((r.label, r.algorithm, r.environment, r.seed) for r in self.results)
        if twice := [run for run, count in runs.items() if count > 1]:
            raise UsageError(
                f"{self.name} holds the same run twice: {', '.join(map(str, twice[0]))}"
            )

    @cached_property
    def groups(self) -> dict[Group, list[Result]]:
        """The runs of each group by seed; environments and algorithms in the grid's order, in each
        the best IQM first."""
        found: dict[Group, list[Result]] = {}
        for result in self.results:
            found.setdefault((result.label, result.algorithm, result.environment), []).append(
                result
            )
        environments, algorithms = (list(self.grid[key]) for key in ("environments", "algorithms"))

        def order(group: Group) -> Any:
            return (
                environments.index(group[2]),
                algorithms.index(group[1]),
                -self.better(group[2]) * iqm(self._scores(found[group])),
            )

        return {
            group: sorted(found[group], key=lambda r: r.seed) for group in sorted(found, key=order)
        }

    def metric(self, environment: str) -> Metric:
        """What scores in an environment are: the first metric of which all its runs have a
        value."""
        runs = [run for run in self.results if run.environment == environment]
        return next(
            metric
            for metric in (*self.metrics[environment], RETURN)
            if all(run.metrics.get(metric.name) is not None for run in runs)
        )

    def better(self, environment: str) -> int:
        """1 where a higher score is better, -1 where a lower one is."""
        return 1 if self.metric(environment).higher_is_better else -1

    def scores(self, group: Group) -> Scores:
        """The score of each seed of a group, ``[S]``."""
        return self._scores(self.groups[group])

    def _scores(self, runs: Sequence[Result]) -> Scores:
        name = self.metric(runs[0].environment).name
        return np.array([run.metrics[name] for run in runs], float)

    def normalized(self, environment: str, score: float) -> float | None:
        """A score on the scale where random is 0 and the oracle 1; None where there are no
        references."""
        known = self.reference_scores(environment)
        if not {"random", "oracle"} <= known.keys():
            return None
        return (score - known["random"]) / (known["oracle"] - known["random"])

    def reference_scores(self, environment: str) -> dict[str, float]:
        """The scores of the reference policies of an environment."""
        name = self.metric(environment).name
        return {
            reference: score
            for reference, own in self.references.get(environment, {}).items()
            if (score := own.get(name)) is not None
        }

    def save(self, path: Path) -> None:
        """Write the file: one line a run."""
        fields = {name: value for name, value in asdict(self).items() if name != "results"}
        head = ",\n".join(
            f" {json.dumps(name)}: {json.dumps(value)}" for name, value in fields.items()
        )
        runs = ",\n".join(f"  {json.dumps(asdict(result))}" for result in self.results)
        path.write_text(f'{{\n{head},\n "results": [\n{runs}\n ]\n}}\n')

    @classmethod
    def load(cls, path: Path) -> "Results":
        """Read a file that :meth:`save` has written.

        Raises:
            UsageError: if there is none, or it is something else.
        """
        try:
            values = results_of_earlier(json.loads(path.read_text()))
            values["metrics"] = {
                environment: [Metric(**metric) for metric in metrics]
                for environment, metrics in values["metrics"].items()
            }
            for result in values["results"]:
                for key in ("returns", "waits"):
                    result[key] = [tuple(entry) for entry in result[key]]
            return cls(**values | {"results": [Result(**result) for result in values["results"]]})
        except FileNotFoundError:
            raise UsageError(f"there is no file {path}") from None
        except (ValueError, KeyError, TypeError) as error:
            raise UsageError(
                f"{path} does not hold the results of a grid: {type(error).__name__} {error}"
            ) from None


def collect(grid: Grid, runs: Path = Path("runs"), earlier: Results | None = None) -> Results:
    """The results of those runs of a grid that are finished; they are evaluated first, where they
    have not been yet.

    Args:
        grid: the grid.
        runs: where its runs are.
        earlier: results of the same grid, perhaps of another machine; those of runs that are not
            finished here are kept.

    Raises:
        UsageError: if no run is finished, or one, or an earlier one, was made with other settings
            than the grid's.
    """
    jobs = grid.jobs(runs)
    finished = [job for job in jobs if job.finished]
    if not finished:
        raise UsageError(
            f"no run of the grid {grid.name} is finished; start them with: "
            f"{' '.join(calling('experiments'))} run FILE"
        )
    for job in finished:
        job.check_unchanged()
    configurations: dict[Any, dict[str, Any]] = {}
    versions: dict[str, list[str]] = {}
    metrics: dict[str, list[Metric]] = {}
    scales: dict[str, dict[str, Any]] = {}
    for job in finished:
        config = json.loads(RunDirectory(job.directory).config.read_text())
        for name, version in config["versions"].items():
            if version not in versions.setdefault(name, []):
                versions[name].append(version)
        own = {"agent": job.agent, "algorithm": job.algorithm, "setting": job.setting}
        configurations.setdefault(
            tuple(own.values()), own | {"hyperparameters": job.run.hyperparameters.flat()}
        )
        if job.environment not in metrics:
            run = Run.load(job.directory)
            metrics[job.environment] = list(metrics_of_run(run))
            scales[job.environment] = {
                name: summary.metrics for name, summary in references(run).items()
            }
    found = Results(
        name=grid.name,
        title=grid.title,
        about=grid.about,
        grid=_as_in_json(asdict(grid) | {"seeds": list(grid.seeds)}),
        planned=len(jobs),
        versions=versions,
        hyperparameters=list(configurations.values()),
        metrics=metrics,
        references=scales,
        results=[result_of(job) for job in finished],
    )
    if earlier is not None:
        found = _with_earlier(found, earlier, jobs)
    if missing := len(jobs) - len(found.results):
        print(f"{missing} of {len(jobs)} runs are not finished and left out", file=sys.stderr)
    return found


def check_settings(results: Results, jobs: Iterable[Job]) -> None:
    """Check that results were made with the hyperparameters of these jobs.

    Raises:
        UsageError: if some were not.
    """
    settings = {(job.agent, job.algorithm, job.setting): job.run.hyperparameters for job in jobs}
    for own in results.hyperparameters:
        if (of_grid := settings.get((own["agent"], own["algorithm"], own["setting"]))) is None:
            continue
        unused = Algorithm.of_ppo if of_grid.algorithm.algorithm == "a2c" else ()
        now = {name: value for name, value in of_grid.flat().items() if name not in unused}
        made = now | UNWRITTEN | own["hyperparameters"]
        if changed := [name for name in now if made[name] != now[name]]:
            name = changed[0]
            raise _other(
                f"with {name} {made[name]} of {own['agent']} ({own['setting']}), and the grid "
                f"says {now[name]}"
            )


def _with_earlier(found: Results, earlier: Results, jobs: Sequence[Job]) -> Results:
    """What was found, and what of the earlier results was not, in the order of the grid."""
    for key in ("total_timesteps", "n_envs"):
        if earlier.grid.get(key) != found.grid[key]:
            raise _other(f"with {key} {earlier.grid.get(key)}, and the grid says {found.grid[key]}")
    check_settings(earlier, jobs)
    known = {_key(run): run for run in (*earlier.results, *found.results)}
    order = [_key(job) for job in jobs]
    if unknown := [run for key, run in known.items() if key not in order]:
        raise _other(
            f"of another grid: {unknown[0].label}, {unknown[0].environment}, seed "
            f"{unknown[0].seed}, is not in it"
        )
    here = [(own["agent"], own["algorithm"], own["setting"]) for own in found.hyperparameters]
    return replace(
        found,
        versions={
            name: list(dict.fromkeys([*earlier.versions.get(name, []), *now]))
            for name, now in found.versions.items()
        },
        hyperparameters=[
            *found.hyperparameters,
            *(
                own
                for own in earlier.hyperparameters
                if (own["agent"], own["algorithm"], own["setting"]) not in here
            ),
        ],
        metrics=earlier.metrics | found.metrics,
        references=earlier.references | found.references,
        results=[known[key] for key in order if key in known],
    )


def _other(how: str) -> UsageError:
    return UsageError(
        f"runs that were collected before were made {how}: move their file away, or collect into "
        "another with --out"
    )


def _key(run: Result | Job) -> tuple[Any, ...]:
    return run.agent, run.algorithm, run.environment, run.setting, run.seed


def result_of(job: Job) -> Result:
    """What is kept of a finished run."""
    run = Run.load(job.directory)
    metrics = metrics_of_run(run)
    played = final_episodes(job.directory, run)
    waits, counts = within_episode(played.episodes["rewarded"])
    return Result(
        agent=job.agent,
        algorithm=job.algorithm,
        environment=job.environment,
        setting=job.setting,
        seed=job.seed,
        steps=played.steps,
        curve=thinned(read_progress(job.directory), metrics),
        returns=_counted(played),
        metrics=means(played.episodes, metrics),
        waits=[(round(wait, 3), count) for wait, count in zip(waits, counts, strict=True)],
    )


def thinned(
    rows: Sequence[dict[str, float]], metrics: Sequence[Metric], points: int = POINTS
) -> dict[str, list[float]]:
    """A learning curve of at most ``points`` points, each the mean of as many rows of
    ``progress.csv``.

    Seconds go on after a resume, where ``time/time_elapsed`` starts anew.
    """
    seconds, before, last = [], 0.0, 0.0
    for row in rows:
        elapsed = row["time/time_elapsed"]
        if elapsed < last:
            before += last
        last = elapsed
        seconds.append(before + elapsed)
    key = column_of(first_logged(metrics, [rows]))
    table = [
        (row["time/total_timesteps"], at, row[key])
        for row, at in zip(rows, seconds, strict=True)
        if key in row
    ]
    pieces = np.array_split(np.array(table).reshape(-1, 3), min(points, max(1, len(table))))
    steps, at, score = (
        np.array([piece.mean(axis=0) for piece in pieces if len(piece)]).reshape(-1, 3).T.tolist()
    )
    return {
        "steps": [round(x) for x in steps],
        "seconds": [round(x, 1) for x in at],
        "score": [round(x, 3) for x in score],
    }


def _counted(played: Played) -> list[tuple[float, int]]:
    return sorted(Counter(round(value, 4) for value in played.episodes["return"]).items())


def _as_in_json(values: dict[str, Any]) -> dict[str, Any]:
    """Values as they are read again: with lists for tuples."""
    read: dict[str, Any] = json.loads(json.dumps(values))
    return read

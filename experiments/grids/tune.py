"""The search for hyperparameters over a grid, with Optuna (``pip install mnm-rl[tune]``).

A table ``[tune]`` in the grid's file says how many trials there are and what is searched::

    [tune]
    trials = 20
    learning_rate = { low = 1e-4, high = 1e-2, log = true }
    n_epochs = { low = 1, high = 8 }
    ent_coef = [0.0, 0.003, 0.01]

Every agent, algorithm, environment and setting has a study of its own, and a trial is run with all
seeds of the grid.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path
from typing import Any

from envs import Metric
from experiments.command_line import RunError, UsageError
from experiments.grids.display import Display
from experiments.grids.grid import Grid, Job
from experiments.grids.results import result_of
from experiments.grids.schedule import Pool, run_jobs
from experiments.run import metrics_of_run

try:
    import optuna
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend
except ImportError:
    optuna = None


@dataclass
class Study:
    """The search for one agent, algorithm, environment and setting."""

    name: str
    jobs: list[Job]
    """The grid's runs, one a seed, that the trials are variants of."""
    metric: Metric
    """What trials are compared by: the first of the environment."""
    study: Any
    """Optuna's."""

    def runs(self, trial: Any) -> list[Job]:
        """The runs of a trial."""
        return [
            replace(
                job,
                run=replace(
                    job.run, hyperparameters=job.run.hyperparameters.changed(**trial.params)
                ),
                setting=f"{job.setting}, trial {trial.number}",
                directory=_in_tune(job.directory) / f"trial{trial.number}" / f"seed{job.seed}",
            )
            for job in self.jobs
        ]

    def rows(self) -> list[dict[str, Any]]:
        """What every trial took and reached, the best first; the score of one that failed is
        None."""
        rows = [
            {"trial": t.number, "hyperparameters": t.params, "score": t.value}
            for t in self.study.trials
            if t.state.is_finished()
        ]
        sign = -1 if self.metric.higher_is_better else 1
        return sorted(rows, key=lambda row: (row["score"] is None, sign * (row["score"] or 0)))


def tune(
    grid: Grid,
    pool: Pool,
    out: Path,
    runs: Path = Path("runs"),
    display: Callable[[Sequence[Job]], Display] = Display,
) -> list[Study]:
    """Search until every study has its trials, and write them all to ``out``; interrupted, the next
    call goes on.

    A trial's score is the mean over its seeds of the environment's first metric in the final
    evaluation. A trial without one has failed.

    Raises:
        UsageError: if Optuna is not installed, or the grid does not say what to search.
        InterruptedRun: after Ctrl-C, as :func:`experiments.grids.schedule.run_jobs`.
    """
    if optuna is None:
        raise UsageError("tuning needs Optuna: pip install 'mnm-rl[tune]'")
    trials, space = _space(grid)
    studies = _studies(grid, runs)
    while left := [study for study in studies if len(study.rows()) < trials]:
        at_once = max(1, pool.workers // sum(len(study.jobs) for study in left))
        asked = [
            (study, trial)
            for study in left
            for trial in _next_trials(study, space, min(at_once, trials - len(study.rows())))
        ]
        jobs = [job for study, trial in asked for job in study.runs(trial)]
        try:
            run_jobs(jobs, pool, display(jobs))
        except RunError as error:
            if not any(job.failed for job in jobs):
                raise
            print(error)
        for study, trial in asked:
            own = study.runs(trial)
            ended = [result_of(job).metrics for job in own if not job.failed]
            scores = [mean for means in ended if (mean := means.get(study.metric.name)) is not None]
            if len(scores) < len(own):
                study.study.tell(trial.number, state=optuna.trial.TrialState.FAIL)
            else:
                study.study.tell(trial.number, sum(scores) / len(scores))
        _write(grid, studies, out)
    _write(grid, studies, out)
    return studies


def _space(grid: Grid) -> tuple[int, dict[str, Any]]:
    """How many trials, and what they search.

    Raises:
        UsageError: if the grid does not say it as it should.
    """
    trials, space = (
        grid.tune.get("trials"),
        {name: value for name, value in grid.tune.items() if name != "trials"},
    )
    if type(trials) is not int or trials < 1 or not space:
        raise UsageError(
            f"the grid {grid.name} needs a table [tune] with trials and what is searched, see "
            "docs/experiments.md"
        )
    for name, value in space.items():
        if isinstance(value, list) and value:
            choices = value
        elif (
            isinstance(value, dict)
            and {"low", "high"} <= value.keys() <= {"low", "high", "log"}
            and value["low"] < value["high"]
        ):
            choices = [value["low"], value["high"]]
        else:
            raise UsageError(
                f"[tune] {name} must be a list of choices, or have low, high and if need be log, "
                f"got {value!r}"
            )
        for choice in choices:
            replace(
                grid,
                settings={
                    setting: values | {name: choice} for setting, values in grid.settings.items()
                },
            )
    return trials, space


def _studies(grid: Grid, runs: Path) -> list[Study]:
    directory = runs / grid.name / "tune"
    directory.mkdir(parents=True, exist_ok=True)
    storage = JournalStorage(JournalFileBackend(str(directory / "studies.log")))
    optuna.logging.set_verbosity(optuna.logging.WARNING)

    def name(job: Job) -> str:
        return job.name.removesuffix(f", seed {job.seed}")

    studies = []
    for label, jobs in groupby(sorted(grid.jobs(runs), key=name), key=name):
        own = list(jobs)
        metric = metrics_of_run(own[0].run)[0]
        study = optuna.create_study(
            storage=storage,
            study_name=label,
            direction="maximize" if metric.higher_is_better else "minimize",
            load_if_exists=True,
        )
        study.sampler = optuna.samplers.TPESampler(seed=len(study.trials))
        studies.append(Study(label, own, metric, study))
    return studies


def _next_trials(study: Study, space: dict[str, Any], n: int) -> list[Any]:
    """The trials that were interrupted, or else ``n`` new ones."""
    interrupted = [
        t
        for t in study.study.get_trials(deepcopy=False)
        if not t.state.is_finished() and t.params.keys() == space.keys()
    ]
    if interrupted:
        return interrupted
    trials = [study.study.ask() for _ in range(n)]
    for trial in trials:
        for name, values in space.items():
            if isinstance(values, list):
                trial.suggest_categorical(name, values)
            else:
                suggest = (
                    trial.suggest_int
                    if all(type(values[end]) is int for end in ("low", "high"))
                    else trial.suggest_float
                )
                suggest(name, values["low"], values["high"], log=values.get("log", False))
    return trials


def _in_tune(directory: Path) -> Path:
    """``runs/<grid>/<environment>/<algorithm>/<agent>/<setting>/seed<S>`` to the directory of its
    trials."""
    environment, algorithm, agent, setting, _ = directory.parts[-5:]
    return directory.parents[4] / "tune" / environment / algorithm / agent / setting


def _write(grid: Grid, studies: Sequence[Study], out: Path) -> None:
    out.parent.mkdir(parents=True, exist_ok=True)
    found = {
        "grid": grid.name,
        "space": grid.tune,
        "seeds": list(grid.seeds),
        "studies": {s.name: s.rows() for s in studies},
    }
    out.write_text(json.dumps(found, indent=1) + "\n")

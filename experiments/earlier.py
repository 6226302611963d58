"""Metrics in files of version 0.2.0, which knew those of mazes alone, by names that changed from
file to file."""

from dataclasses import asdict
from typing import Any

import numpy as np

from envs import RETURN, MazeEnv

RENAMED = {
    "mean": RETURN.name,
    "first_goal": "steps_to_first_goal",
    "between": "mean_steps_between_goals",
}
"""Names of metrics in results of grids."""

MAZES: tuple[str, ...] = tuple(metric.name for metric in MazeEnv.metadata["metrics"])


def with_earlier_keys(row: dict[str, Any]) -> dict[str, Any]:
    """A run's entry in the JSON report, and the keys that its ``metrics`` had in version 0.2.0,
    null where they do not apply."""
    values = {name.removeprefix("mean_"): row["metrics"].get(name) for name in MAZES}
    return row | values


def results_of_earlier(values: dict[str, Any]) -> dict[str, Any]:
    """What a file of results holds, as today's version writes it."""
    if "metrics" in values:
        return values
    results = [_result(result) for result in values["results"]]
    return values | {
        "metrics": {
            result["environment"]: [asdict(metric) for metric in MazeEnv.metadata["metrics"]]
            if result["metrics"].keys() > {RETURN.name}
            else [asdict(RETURN)]
            for result in results
        },
        "references": {
            environment: {
                name: _renamed({key: mean for key, mean in means.items() if key != "ci95"})
                for name, means in references.items()
            }
            for environment, references in values["references"].items()
        },
        "results": results,
    }


def _result(values: dict[str, Any]) -> dict[str, Any]:
    of_mazes = {key: values[key] for key in ("goals", "first_goal", "between")}
    metrics = _renamed(of_mazes) if values["goals"] is not None else {}
    returns = values["returns"]
    mean = float(np.average([value for value, _ in returns], weights=[n for _, n in returns]))
    others = {key: value for key, value in values.items() if key not in of_mazes}
    return others | {"metrics": metrics | {RETURN.name: mean}}


def _renamed(metrics: dict[str, Any]) -> dict[str, Any]:
    return {RENAMED.get(name, name): mean for name, mean in metrics.items()}

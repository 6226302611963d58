"""The report of a grid as one HTML page that needs nothing but itself; its figures also as PDF and
PNG."""

import json
from collections.abc import Callable
from itertools import groupby
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
from matplotlib.figure import Figure

from envs import Metric
from experiments.analysis.figures import (
    ON_DARK,
    curves_figure,
    inline_svg,
    overview_figure,
    profile_figure,
    save_figure,
    scores_figure,
    style_of,
    themed,
    waits_figure,
)
from experiments.grids.results import Group, Results
from experiments.statistics import aggregate, interval, mean, probability_of_improvement

TEMPLATE = Path(__file__).with_name("page.html")


def write_page(results: Results, path: Path) -> None:
    """Write the page."""
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    grid = "\n".join(
        f"{name} = {json.dumps(value)}"
        for name, value in results.grid.items()
        if value and name != "name"
    )
    parts = _parts(results)
    page = environment.from_string(TEMPLATE.read_text()).render(
        results=results,
        overview=inline_svg(overview_figure(results, parts), "all") if len(parts) > 1 else None,
        overview_caption=FIGURES["steps"][1],
        sections=sections(results),
        grid=grid,
        on_dark=ON_DARK,
    )
    path.write_text(page)


def write_figures(results: Results, directory: Path, *endings: str) -> list[Path]:
    """Write all figures in formats such as ``"pdf"`` and ``"png"``, and give their names."""
    directory.mkdir(parents=True, exist_ok=True)
    written = []
    parts = _parts(results)
    for n, groups in enumerate(parts):
        for name, (_, _, draw) in FIGURES.items():
            for ending in endings:
                path = directory / f"{results.name}-{n}-{name}.{ending}"
                save_figure(draw(results, groups), path)
                written.append(path)
    if len(parts) > 1:
        for ending in endings:
            path = directory / f"{results.name}-all-steps.{ending}"
            save_figure(overview_figure(results, parts), path)
            written.append(path)
    return written


FIGURES: dict[str, tuple[str, str, Callable[[Results, list[Group]], Figure]]] = {
    "scores": (
        "Final scores",
        "Dots: the seeds. Tick: their interquartile mean. Bar: its 95% interval.",
        scores_figure,
    ),
    "steps": (
        "Learning, in steps",
        "Interquartile mean over the seeds while training; bands: 95% intervals.",
        lambda results, groups: curves_figure(results, groups, "steps"),
    ),
    "seconds": (
        "Learning, in seconds",
        "The same over the seconds of training, one thread a run; each line as far as the fastest "
        "of its seeds took.",
        lambda results, groups: curves_figure(results, groups, "seconds"),
    ),
    "waits": (
        "Within an episode: memory at work",
        "Steps from one reward to the next against how many were found before, in the final "
        "evaluation. An agent that remembers "
        "where the reward is needs fewer steps once it has found it. Drawn as far as half of the "
        "episodes of every seed came; late "
        "points are of the better episodes.",
        waits_figure,
    ),
    "profile": (
        "Performance profile",
        "The share of seeds that score better than each value; the higher a line, the better, and "
        "a steep one has seeds that agree.",
        profile_figure,
    ),
}
"""By name: title, caption, and what draws it."""


def sections(results: Results) -> list[dict[str, Any]]:
    """What the page shows of each environment and algorithm: tables and figures."""
    return [_section(results, groups, n) for n, groups in enumerate(_parts(results))]


def rows(results: Results, groups: list[Group]) -> list[dict[str, Any]]:
    """The statistics of each group, one row each."""
    found = []
    for group in groups:
        runs, scores = results.groups[group], [results.scores(group)]
        better = results.better(group[2])
        worst, best = (float(better * end(better * scores[0])) for end in (np.min, np.max))
        minutes = [run.curve["seconds"][-1] / 60 for run in runs if run.curve["seconds"]]
        found.append(
            {
                "label": group[0],
                "color": themed(style_of(group[0], [group[0]])["color"]),
                "seeds": [run.seed for run in runs],
                "iqm": aggregate(scores),
                "iqm_interval": interval(scores),
                "mean": aggregate(scores, mean),
                "mean_interval": interval(scores, mean),
                "normalized": results.normalized(group[2], aggregate(scores)),
                "metrics": [
                    _mean([run.metrics.get(metric.name) for run in runs])
                    for metric in others(results, group[2])
                ],
                "minutes": _mean(minutes),
                "best": best,
                "range": f"{worst:.1f} to {best:.1f}",
            }
        )
    return found


def others(results: Results, environment: str) -> list[Metric]:
    """The metrics beside the score of which a run in an environment has a value."""
    return [
        metric
        for metric in results.metrics[environment]
        if metric != results.metric(environment)
        and any(
            run.metrics.get(metric.name) is not None
            for run in results.results
            if run.environment == environment
        )
    ]


def improvement(results: Results, groups: list[Group]) -> list[dict[str, Any]]:
    """How probably each group is better than each other, None for itself."""
    scores = {group: [results.better(group[2]) * results.scores(group)] for group in groups}
    return [
        {
            "label": group[0],
            "against": [
                None if other == group else probability_of_improvement(scores[group], scores[other])
                for other in groups
            ],
        }
        for group in groups
    ]


def _parts(results: Results) -> list[list[Group]]:
    """The groups that are compared: those with the same environment and algorithm."""
    return [list(groups) for _, groups in groupby(results.groups, key=lambda group: group[1:])]


def _section(results: Results, groups: list[Group], n: int) -> dict[str, Any]:
    _, algorithm, environment = groups[0]
    references = results.references.get(environment, {})
    metrics = others(results, environment)
    beside = [*(["score"] if references else []), *(metric.label for metric in metrics)]
    return {
        "environment": environment,
        "algorithm": algorithm,
        "score": results.metric(environment).label,
        "columns": ["agent", "seeds", "IQM", "mean", *beside, "minutes", "worst to best seed"],
        "references": {
            name: {
                "score": score,
                "normalized": results.normalized(environment, score),
                "metrics": [references[name].get(metric.name) for metric in metrics],
            }
            for name, score in results.reference_scores(environment).items()
        },
        "rows": rows(results, groups),
        "figures": [
            {
                "title": title,
                "caption": caption,
                "svg": inline_svg(draw(results, groups), f"{name}{n}"),
            }
            for name, (title, caption, draw) in FIGURES.items()
        ],
        "improvement": improvement(results, groups),
    }


def _mean(values: list[Any]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None

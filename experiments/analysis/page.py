"""The report of a grid as one HTML page that needs nothing but itself; its figures also as PDF and
PNG."""

import json
from collections.abc import Callable
from itertools import groupby
from pathlib import Path
from typing import Any

import jinja2
from matplotlib.figure import Figure

from experiments.analysis.figures import (
    ON_DARK,
    curves_figure,
    inline_svg,
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
    page = environment.from_string(TEMPLATE.read_text()).render(
        results=results, sections=sections(results), grid=grid, on_dark=ON_DARK
    )
    path.write_text(page)


def write_figures(results: Results, directory: Path, *endings: str) -> list[Path]:
    """Write all figures in formats such as ``"pdf"`` and ``"png"``, and give their names."""
    directory.mkdir(parents=True, exist_ok=True)
    written = []
    for n, groups in enumerate(_parts(results)):
        for name, (_, _, draw) in FIGURES.items():
            for ending in endings:
                path = directory / f"{results.name}-{n}-{name}.{ending}"
                save_figure(draw(results, groups), path)
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
        "The share of seeds that score above each value; a line further right is better, a steep "
        "one has seeds that agree.",
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
                "first_goal": _mean([run.first_goal for run in runs]),
                "between": _mean([run.between for run in runs]),
                "minutes": _mean(minutes),
                "best": float(scores[0].max()),
                "range": f"{scores[0].min():.1f} to {scores[0].max():.1f}",
            }
        )
    return found


def improvement(results: Results, groups: list[Group]) -> list[dict[str, Any]]:
    """How probably each group is above each other, None for itself."""
    scores = {group: [results.scores(group)] for group in groups}
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
    of_maze = ["score", "steps to first goal", "to each next"] if references else []
    return {
        "environment": environment,
        "algorithm": algorithm,
        "unit": results.unit(environment),
        "columns": ["agent", "seeds", "IQM", "mean", *of_maze, "minutes", "worst to best seed"],
        "references": {
            name: score | {"normalized": results.normalized(environment, score["goals"])}
            for name, score in references.items()
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

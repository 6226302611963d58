"""Figures: the same agent in the same color everywhere, and named beside its line, the best
first."""

import io
import re
from collections.abc import Mapping, Sequence
from itertools import cycle, zip_longest
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.colors import to_hex, to_rgb
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import EngFormatter, MaxNLocator

from agents import AGENTS
from experiments.command_line import UsageError, first_line
from experiments.configuration import Run
from experiments.grids.results import Group, Results
from experiments.logs import column_of, first_logged
from experiments.run import metrics_of_run, read_progress
from experiments.scores import references
from experiments.statistics import Scores, aggregate, curve, interval, performance_profile

mpl.use("Agg")

COLORS = {
    "mnm-g": "#0a5b67",
    "mnm-p": "#df5c00",
    "deltanet": "#7f00f6",
    "gru": "#16cd95",
    "lstm": "#c465d7",
    "ntm": "#b400ab",
    "plastic": "#f09f00",
    "plastic-modulated": "#cda4ff",
    "rnn": "#808080",
    "salu": "#7b460b",
}
"""Told apart with every kind of color blindness, on white and on black (tests/test_report.py)."""

RELATIVES = {"gated-deltanet": "deltanet", "mingru": "gru"}
"""Agents in the color of another, with dashes of their own: there are no more colors that all eyes
tell apart. Agents that are named neither here nor above share the colors in their order."""

ON_DARK = {
    color: to_hex(((1 + r) / 2, (1 + g) / 2, (1 + b) / 2))
    for color, (r, g, b) in zip(COLORS.values(), map(to_rgb, COLORS.values()), strict=True)
    if 0.21 * r + 0.72 * g + 0.07 * b < 0.35
}
"""What dark colors are on a dark page."""

FOREGROUND = "#010203"
"""Text and axes: black, and in a page the color of the text around the figure, which is not known
when it is drawn."""
for _part in ("text.color", "axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color"):
    mpl.rcParams[_part] = FOREGROUND

OVERVIEW_COLUMNS = 3

Style = dict[str, Any]
Line = tuple[Scores, Scores, Scores, Scores]
"""Where a line is, its heights, and the ends of its band: four of ``[N]``."""


def agent_color(agent: str) -> str:
    """The color of an agent, also of its paper variant and of its relatives, the same in every
    figure; that of the text for what is no agent."""
    return COLORS.get(_family(agent), FOREGROUND)


def _family(label: str) -> str:
    """The agent of a label, without its setting and its variant, or the one that it is a relative
    of."""
    agent = label.split(", ")[0].removesuffix("-paper")
    families = dict.fromkeys(name.removesuffix("-paper") for name in AGENTS)
    others = [name for name in families if name not in COLORS | RELATIVES]
    return (RELATIVES | dict(zip(others, cycle(COLORS), strict=False))).get(agent, agent)


def style_of(label: str, labels: Sequence[str]) -> Style:
    """Color and dashes of a line: the agent's color, and one kind of dashes for each of its
    settings, variants and relatives."""
    same = [other for other in labels if _family(other) == _family(label)]
    dashes = (
        "-",
        (0, (5, 2)),
        (0, (1, 1)),
        (0, (5, 1, 1, 1)),
        (0, (3, 1, 1, 1, 1, 1)),
        (0, (9, 2)),
        (0, (1, 3)),
    )
    return {
        "color": agent_color(_family(label)),
        "linestyle": dashes[sorted(same, key=len).index(label) % len(dashes)],
    }


def draw_lines(
    axes: Axes,
    lines: Mapping[str, Line],
    known: Mapping[str, float] | None = None,
    bottom: float | None = None,
) -> None:
    """Draw lines with their bands, each named at its right end, and horizontal lines for what is
    known."""
    for label, (x, middle, low, high) in lines.items():
        style = style_of(label, list(lines))
        axes.plot(x, middle, linewidth=1.8, **style)
        axes.fill_between(x, low, high, color=style["color"], alpha=0.15, linewidth=0)
    for name, height in (known or {}).items():
        axes.axhline(height, color="gray", linestyle=":", linewidth=1)
        axes.annotate(
            name,
            (0.99, height),
            xycoords=("axes fraction", "data"),
            ha="right",
            va="bottom",
            color="gray",
            fontsize=8,
        )
    axes.spines[["top", "right"]].set_visible(False)
    axes.margins(x=0)
    axes.set_xlim(left=0)
    axes.set_ylim(bottom=bottom)
    _name_ends(axes, lines)


def _name_ends(axes: Axes, lines: Mapping[str, Line]) -> None:
    """Write each line's name beside the axes at the height where it ends, or as near as there is
    room."""
    low, high = axes.get_ylim()
    ends = sorted(
        (float((middle[-1] - low) / (high - low)), label)
        for label, (_, middle, _, _) in lines.items()
    )
    gap = min(0.055, 1 / max(1, len(ends) - 1))
    places: list[float] = []
    for end, _ in ends:
        places.append(max([end, *(place + gap for place in places[-1:])]))
    for i in reversed(range(len(places))):  # those that were pushed out at the top move down again
        places[i] = min(places[i], places[i + 1] - gap if i + 1 < len(places) else 1.0)
    for place, (_, label) in zip(places, ends, strict=True):
        x, middle, *_ = lines[label]
        color = style_of(label, list(lines))["color"]
        axes.annotate(
            label,
            xy=(x[-1], middle[-1]),
            xytext=(1.04, place),
            textcoords="axes fraction",
            va="center",
            color=color,
            fontsize=9,
            fontweight="bold",
            annotation_clip=False,
            arrowprops={
                "arrowstyle": "-",
                "color": color,
                "linewidth": 0.6,
                "alpha": 0.7,
                "relpos": (0, 0.5),
            },
        )


def learning_curves(runs: Sequence[tuple[Path, Run]], path: Path) -> None:
    """Draw the first metric that all runs have, or else the return, over steps: the interquartile
    mean of each agent's seeds."""
    figure, axes = make_figure()
    progress = [read_progress(directory) for directory, _ in runs]
    metric = first_logged(metrics_of_run(runs[0][1]), progress)
    key = column_of(metric)
    curves: dict[str, list[tuple[Scores, Scores]]] = {}
    for (_, run), rows in zip(runs, progress, strict=True):
        if points := [(row["time/total_timesteps"], row[key]) for row in rows if key in row]:
            steps, scores = np.array(points).T
            curves.setdefault(run.agent, []).append((steps, scores))
    environments = list(dict.fromkeys(run.environment for _, run in runs))
    known = {}
    if len(environments) == 1:
        means = {name: of.metrics[metric.name] for name, of in references(runs[0][1]).items()}
        known = {name: mean for name, mean in means.items() if mean is not None}
    draw_lines(axes, {agent: line(seeds) for agent, seeds in curves.items()}, known)
    axes.set(xlabel="environment steps", ylabel=metric.label, title=", ".join(environments))
    axes.xaxis.set_major_formatter(EngFormatter(sep=""))
    save_figure(figure, path)


def line(seeds: Sequence[tuple[Scores, Scores]]) -> Line:
    """The interquartile mean of curves, as far as all of them go."""
    x = np.linspace(max(at[0] for at, _ in seeds), min(at[-1] for at, _ in seeds), 200)
    return x, *curve(seeds, x)


def curves_figure(results: Results, groups: Sequence[Group], over: str) -> Figure:
    """Learning curves over ``steps`` or ``seconds``: interquartile means over the seeds, with 95%
    bands."""
    figure, axes = make_figure(height_beside(len(groups)))
    environment = groups[0][2]
    lines = {group[0]: _curve_of(results, group, over) for group in groups}
    draw_lines(axes, lines, results.reference_scores(environment))
    axes.set(
        ylabel=results.metric(environment).label,
        xlabel="environment steps" if over == "steps" else "seconds of training",
    )
    axes.xaxis.set_major_formatter(EngFormatter(sep=""))
    return figure


def overview_figure(results: Results, parts: Sequence[Sequence[Group]]) -> Figure:
    """Learning curves over steps, a panel for each environment and algorithm: interquartile means
    over the seeds, with 95% bands."""
    rows = -(-len(parts) // OVERVIEW_COLUMNS)
    figure, grid = plt.subplots(
        rows, OVERVIEW_COLUMNS, figsize=(12, 0.4 + 3.2 * rows), layout="constrained", squeeze=False
    )
    labels = list(dict.fromkeys(group[0] for groups in parts for group in groups))
    several = len(results.grid["algorithms"]) > 1
    handles: dict[str, Line2D] = {}
    for axes, groups in zip_longest(grid.flat, parts):
        if groups is None:
            axes.set_axis_off()
            continue
        for group in groups:
            x, middle, low, high = _curve_of(results, group, "steps")
            style = style_of(group[0], labels)
            (handles[group[0]],) = axes.plot(x, middle, linewidth=1.6, **style)
            axes.fill_between(x, low, high, color=style["color"], alpha=0.15, linewidth=0)
        _, algorithm, environment = groups[0]
        name = environment.rpartition(":")[2] + (f", {algorithm.upper()}" if several else "")
        axes.set_title(name, fontsize=10)
        axes.set_ylabel(results.metric(environment).label)
        axes.margins(x=0)
        axes.spines[["top", "right"]].set_visible(False)
        axes.xaxis.set_major_formatter(EngFormatter(sep=""))
    figure.supxlabel("environment steps", fontsize=10)
    figure.legend(
        [handles[label] for label in labels], labels, loc="outside right center", frameon=False
    )
    return figure


def _curve_of(results: Results, group: Group, over: str) -> Line:
    return line(
        [(np.array(r.curve[over]), np.array(r.curve["score"])) for r in results.groups[group]]
    )


def waits_figure(results: Results, groups: Sequence[Group]) -> Figure:
    """Steps to the next reward against how many there were: means over the seeds, as far as half of
    the episodes came."""
    figure, axes = make_figure(height_beside(len(groups)))
    lines: dict[str, Line] = {}
    for group in groups:
        runs = results.groups[group]
        far = min(sum(2 * count >= run.episodes for _, count in run.waits) for run in runs)
        if far:
            found = np.arange(far, dtype=float)
            lines[group[0]] = (
                found,
                *curve(
                    [(found, np.array([wait for wait, _ in run.waits[:far]])) for run in runs],
                    found,
                ),
            )
    draw_lines(axes, lines, bottom=0)
    axes.set(xlabel="rewards in this episode so far", ylabel="steps to the next one")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    return figure


def scores_figure(results: Results, groups: Sequence[Group]) -> Figure:
    """The final score of every seed, and the interquartile mean with its 95% interval; the best
    agent at the top."""
    figure, axes = make_figure(height=0.8 + 0.42 * len(groups))
    for place, group in enumerate(reversed(groups)):
        scores, color = results.scores(group), style_of(group[0], [group[0]])["color"]
        axes.plot(
            scores,
            np.full(len(scores), place),
            "o",
            color=color,
            alpha=0.45,
            markersize=5,
            markeredgewidth=0,
        )
        if (ends := interval([scores])) is not None:
            axes.plot(
                ends, [place, place], color=color, linewidth=3, alpha=0.8, solid_capstyle="butt"
            )
        axes.plot(
            aggregate([scores]), place, "|", color=FOREGROUND, markersize=14, markeredgewidth=2
        )
    axes.set_yticks(range(len(groups)), [group[0] for group in reversed(groups)])
    for tick, group in zip(axes.get_yticklabels(), reversed(groups), strict=True):
        tick.set_color(style_of(group[0], [group[0]])["color"])
        tick.set_fontweight("bold")
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.tick_params(axis="y", length=0)
    axes.set_xlabel(f"{results.metric(groups[0][2]).label}, final evaluation")
    axes.grid(axis="x", color="gray", alpha=0.2)
    return figure


def profile_figure(results: Results, groups: Sequence[Group]) -> Figure:
    """Performance profiles: the share of seeds that are better than each score; normalized where
    there are references."""
    figure, axes = make_figure(height_beside(len(groups)))
    environment = groups[0][2]
    normalized = bool(results.references.get(environment))
    sign = 1 if normalized else results.better(environment)
    scores = {
        group[0]: np.array(
            [
                results.normalized(environment, x) if normalized else x
                for x in results.scores(group)
            ],
            float,
        )
        for group in groups
    }
    everything = np.concatenate(list(scores.values()))
    low, high = min(0.0, everything.min()), everything.max()
    thresholds = np.linspace(low, high + 0.02 * (high - low or 1.0), 200)
    for label, own in scores.items():
        middle, lower, upper = performance_profile([sign * own], sign * thresholds)
        style = style_of(label, list(scores))
        axes.plot(thresholds, middle, linewidth=1.8, label=label, **style)
        axes.fill_between(thresholds, lower, upper, color=style["color"], alpha=0.1, linewidth=0)
    axes.legend(
        loc="center left",
        bbox_to_anchor=(1, 0.5),
        frameon=False,
        labelcolor="linecolor",
        fontsize=9,
    )
    axes.spines[["top", "right"]].set_visible(False)
    axes.set(
        xlabel="score, random 0, oracle 1" if normalized else results.metric(environment).label,
        ylabel="share of seeds above it" if sign > 0 else "share of seeds below it",
    )
    return figure


def make_figure(height: float = 4.2) -> tuple[Figure, Axes]:
    return plt.subplots(figsize=(8, height), layout="constrained")


def height_beside(names: int) -> float:
    """How high a figure must be for so many names beside it, in inches."""
    return max(4.2, 0.8 + 0.22 * names)


def inline_svg(figure: Figure, name: str) -> str:
    """A figure as an SVG element that takes the text's color from the page around it, and close
    it."""
    written = io.StringIO()
    with mpl.rc_context({"svg.hashsalt": name, "svg.fonttype": "none"}):
        figure.savefig(written, format="svg", transparent=True, metadata={"Date": None})
    plt.close(figure)
    svg = written.getvalue()
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg[svg.index("<svg") :], flags=re.DOTALL)
    svg = themed(svg)
    # ids are unique in a page, not in a figure
    return re.sub(r'(\bid="|url\(#|href="#)', rf"\g<1>{name}-", svg)


def themed(text: str) -> str:
    """Colors as those of the page, light or dark, which has ``--color-RRGGBB`` for dark ones."""
    for color in ON_DARK:
        text = text.replace(color, f"var(--color-{color[1:]})")
    return text.replace(FOREGROUND, "currentColor")


def save_figure(figure: Figure, path: Path) -> None:
    """Write a figure, and close it; for dark pages where the name ends in ``.dark.png``.

    Raises:
        UsageError: if the file's ending names no format.
    """
    if path.name.endswith(".dark.png"):
        _darken(figure)
    try:
        figure.savefig(path, dpi=120)
    except ValueError as error:  # an ending that matplotlib does not know
        raise UsageError(f"cannot draw {path}: {first_line(error)}") from error
    finally:
        plt.close(figure)


def _darken(figure: Figure) -> None:
    """Text and axes in light gray, what is white nearly black, and dark colors lighter."""
    swaps = {to_rgb(FOREGROUND): "#e6edf3", to_rgb("white"): "#0d1117"}
    swaps |= {to_rgb(color): lighter for color, lighter in ON_DARK.items()}
    for artist in figure.findobj():
        for part in ("color", "edgecolor", "facecolor", "markeredgecolor"):
            now = getattr(artist, f"get_{part}", lambda: None)()
            if isinstance(now, str | tuple) and (swap := swaps.get(to_rgb(now))):
                getattr(artist, f"set_{part}")(swap)

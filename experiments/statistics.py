"""Statistics of a few seeds, after Agarwal et al. (2021), "Deep reinforcement learning at the edge
of the statistical precipice".

A *strata* argument is one array a task, each with a score a seed, ``[S]``; resampling draws seeds
anew within each task. All random numbers come from one seed, so that the same scores always give
the same figures.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats

Interval = tuple[float, float]
Scores = NDArray[np.float64]
Strata = Sequence[Scores]

RESAMPLES = 10_000
"""Of the bootstrap."""


def mean(values: Any, axis: int = -1) -> Any:
    """The mean."""
    return np.mean(values, axis=axis)


def iqm(values: Any, axis: int = -1) -> Any:
    """The interquartile mean: the mean without the lowest and the highest quarter, rounded down."""
    return stats.trim_mean(values, 0.25, axis=axis)


def aggregate(strata: Strata, statistic: Callable[..., Any] = iqm) -> float:
    """A statistic of all scores, those of all tasks together."""
    return float(statistic(np.concatenate(strata)))


def interval(strata: Strata, statistic: Callable[..., Any] = iqm) -> Interval | None:
    """95% interval of a statistic of all scores, by stratified bootstrap over seeds; None where no
    task has two seeds."""
    ends: Interval | None = _bootstrap(
        strata, lambda *drawn, axis: statistic(np.concatenate(drawn, axis=axis), axis=axis)
    )
    return ends


def probability_of_improvement(ours: Strata, theirs: Strata) -> tuple[float, Interval | None]:
    """How probable it is that a seed of ours is above one of theirs, mean over tasks, with its 95%
    interval; ties are a half.

    Args:
        ours, theirs: scores on the same tasks, in the same order; the numbers of seeds may differ.
    """

    def above(*drawn: Scores, axis: int = -1) -> Any:
        pairs = zip(drawn[: len(ours)], drawn[len(ours) :], strict=True)
        return np.mean([_above(x, y) for x, y in pairs], axis=0)

    return float(above(*ours, *theirs)), _bootstrap([*ours, *theirs], above)


def _above(x: Scores, y: Scores) -> Any:
    """The share of pairs with ``x > y``: ``[..., S]`` and ``[..., R]`` to ``[...]``."""
    difference = x[..., :, None] - y[..., None, :]
    return ((difference > 0) + 0.5 * (difference == 0)).mean(axis=(-1, -2))


def performance_profile(strata: Strata, thresholds: Scores) -> tuple[Scores, Scores, Scores]:
    """The share of runs that score above each threshold, mean over the tasks, with its pointwise
    95% band: three of ``[N]``."""
    above = [(scores[:, None] > thresholds).astype(float) for scores in strata]

    def share(*drawn: Scores, axis: int = 0) -> Any:
        return np.mean([np.mean(task, axis=axis) for task in drawn], axis=0)

    middle = share(*above)
    return middle, *_band(above, share, middle)


def curve(runs: Sequence[tuple[Scores, Scores]], x: Scores) -> tuple[Scores, Scores, Scores]:
    """The interquartile mean of learning curves, with its pointwise 95% band: three of ``[N]``.

    Args:
        runs: of each seed where its curve was measured and what it was there.
        x: where to read the curves, ``[N]``.
    """
    values = np.stack([np.interp(x, at, score) for at, score in runs])
    middle: Scores = iqm(values, axis=0)
    return middle, *_band([values], lambda drawn, axis: iqm(drawn, axis=axis), middle)


def within_episode(episodes: Sequence[Sequence[int]]) -> tuple[list[float], list[int]]:
    """How long it takes to be rewarded again, against how often one was already: what memory is
    for.

    Args:
        episodes: the steps of each episode, from 1, at which there was a reward.

    Returns:
        The mean number of steps to the first reward, from the first to the second, and so on, and
        of how many episodes it is the mean. Only episodes that came so far are in it, so late
        entries are those of good episodes.
    """
    furthest = max(map(len, episodes), default=0)
    waits = [
        [steps[k] - (steps[k - 1] if k else 0) for steps in episodes if len(steps) > k]
        for k in range(furthest)
    ]
    return [float(np.mean(wait)) for wait in waits], [len(wait) for wait in waits]


def _band(strata: Strata, statistic: Callable[..., Any], middle: Scores) -> tuple[Scores, Scores]:
    """The interval at each of ``[N]`` points; no wider than the line where there is one seed."""
    band = _bootstrap(strata, statistic, axis=0, resamples=2000)
    return (middle, middle) if band is None else band


def _bootstrap(
    strata: Strata, statistic: Callable[..., Any], axis: int = -1, resamples: int = RESAMPLES
) -> Any:
    """The ends of the 95% interval, drawn within each stratum; a stratum of one score is that score
    in every draw."""
    if max(len(scores) for scores in strata) < 2:
        return None
    # SciPy asks for two scores where there is one: the second is not looked at.
    twice = [scores if len(scores) > 1 else np.concatenate([scores, scores]) for scores in strata]

    def of_drawn(*drawn: Scores, axis: int) -> Any:
        own = (
            d if len(scores) > 1 else np.take(d, [0], axis=axis)
            for d, scores in zip(drawn, strata, strict=True)
        )
        return statistic(*own, axis=axis)

    found = stats.bootstrap(
        twice,
        of_drawn,
        n_resamples=resamples,
        vectorized=True,
        axis=axis,
        method="percentile",
        rng=0,
        batch=500,
    ).confidence_interval
    return (
        (float(found.low), float(found.high))
        if np.ndim(found.low) == 0
        else (found.low, found.high)
    )

"""What environments report about an episode.

An environment declares its metrics, and training logs, tables, figures and reports show them.
"""

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Metric:
    """A number that an environment reports in the `info` of the last step of every episode.

    An environment declares its metrics in `metadata["metrics"]`, as a tuple. The first one is the
    score: agents are compared by the first metric. The others appear beside the score. A wrapper, a
    vector environment and a subclass have the metadata of what they are made of, so one declaration
    serves them all::

        class Orchard(gym.Env):
            metadata = {
                "render_modes": [],
                "metrics": (
                    Metric("apples", "apples per episode"),
                    Metric("steps_to_apple", "time to the first apple", "steps", False, "first"),
                ),
            }

    The return and the length of an episode are known of every environment. To compare agents by
    the return, declare :data:`RETURN` first. An environment without a declaration has the metric
    `RETURN`.

    An episode may report None or NaN if the number does not apply, such as a time to something that
    did not happen. The means leave this episode out.
    """

    name: str
    """Key in `info`. Logs, tables and files have the same name."""
    title: str
    """A few words for figures and reports, such as `"apples per episode"`."""
    unit: str = ""
    """Such as `"steps"`. Counts and shares have none."""
    higher_is_better: bool = True
    """Whether agents with a higher mean are better. False for times and errors."""
    short: str = ""
    """A word for the column of a table in the terminal, if the name is too long for it."""

    @property
    def label(self) -> str:
        """The title with its unit, for axes and columns."""
        return f"{self.title} ({self.unit})" if self.unit else self.title

    @property
    def heading(self) -> str:
        """The column of a table in the terminal."""
        return self.short or self.name


RETURN = Metric("return", "return")
"""The sum of the rewards of an episode, which is known of every environment."""


def metrics_of(env: Any) -> tuple[Metric, ...]:
    """Return the metrics that a single or a vectorized environment declares, or else the return.

    Raises:
        ValueError: if `metadata["metrics"]` is no tuple or list of metrics with different names.
    """
    declared = env.metadata.get("metrics", ())
    if not (
        isinstance(declared, tuple | list)
        and all(isinstance(metric, Metric) for metric in declared)
        and len({metric.name for metric in declared}) == len(declared)
    ):
        raise ValueError(
            "metadata['metrics'] of an environment must be a tuple of envs.Metric with different "
            f"names, got {declared!r}"
        )
    return tuple(declared) or (RETURN,)

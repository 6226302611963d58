"""How far a training is, on the standard error output."""

import sys
import time
from datetime import timedelta

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn


def short(number: float) -> str:
    """Format a non-negative number with a few digits, such as ``12``, ``3.0k`` or ``1.2M``."""
    unit = ""
    for larger in "kMG":
        if number < 999.5:
            break
        number, unit = number / 1000, larger
    return f"{number:.1f}{unit}" if unit else f"{number:.0f}"


class ProgressLine:
    """Show how much is done, how fast, the time left, and a score.

    A terminal shows a bar. Any other output gets a line now and then. Speed and time left do not
    count what comes before the second call of :meth:`show`, because kernels are compiled then. Call
    :meth:`close` at the end.

    Args:
        total: how many there are to do.
        unit: what is counted, such as ``"steps"``.
        done: how many were done before.
        interval: seconds between two lines if the output is not a terminal.
    """

    WARM_UP = 2
    """Calls of :meth:`show` until speed is measured."""

    def __init__(self, total: int, unit: str, done: int = 0, interval: float = 30.0) -> None:
        self.total, self.unit, self.interval = total, unit, interval
        self._calls, self._first = 0, done
        self._since = self._last_line = time.perf_counter()
        self._bar: Progress | None = None
        if sys.stderr.isatty():
            self._bar = Progress(
                BarColumn(bar_width=24),
                TextColumn("{task.description}"),
                console=Console(stderr=True),
            )
            self._task = self._bar.add_task(self._so_far(done), total=total, completed=done)
            self._bar.start()

    def show(self, done: int, score: str = "") -> None:
        """Show that ``done`` are done, and a score."""
        now = time.perf_counter()
        self._calls += 1
        parts = [self._so_far(done)]
        if self._calls <= self.WARM_UP:
            self._first, self._since = done, now
        elif done > self._first and now > self._since:
            per_second = (done - self._first) / (now - self._since)
            left = timedelta(seconds=round(max(0, self.total - done) / per_second))
            parts += [f"{short(per_second)} {self.unit}/s", f"{left} left"]
        line = "  ".join([*parts, score]).rstrip()
        if self._bar is not None:
            self._bar.update(self._task, completed=min(done, self.total), description=line)
        elif now - self._last_line > self.interval:
            self._last_line = now
            print(line, file=sys.stderr, flush=True)

    def _so_far(self, done: int) -> str:
        return f"{short(done)}/{short(self.total)}"

    def close(self) -> None:
        """Restore the terminal."""
        if self._bar is not None:
            self._bar.stop()

"""What is shown while a grid runs: one display for all runs on a terminal, plain lines
elsewhere."""

import sys
import time
from collections.abc import Sequence
from datetime import timedelta
from typing import Any

from rich import box
from rich.console import Console
from rich.live import Live
from rich.markup import escape
from rich.progress_bar import ProgressBar
from rich.table import Table

from envs import Metric
from experiments.command_line import UsageError
from experiments.grids.grid import Job
from experiments.logs import column_of, first_logged
from experiments.run import metrics_of_run, read_progress
from mnm_rl.progress import short


class Display:
    """The state of all runs of a grid, on the standard error output.

    Args:
        jobs: all runs, finished ones too.
        interval: seconds between two looks at the runs' progress; on a terminal. Elsewhere a line
            on the whole grid comes every 60 times as many.
    """

    def __init__(self, jobs: Sequence[Job], interval: float = 1.0) -> None:
        self.jobs = jobs
        self.console = Console(stderr=True, soft_wrap=not sys.stderr.isatty())
        self.interval = interval if self.console.is_terminal else 60 * interval
        # Without a thread of its own: processes are forked from this one.
        self._live = (
            Live(console=self.console, auto_refresh=False, transient=True)
            if self.console.is_terminal
            else None
        )

    def __enter__(self) -> "Display":
        self._steps = {job.directory: 0.0 for job in self.jobs}
        self._scores: dict[Any, str] = {}
        self._metrics: dict[str, Sequence[Metric]] = {}
        for job in self.jobs:
            self._look(job)
        self._before, self._last = sum(self._steps.values()), 0.0
        # when steps were first seen to be done, after the compilation of kernels
        self._since: float | None = None
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._live is not None:
            self._live.stop()
        self.console.print(self._summary(), markup=False, highlight=False)

    def started(self, job: Job) -> None:
        """Say that a run was started, and how."""
        self._say(f"started   {job.name}\n          {job.shell()}")

    def ended(self, job: Job, lost: bool) -> None:
        """Say how a run ended."""
        self._look(job)
        how = (
            "lost"
            if lost
            else "finished"
            if job.finished
            else "failed"
            if job.failed
            else "stopped"
        )
        score = self._scores.get(job.directory, "")
        self._say(f"{how:<9} {job.name}   {score if job.finished else job.log}")

    def update(self, running: Sequence[Job]) -> None:
        """Show how far the runs are."""
        if time.monotonic() - self._last < self.interval:
            return
        self._last = time.monotonic()
        for job in running:
            self._look(job)
        if self._live is None:
            self._say(self._summary())
            return
        table = Table(
            box=box.SIMPLE_HEAD,
            show_edge=False,
            caption=escape(self._summary()),
            caption_justify="left",
        )
        for column in ("run", "", "steps", "score"):
            table.add_column(
                column, no_wrap=True, justify="left" if column in ("run", "") else "right"
            )
        for job in running:
            steps = self._steps[job.directory]
            bar = ProgressBar(
                total=job.run.total_timesteps,
                completed=min(steps, job.run.total_timesteps),
                width=20,
            )
            score = self._scores.get(job.directory, "")
            table.add_row(
                escape(job.name), bar, f"{short(steps)}/{short(job.run.total_timesteps)}", score
            )
        self._live.update(table, refresh=True)

    def _look(self, job: Job) -> None:
        """Read how far a run is."""
        rows = read_progress(job.directory)
        done = rows[-1]["time/total_timesteps"] if rows else 0.0
        self._steps[job.directory] = (
            float(job.run.total_timesteps) if job.finished else min(done, job.run.total_timesteps)
        )
        if rows:
            metric = first_logged(self._metrics_of(job), [rows[-1:]])
            if (score := rows[-1].get(column_of(metric))) is not None:
                self._scores[job.directory] = f"{metric.heading} {score:.2f}"

    def _metrics_of(self, job: Job) -> Sequence[Metric]:
        """What the environment of a run declares; nothing where it cannot be made here."""
        if job.environment not in self._metrics:
            try:
                self._metrics[job.environment] = metrics_of_run(job.run)
            except UsageError:
                self._metrics[job.environment] = ()
        return self._metrics[job.environment]

    def _summary(self) -> str:
        finished, failed = (
            sum(job.finished for job in self.jobs),
            sum(job.failed for job in self.jobs),
        )
        done, total = sum(self._steps.values()), sum(job.run.total_timesteps for job in self.jobs)
        text = f"{finished} of {len(self.jobs)} runs finished"
        if failed:
            text += f", {failed} failed"
        text += f"; {short(done)} of {short(total)} steps"
        now, new = time.monotonic(), done - self._before
        if self._since is None:
            if new > 0:
                self._since, self._before = now, done
        elif new > 0 and done < total:
            elapsed = now - self._since
            left = timedelta(seconds=round((total - done) * elapsed / new))
            text += f", {short(new / elapsed)} steps/s, {left} left"
        return text

    def _say(self, text: str) -> None:
        self.console.print(text, markup=False, highlight=False)

"""Many runs, as many at a time as there are cores: finished ones are kept, interrupted ones go on,
failed ones are reported."""

import contextlib
import ctypes
import fcntl
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Protocol

from experiments.command_line import InterruptedRun, RunError
from experiments.grids.display import Display
from experiments.grids.grid import Job

_LIBC = ctypes.CDLL(None) if sys.platform == "linux" else None
LOST = -1000
"""The exit code of a run whose machine went away."""


class Worker(Protocol):
    """A run at work somewhere."""

    def poll(self) -> int | None:
        """The exit code, None while it runs; ``LOST`` where the machine went away with it."""

    def stop(self, number: signal.Signals) -> None:
        """Send it a signal: SIGINT to save and end, SIGKILL to end at once."""


class Pool(Protocol):
    """Where runs are worked on."""

    @property
    def workers(self) -> int:
        """How many at a time."""

    def start(self, job: Job) -> Worker | None:
        """Start or resume a run; None where somebody else is at work on it."""


def run_jobs(
    jobs: Sequence[Job], pool: Pool, display: Display, retry: bool = False, interval: float = 0.5
) -> None:
    """Work on the runs that are not finished, in their order, until all are finished or have
    failed.

    Args:
        jobs: the runs.
        pool: where to work on them.
        display: shows what is done.
        retry: try those again that failed before.
        interval: seconds between two looks at the runs.

    Raises:
        UsageError: if a directory holds a run with other settings.
        InterruptedRun: after Ctrl-C, SIGTERM or SIGHUP, when all runs have saved and ended.
        RunError: at the end, if runs failed or somebody else is at work on them.
    """
    for job in jobs:
        job.check_unchanged()
    waiting = [job for job in jobs if not job.finished and (retry or not job.failed)]
    running: list[tuple[Job, Worker]] = []
    elsewhere: list[Job] = []
    with _Signals() as signals, display:
        while waiting or running:
            while waiting and len(running) < pool.workers and not signals.count:
                job = waiting.pop(0)
                if (worker := pool.start(job)) is not None:
                    running.append((job, worker))
                    display.started(job)
                elif not job.finished:  # it may be, by now
                    elsewhere.append(job)
            for job, worker in list(running):
                if (code := worker.poll()) is None:
                    continue
                running.remove((job, worker))
                if code == LOST:
                    waiting.insert(0, job)
                elif not job.finished and not signals.count:
                    job.failure.write_text(
                        f"{last_line(job.log) or 'it printed nothing'} (exit code {code})\n"
                    )
                display.ended(job, lost=code == LOST)
            if signals.count and not running:
                break
            signals.pass_on([worker for _, worker in running])
            display.update([job for job, _ in running])
            signals.wait(interval)
    if signals.count:
        left = sum(not job.finished for job in jobs)
        raise InterruptedRun(
            f"{left} of {len(jobs)} runs are unfinished; the same command goes on with them"
        )
    failed = [job for job in jobs if job.failed]
    for job in failed:
        print(
            f"failed: {job.name}: {job.failure.read_text().strip()}\n  {job.shell()}\n  {job.log}",
            file=sys.stderr,
        )
    if failed:
        raise RunError(f"{len(failed)} of {len(jobs)} runs failed; --retry tries them again")
    if elsewhere:
        raise RunError(
            f"somebody else is at work on {len(elsewhere)} of {len(jobs)} runs, the first is "
            f"{elsewhere[0].directory}"
        )


@dataclass
class LocalPool:
    """This machine."""

    workers: int

    def start(self, job: Job) -> "LocalWorker | None":
        return start_locally(job)


@dataclass
class LocalWorker:
    """A run in a process of this machine."""

    process: subprocess.Popen[bytes]

    def poll(self) -> int | None:
        return self.process.poll()

    def stop(self, number: signal.Signals) -> None:
        self.process.send_signal(number)


def start_locally(job: Job, wait_for_lock: bool = False) -> LocalWorker | None:
    """Start ``train.py``, or resume it from the last checkpoint; None if somebody else is at work
    on the run, or it is finished.

    The process holds the run's lock as long as it lives, whatever becomes of this one, and is asked
    to save and end when this one ends.
    """
    job.directory.parent.mkdir(parents=True, exist_ok=True)
    with open(job.lock, "w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX if wait_for_lock else fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return None
        if job.finished:
            return None
        job.failure.unlink(missing_ok=True)
        if job.directory.exists() and not job.resumable:
            shutil.rmtree(job.directory)  # it was stopped before its first checkpoint
        job.write_config()
        with open(job.log, "ab") as log:
            log.write(f"$ {job.shell()}\n".encode())
            log.flush()
            process = subprocess.Popen(
                job.command(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                pass_fds=(lock.fileno(),),
                process_group=0,  # Ctrl-C is for this process, which passes it on once
                preexec_fn=_end_with_parent,
                env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"},
            )
    return LocalWorker(process)


def _end_with_parent() -> None:
    """Have the kernel send SIGTERM to this process when its parent ends (Linux only)."""
    if _LIBC is not None:
        _LIBC.prctl(1, signal.SIGTERM)  # PR_SET_PDEATHSIG


def last_line(log: Path) -> str:
    """The last line of a log that says something."""
    with contextlib.suppress(FileNotFoundError):
        lines = [line for line in log.read_text(errors="replace").splitlines() if line.strip()]
        return lines[-1] if lines else ""
    return ""


class _Signals:
    """Counts Ctrl-C, SIGTERM and SIGHUP, and passes them on: the first as Ctrl-C, the second as a
    kill."""

    def __init__(self) -> None:
        self.count = self._passed = 0

    def __enter__(self) -> "_Signals":
        numbers = [
            number
            for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
            if signal.getsignal(number) != signal.SIG_IGN
        ]
        self._before = {number: signal.signal(number, self._received) for number in numbers}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _received(self, number: int, frame: FrameType | None) -> None:
        self.count += 1

    def pass_on(self, workers: Sequence[Worker]) -> None:
        if self._passed < self.count:
            self._passed = self.count
            for worker in workers:
                worker.stop(signal.SIGINT if self.count == 1 else signal.SIGKILL)

    def wait(self, seconds: float) -> None:
        """Sleep, but not past a signal."""
        until = time.monotonic() + seconds
        while self._passed == self.count and (left := until - time.monotonic()) > 0:
            time.sleep(min(left, 0.1))

"""Stable-Baselines3 callbacks for long trainings: a progress bar, checkpoints that survive a kill, a clean stop."""

import os
import signal
import sys
import time
from collections import deque
from datetime import timedelta
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback

from mnm_rl.algorithms import distributed


def save_atomically(model: BaseAlgorithm, path: Path) -> None:
    """Save a model so that ``path`` holds, at every moment, either what it held before or the whole new file.

    Raises:
        OSError: if the file cannot be written, for example on a full disk; ``path`` is then as it was.
    """
    unfinished = path.with_suffix(".unfinished")
    try:
        with open(unfinished, "w+b") as file:
            model.save(file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(unfinished, path)
    finally:
        unfinished.unlink(missing_ok=True)


class AtomicCheckpoints(BaseCallback):
    """Keep the last checkpoints of a training, each written atomically between two updates.

    Files are named ``step-<steps>.zip`` and are loaded with the algorithm's ``load``.

    Args:
        directory: where they go; made if missing.
        interval: environment steps between two checkpoints.
        keep: how many to keep.
    """

    def __init__(self, directory: Path, interval: int, keep: int = 2) -> None:
        super().__init__()
        self.directory, self.interval, self.keep = directory, interval, keep

    def _on_training_start(self) -> None:
        self.directory.mkdir(parents=True, exist_ok=True)
        self._saved = self.num_timesteps

    def _on_rollout_start(self) -> None:
        if self.num_timesteps - self._saved >= self.interval:
            self.save()

    def _on_step(self) -> bool:
        return True

    def save(self) -> None:
        """Write a checkpoint now, and drop the oldest beyond ``keep``. Of several processes the first writes."""
        if not distributed.is_first():
            return
        save_atomically(self.model, self.directory / f"step-{self.model.num_timesteps:012d}.zip")
        self._saved = self.model.num_timesteps
        for old in checkpoints(self.directory)[: -self.keep]:
            old.unlink()


def checkpoints(directory: Path) -> list[Path]:
    """The checkpoints in a directory, oldest first."""
    return sorted(directory.glob("step-*.zip"))


class StopOnSignal(BaseCallback):
    """End the training cleanly, after the current step, on Ctrl-C or SIGTERM. A second Ctrl-C interrupts at once.

    Several processes that share a training stop together, after the first step of a rollout.

    Attributes:
        stopped: whether a signal came.
    """

    def __init__(self) -> None:
        super().__init__()
        self.stopped = self._asked = False
        self._before: dict[signal.Signals, Any] = {}

    def _on_training_start(self) -> None:
        self._before = {number: signal.signal(number, self._stop) for number in (signal.SIGINT, signal.SIGTERM)}

    def _stop(self, number: int, frame: FrameType | None) -> None:
        if self._asked:
            raise KeyboardInterrupt
        self._asked = True
        self.stopped = not distributed.is_joined()

    def _on_rollout_start(self) -> None:
        self.stopped = distributed.any_process(self._asked)

    def _on_step(self) -> bool:
        return not self.stopped

    def restore(self) -> None:
        """Put the signal handlers back that were there before."""
        for number, handler in self._before.items():
            signal.signal(number, handler)


class EpisodeMeans(BaseCallback):
    """Log ``rollout/<key>``, the mean of a number that the environment's ``info`` holds at the end of an episode.

    Args:
        key: the name in ``info``, such as ``"goals"``; nothing is logged for environments that do not have it.
        window: how many of the last episodes the mean is taken over.
    """

    def __init__(self, key: str, window: int = 100) -> None:
        super().__init__()
        self.key = key
        self._values: deque[float] = deque(maxlen=window)

    @property
    def mean(self) -> float | None:
        """The mean over the last episodes, None before the first one."""
        return float(np.mean(self._values)) if self._values else None

    def _on_step(self) -> bool:
        if self.locals["dones"].any():
            self._values.extend(info[self.key] for info in self.locals["infos"] if self.key in info)
        return True

    def _on_rollout_end(self) -> None:
        if self.mean is not None:
            self.logger.record(f"rollout/{self.key}", self.mean)


def short(number: float) -> str:
    """A number that is not negative, to a few digits, such as ``12``, ``3.0k`` or ``1.2M``."""
    unit = ""
    for larger in "kMG":
        if number < 999.5:
            break
        number, unit = number / 1000, larger
    return f"{number:.1f}{unit}" if unit else f"{number:.0f}"


class ProgressBar(BaseCallback):
    """Steps done, steps per second, time left and the current score of a training, on the standard error output.

    On a terminal, of 60 columns or more, it is a bar; elsewhere it prints a line every ``interval`` seconds.

    Args:
        episode_means: the score to show; where it has none, the mean return.
        interval: seconds between two lines where the output is not a terminal.
    """

    def __init__(self, episode_means: EpisodeMeans, interval: float = 30.0) -> None:
        super().__init__()
        self.episode_means = episode_means
        self.interval = interval
        self._bar: Progress | None = None

    def _on_training_start(self) -> None:
        self._total = self.locals["total_timesteps"]
        self._first, self._since = self.num_timesteps, time.perf_counter()
        self._last_line = self._since
        if sys.stderr.isatty():
            self._bar = Progress(BarColumn(bar_width=24), TextColumn("{task.description}"), console=Console(stderr=True))
            self._task = self._bar.add_task(self._steps(), total=self._total, completed=self.num_timesteps)
            self._bar.start()

    def _on_step(self) -> bool:
        return True

    def _on_rollout_end(self) -> None:
        now = time.perf_counter()
        per_second = (self.num_timesteps - self._first) / (now - self._since)
        left = timedelta(seconds=round(max(0, self._total - self.num_timesteps) / per_second))
        line = f"{self._steps()}  {short(per_second)} steps/s  {left} left"
        if self.episode_means.mean is not None:
            line += f"  {self.episode_means.key} {self.episode_means.mean:.2f}"
        elif self.model.ep_info_buffer:
            line += f"  return {np.mean([episode['r'] for episode in self.model.ep_info_buffer]):.1f}"
        if self._bar is not None:
            self._bar.update(self._task, completed=min(self.num_timesteps, self._total), description=line)
        elif now - self._last_line > self.interval:
            self._last_line = now
            print(line, file=sys.stderr, flush=True)

    def _steps(self) -> str:
        return f"{short(self.num_timesteps)}/{short(self._total)}"

    def close(self) -> None:
        """Leave the terminal as it was; call it also when the training ended early."""
        if self._bar is not None:
            self._bar.stop()

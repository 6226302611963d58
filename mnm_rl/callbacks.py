"""Stable-Baselines3 callbacks for long trainings: a progress bar, checkpoints that survive a kill,
a clean stop."""

import signal
import sys
import threading
import time
from collections import deque
from copy import deepcopy
from datetime import timedelta
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn
from stable_baselines3.common.callbacks import BaseCallback, EvalCallback
from stable_baselines3.common.logger import TensorBoardOutputFormat

from mnm_rl.algorithms import distributed
from mnm_rl.algorithms.on_policy import RecurrentOnPolicyAlgorithm
from mnm_rl.evaluation import Masked
from mnm_rl.files import STOPPING, UNFINISHED, checkpoint, checkpoints, save_atomically

AT_BOUNDARY = "_at_boundary"
"""The attribute of a model in which :class:`AtomicCheckpoints` keeps whether its training ended
where going on would begin new episodes, so that it can go on from what was saved then, to the
bit."""

EPISODE_VALUES = "_episode_values"
"""The attribute of a model in which :class:`EpisodeMeans` keeps its numbers, by key."""


class AtomicCheckpoints(BaseCallback):
    """Keep the last checkpoints of a training, each written atomically between two updates, from
    which it can be repeated.

    A checkpoint does not hold the environments. So it is a boundary of the training itself,
    interrupted or not: where one is due, every random generator is seeded anew, from the model's
    seed and the step, and all environments begin new episodes. Going on from the file does the
    same, and repeats the rest of the training to the bit. Between two checkpoints, a rollout after
    which all episodes have ended is followed by the same, which costs nothing: a training that is
    stopped there can be repeated as well. Models without a seed, and algorithms of other libraries,
    go on with their episodes.

    Files are named ``step-<steps>.zip`` and are loaded with the algorithm's ``load``.

    Args:
        directory: where they go; made if missing.
        interval: environment steps between two checkpoints; they are due at the end of the rollout
            in which the number of steps reaches a multiple of it.
        keep: how many to keep.
    """

    def __init__(self, directory: Path, interval: int, keep: int = 2) -> None:
        super().__init__()
        self.directory, self.interval, self.keep = directory, interval, keep
        self._collecting = False

    def _on_training_start(self) -> None:
        self.directory.mkdir(parents=True, exist_ok=True)
        for unfinished in self.directory.glob(f"*{UNFINISHED}"):  # of a process that was killed
            unfinished.unlink(missing_ok=True)
        self._boundary = self.num_timesteps
        vars(self.model)[AT_BOUNDARY] = False
        self._remember_episodes()
        if self.num_timesteps > 0:
            if isinstance(self.model, RecurrentOnPolicyAlgorithm):
                self.model.record_unlogged()
            self._begin_episodes()

    def _on_rollout_start(self) -> None:
        if self._is_due():
            self.save()
        if self._is_boundary():
            self._begin_episodes()
        self._boundary, self._collecting = self.num_timesteps, True
        self._remember_episodes()

    def _on_step(self) -> bool:
        return True

    def _on_rollout_end(self) -> None:
        self._collecting = False

    def _on_training_end(self) -> None:
        vars(self.model)[AT_BOUNDARY] = self._is_boundary()

    def _is_due(self) -> bool:
        return self.num_timesteps // self.interval > self._boundary // self.interval

    def _is_boundary(self) -> bool:
        """Whether the next rollout, if there is one, begins new episodes."""
        ended = self.num_timesteps > self._boundary and np.all(self.model._last_episode_starts)
        return self._is_due() or bool(ended)

    def _begin_episodes(self) -> None:
        if isinstance(self.model, RecurrentOnPolicyAlgorithm) and self.model.seed is not None:
            mixed = np.random.SeedSequence((self.model.seed, self.num_timesteps)).generate_state(1)
            self.model.begin_episodes(int(mixed[0]) >> 1)  # room for a seed of each environment

    def _remember_episodes(self) -> None:
        kept = ("ep_info_buffer", "ep_success_buffer", EPISODE_VALUES)
        self._episodes = {
            name: deepcopy(vars(self.model)[name]) for name in kept if name in vars(self.model)
        }

    def save(self) -> None:
        """Write a checkpoint now, between two rollouts, and drop the oldest beyond ``keep``. Of
        several processes the first writes.

        Raises:
            NotSavedError: if it cannot be written.
        """
        if not distributed.is_first():
            return
        save_atomically(self.model, checkpoint(self.directory, self.model.num_timesteps))
        for old in checkpoints(self.directory)[: -self.keep]:
            old.unlink()

    def save_before_rollout(self) -> bool:
        """Write a checkpoint of the training as it was when the rollout began in which, for
        example, an environment failed.

        Returns:
            False, without a checkpoint, if no rollout was under way: its update may have been done
                in part.

        Raises:
            NotSavedError: if it cannot be written.
        """
        if self._collecting:
            self.model.num_timesteps = self._boundary
            vars(self.model).update(self._episodes)
            self.save()
        return self._collecting


class StoppedTraining(Exception):
    """The training was ended by a signal, after an update."""


class StopOnSignal(BaseCallback):
    """End the training on Ctrl-C or SIGTERM with a :class:`StoppedTraining`, after the update that
    follows the current rollout.

    Another signal, a second or more after the first, interrupts at once with a KeyboardInterrupt.

    Signals are caught while ``learn`` runs in the main thread, the only one that they reach: what
    they did before, they do again after it, and beside a training in another thread.

    Several processes that share a training stop together, whichever the signal reaches.

    Attributes:
        stopped: whether a signal came.
        at_once: whether a second one came.
    """

    def __init__(self) -> None:
        super().__init__()
        self.stopped = self.at_once = False
        self._since = 0.0
        self._before: dict[signal.Signals, Any] = {}

    def _on_training_start(self) -> None:
        self.restore()  # where an error ended the training before
        self.stopped = self.at_once = False
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._stop) for number in STOPPING}

    def _stop(self, number: int, frame: FrameType | None) -> None:
        if self.stopped and time.monotonic() - self._since < 1:
            return  # the same wish: Ctrl-C in a shell that passes SIGTERM on
        if not self._learns(frame):
            self.restore()
            signal.raise_signal(number)
        elif not self.stopped:
            self.stopped, self._since = True, time.monotonic()
        else:
            self.at_once = True
            raise KeyboardInterrupt

    def _learns(self, frame: FrameType | None) -> bool:
        """Whether the training still runs: callbacks are not told of one that an exception has
        ended."""
        while frame is not None:
            if frame.f_code.co_name == "learn" and frame.f_locals.get("self") is self.model:
                return True
            frame = frame.f_back
        return False

    def _on_rollout_start(self) -> None:
        if distributed.any_process(self.stopped):
            raise StoppedTraining

    def _on_step(self) -> bool:
        return True

    def _on_training_end(self) -> None:
        self.restore()

    def restore(self) -> None:
        """Put the signal handlers back that were there before; the end of ``learn`` does so by
        itself."""
        if threading.current_thread() is threading.main_thread():
            for number, handler in self._before.items():
                if signal.getsignal(number) == self._stop and handler is not None:
                    signal.signal(number, handler)
            self._before = {}


class MaskableEvalCallback(EvalCallback):
    """Stable-Baselines3's ``EvalCallback`` for environments that may have action masks
    (:mod:`mnm_rl.masks`).

    Args:
        args: those of ``EvalCallback``, and so are ``kwargs``.
        use_masking: None to heed masks where there are any, True to insist on them, False for
            never.
    """

    def __init__(self, *args: Any, use_masking: bool | None = None, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.use_masking = use_masking

    def _on_step(self) -> bool:
        model = self.model
        self.model = Masked(model, self.eval_env, self.use_masking)  # type: ignore[assignment]
        try:
            return super()._on_step()
        finally:
            self.model = model


TENSORBOARD_LAYOUT = {
    "what comes of it": {
        "return": ["Multiline", ["rollout/ep_rew_mean"]],
        "goals": ["Multiline", ["rollout/goals"]],
    },
    "the memory": {
        "share of the error that a write removes": ["Multiline", ["memory/error_removed"]],
        "size of a write, and its strength": ["Multiline", ["memory/theta_change", "memory/beta"]],
        "size of what is written": ["Multiline", ["memory/key_rms", "memory/value_rms"]],
        "how much what is written varies": [
            "Multiline",
            ["memory/key_varies", "memory/value_varies"],
        ],
        "what is read": ["Multiline", ["memory/read_rms", "memory/read_varies"]],
    },
}
"""What to look at first, as charts for the tab *Custom Scalars* of TensorBoard: of
``SummaryWriter.add_custom_scalars``."""


class TensorBoardLayout(BaseCallback):
    """Lay out TensorBoard's tab *Custom Scalars*: the return, the goals where there are any, and
    what the memory does.

    Without ``tensorboard_log`` it does nothing.
    """

    def _on_training_start(self) -> None:
        for output in self.logger.output_formats:
            if isinstance(output, TensorBoardOutputFormat):
                output.writer.add_custom_scalars(TENSORBOARD_LAYOUT)

    def _on_step(self) -> bool:
        return True


class EpisodeMeans(BaseCallback):
    """Log ``rollout/<key>``, the mean of a number that the environment's ``info`` holds at the end
    of an episode.

    The model keeps the numbers, and saves them: a loaded model goes on with the mean of the
    episodes that it had played.

    Args:
        key: the name in ``info``, such as ``"goals"``; nothing is logged for environments that do
            not have it.
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

    def _on_training_start(self) -> None:
        kept = vars(self.model).setdefault(EPISODE_VALUES, {})
        if self.num_timesteps > 0 and not self._values:
            self._values.extend(kept.get(self.key, ()))
        kept[self.key] = self._values

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
    """Steps done, steps per second, time left and the current score of a training, on the standard
    error output.

    On a terminal, of 60 columns or more, it is a bar; elsewhere it prints a line every ``interval``
    seconds.

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
            self._bar = Progress(
                BarColumn(bar_width=24),
                TextColumn("{task.description}"),
                console=Console(stderr=True),
            )
            self._task = self._bar.add_task(
                self._steps(), total=self._total, completed=self.num_timesteps
            )
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
            line += (
                f"  return {np.mean([episode['r'] for episode in self.model.ep_info_buffer]):.1f}"
            )
        if self._bar is not None:
            self._bar.update(
                self._task, completed=min(self.num_timesteps, self._total), description=line
            )
        elif now - self._last_line > self.interval:
            self._last_line = now
            print(line, file=sys.stderr, flush=True)

    def _steps(self) -> str:
        return f"{short(self.num_timesteps)}/{short(self._total)}"

    def close(self) -> None:
        """Leave the terminal as it was; call it also when the training ended early."""
        if self._bar is not None:
            self._bar.stop()

"""Stable-Baselines3 callbacks for long trainings.

They show a progress bar, write checkpoints that survive a kill, and stop a training cleanly.
"""

import signal
import threading
import time
from collections import deque
from collections.abc import Iterable
from copy import deepcopy
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
from stable_baselines3.common.callbacks import BaseCallback, EvalCallback
from stable_baselines3.common.logger import TensorBoardOutputFormat

from mnm_rl.algorithms import distributed
from mnm_rl.algorithms.on_policy import RecurrentOnPolicyAlgorithm
from mnm_rl.evaluation import Masked, episode_value, vectorized
from mnm_rl.files import STOPPING, UNFINISHED, checkpoint, checkpoints, save_atomically
from mnm_rl.progress import ProgressLine

AT_BOUNDARY = "_at_boundary"
"""The attribute of a model in which :class:`AtomicCheckpoints` keeps whether its training ended
where going on would begin new episodes, so that it can go on from what was saved then, to the
bit."""

EPISODE_VALUES = "_episode_values"
"""The attribute of a model in which :class:`EpisodeMeans` keeps its numbers, by key."""


class AtomicCheckpoints(BaseCallback):
    """Keep the last checkpoints of a training, each written atomically between two updates.

    A training that resumes from a checkpoint repeats the original training exactly. A checkpoint
    does not hold the environments. Every checkpoint is therefore a boundary of the training, with
    or without an interruption. If a checkpoint is due, every random generator gets a new seed from
    the model's seed and the step, and all environments start new episodes. Resuming from the file
    does the same, and repeats the rest of the training bit for bit.

    The same happens, at no cost, after any rollout at whose end all episodes have ended. A training
    that stops there is therefore repeatable as well.

    Models without a seed, and algorithms of other libraries, continue their episodes instead.

    Files are named ``step-<steps>.zip``. Load them with the algorithm's ``load``.

    Args:
        directory: directory of the files, created if missing.
        interval: environment steps between two checkpoints. A checkpoint is due at the end of the
            rollout in which the number of steps reaches a multiple of the interval.
        keep: number of checkpoints to keep.
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
        """Whether the next rollout, if there is one, starts new episodes."""
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
        """Write a checkpoint now, between two rollouts, and delete the oldest beyond ``keep``.

        If several processes share the training, the first one writes.

        Raises:
            NotSavedError: if the checkpoint cannot be written.
        """
        if not distributed.is_first():
            return
        save_atomically(self.model, checkpoint(self.directory, self.model.num_timesteps))
        for old in checkpoints(self.directory)[: -self.keep]:
            old.unlink()

    def save_before_rollout(self) -> bool:
        """Write a checkpoint of the training as it was at the start of the current rollout.

        Use this method if, for example, an environment failed during the rollout.

        Returns:
            False if no rollout was in progress. Then there is no checkpoint, because part of an
                update may already have been applied.

        Raises:
            NotSavedError: if the checkpoint cannot be written.
        """
        if self._collecting:
            self.model.num_timesteps = self._boundary
            vars(self.model).update(self._episodes)
            self.save()
        return self._collecting


class StoppedTraining(Exception):
    """A signal ended the training after an update."""


class StopOnSignal(BaseCallback):
    """Stop the training on Ctrl-C or SIGTERM, after the update that follows the current rollout.

    The training ends with a :class:`StoppedTraining`. Another signal, a second or more after the
    first, interrupts at once with a KeyboardInterrupt.

    The callback catches signals while ``learn`` runs in the main thread, the only one that signals
    reach. After the training, and during a training in another thread, signals act as they did
    before.

    Several processes that share a training stop together, whichever process gets the signal.

    Attributes:
        stopped: whether a signal arrived.
        at_once: whether a second signal arrived.
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
        """Whether the training still runs.

        If an exception ends the training, no callback is notified.
        """
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
        """Restore the previous signal handlers.

        The end of ``learn`` calls this method.
        """
        if threading.current_thread() is threading.main_thread():
            for number, handler in self._before.items():
                if signal.getsignal(number) == self._stop and handler is not None:
                    signal.signal(number, handler)
            self._before = {}


class MaskableEvalCallback(EvalCallback):
    """Stable-Baselines3's ``EvalCallback``, with support for action masks (:mod:`mnm_rl.masks`).

    Args:
        eval_env: the environments to play in, as for :func:`mnm_rl.evaluation.evaluate_policy`.
        args: further positional arguments of ``EvalCallback``; ``kwargs`` are its keyword
            arguments.
        use_masking: None applies masks if there are any, True requires masks, and False ignores
            masks.
    """

    def __init__(
        self, eval_env: Any, *args: Any, use_masking: bool | None = None, **kwargs: Any
    ) -> None:
        super().__init__(vectorized(eval_env), *args, **kwargs)
        self.use_masking = use_masking

    def _on_step(self) -> bool:
        model = self.model
        self.model = Masked(model, self.eval_env, self.use_masking)  # type: ignore[assignment]
        try:
            return super()._on_step()
        finally:
            self.model = model


_CHARTS_OF_MEMORY = {
    "share of the error that a write removes": ["memory/error_removed"],
    "size of a write, and its strength": ["memory/theta_change", "memory/beta"],
    "size of what is written": ["memory/key_rms", "memory/value_rms"],
    "how much what is written varies": ["memory/key_varies", "memory/value_varies"],
    "what is read": ["memory/read_rms", "memory/read_varies"],
}


def tensorboard_layout(keys: Iterable[str] = ()) -> dict[str, dict[str, list[Any]]]:
    """Return the charts of the tab *Custom Scalars* of TensorBoard.

    Args:
        keys: those of :class:`EpisodeMeans` that are logged.

    Returns:
        the argument of ``SummaryWriter.add_custom_scalars``.
    """
    of_episodes = {"return": ["rollout/ep_rew_mean"]} | {key: [f"rollout/{key}"] for key in keys}
    return {
        category: {title: ["Multiline", tags] for title, tags in charts.items()}
        for category, charts in {
            "what comes of it": of_episodes,
            "the memory": _CHARTS_OF_MEMORY,
        }.items()
    }


class TensorBoardLayout(BaseCallback):
    """Lay out TensorBoard's tab *Custom Scalars*.

    The tab shows the return, the means that :class:`EpisodeMeans` logs, and the activity of the
    memory. Without ``tensorboard_log``, the callback does nothing.
    """

    def _on_training_start(self) -> None:
        self._laid_out = False

    def _on_rollout_start(self) -> None:
        if self._laid_out:
            return
        self._laid_out = True  # by now, all callbacks have started
        layout = tensorboard_layout(vars(self.model).get(EPISODE_VALUES, ()))
        for output in self.logger.output_formats:
            if isinstance(output, TensorBoardOutputFormat):
                output.writer.add_custom_scalars(layout)

    def _on_step(self) -> bool:
        return True


class EpisodeMeans(BaseCallback):
    """Log ``rollout/<key>``, the mean of a number in the ``info`` at the end of each episode.

    Episodes that report None or NaN do not count.

    The model stores and saves the numbers. A loaded model continues with the mean of its earlier
    episodes.

    Args:
        key: the key in ``info``, such as ``"goals"``. Nothing is logged if the environment does not
            have this key.
        window: number of most recent episodes in the mean.
    """

    def __init__(self, key: str, window: int = 100) -> None:
        super().__init__()
        self.key = key
        self._values: deque[float] = deque(maxlen=window)

    @property
    def mean(self) -> float | None:
        """Mean over the last episodes; None before the end of the first."""
        return float(np.mean(self._values)) if self._values else None

    def _on_training_start(self) -> None:
        kept = vars(self.model).setdefault(EPISODE_VALUES, {})
        if self.num_timesteps > 0 and not self._values:
            self._values.extend(kept.get(self.key, ()))
        kept[self.key] = self._values

    def _on_step(self) -> bool:
        for i in self.locals["dones"].nonzero()[0]:
            value = episode_value(self.locals["infos"][i].get(self.key), self.key)
            if value is not None:
                self._values.append(value)
        return True

    def _on_rollout_end(self) -> None:
        if self.mean is not None:
            self.logger.record(f"rollout/{self.key}", self.mean)


class ProgressBar(BaseCallback):
    """Show the progress of a training on the standard error output.

    The display has the number of steps, the steps per second, the time left and the current score.
    A terminal with at least 60 columns shows a bar. Any other output gets a line every
    ``interval`` seconds.

    Args:
        episode_means: the score to display. Without one, or without a value, the bar displays the
            mean return.
        interval: seconds between two lines if the output is not a terminal.
    """

    def __init__(self, episode_means: EpisodeMeans | None = None, interval: float = 30.0) -> None:
        super().__init__()
        self.episode_means = episode_means
        self.interval = interval
        self._line: ProgressLine | None = None

    def _on_training_start(self) -> None:
        total, done = self.locals["total_timesteps"], self.num_timesteps
        self._line = ProgressLine(total, "steps", done, self.interval)

    def _on_step(self) -> bool:
        return True

    def _on_rollout_end(self) -> None:
        score = ""
        if self.episode_means is not None and self.episode_means.mean is not None:
            score = f"{self.episode_means.key} {self.episode_means.mean:.2f}"
        elif self.model.ep_info_buffer:
            returns = [episode["r"] for episode in self.model.ep_info_buffer]
            score = f"return {np.mean(returns):.1f}"
        assert self._line is not None
        self._line.show(self.num_timesteps, score)

    def close(self) -> None:
        """Restore the terminal. Call this method also if the training ended early."""
        if self._line is not None:
            self._line.close()

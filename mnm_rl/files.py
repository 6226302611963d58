"""Atomic writes of files, and the checkpoints of a training.

Whatever happens during writing, a file is complete or absent.
"""

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from io import BufferedRandom
from pathlib import Path

from stable_baselines3.common.base_class import BaseAlgorithm

STOPPING = (signal.SIGINT, signal.SIGTERM)
"""The signals that end a training: Ctrl-C, and what a cluster or ``kill`` sends."""

UNFINISHED = ".unfinished"
"""What the name of a file ends in while it is written."""


class NotSavedError(OSError):
    """A file could not be written, for example because the disk is full.

    The message names the file.
    """


def save_atomically(model: BaseAlgorithm, path: Path) -> None:
    """Save a model atomically.

    At every moment, ``path`` holds either its previous content or the complete new file.

    Raises:
        NotSavedError: if the file cannot be written, for example on a full disk. ``path`` then
            stays unchanged.
    """
    with replacing(path) as file:
        model.save(file)


@contextmanager
def replacing(path: Path) -> Iterator[BufferedRandom]:
    """Open a file for writing that replaces ``path`` when it is complete.

    Signals are delayed until then. Otherwise, PyTorch may turn an exception during the writing into
    another one.

    Raises:
        NotSavedError: if the file cannot be written. ``path`` then stays unchanged.
    """
    unfinished = path.with_suffix(UNFINISHED)
    with _signals_held_back():
        try:
            with open(unfinished, "w+b") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            os.replace(unfinished, path)
        except (OSError, RuntimeError) as error:
            of_the_disk = _os_error(error)
            if of_the_disk is None:
                raise
            raise NotSavedError(
                of_the_disk.errno, of_the_disk.strerror or str(of_the_disk), str(path)
            ) from error
        finally:
            unfinished.unlink(missing_ok=True)


def _os_error(error: BaseException | None) -> OSError | None:
    """Return the OSError that caused another exception.

    PyTorch raises a RuntimeError if a file cannot be written.
    """
    while error is not None and not isinstance(error, OSError):
        error = error.__cause__ or error.__context__
    return error


@contextmanager
def _signals_held_back() -> Iterator[None]:
    """Delay Ctrl-C and SIGTERM until the end of the block."""
    # signals reach the main thread alone
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    came: list[int] = []
    before = {number: signal.signal(number, lambda n, _: came.append(n)) for number in STOPPING}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        if came:
            signal.raise_signal(came[0])


def checkpoint(directory: Path, steps: int) -> Path:
    """Return the path of the checkpoint after ``steps`` steps."""
    return directory / f"step-{steps:012d}.zip"


def checkpoints(directory: Path) -> list[Path]:
    """Return the checkpoints in a directory, oldest first."""
    return sorted(directory.glob("step-*.zip"))

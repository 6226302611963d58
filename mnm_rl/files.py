"""Files that are whole or not there, whatever happens while they are written, and the checkpoints
of a training."""

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
    """A file could not be written, for example because the disk is full; its name is in the
    message."""


def save_atomically(model: BaseAlgorithm, path: Path) -> None:
    """Save a model so that ``path`` holds, at every moment, either what it held before or the whole
    new file.

    Raises:
        NotSavedError: if the file cannot be written, for example on a full disk; ``path`` is then
            as it was.
    """
    with replacing(path) as file:
        model.save(file)


@contextmanager
def replacing(path: Path) -> Iterator[BufferedRandom]:
    """A file to write, which takes the place of ``path`` when it is whole. Signals wait until then:
    an exception amid the writing may come out of PyTorch as another one.

    Raises:
        NotSavedError: if the file cannot be written; ``path`` is then as it was.
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
    """The OSError that another exception came from, as PyTorch raises a RuntimeError where a file
    cannot be written."""
    while error is not None and not isinstance(error, OSError):
        error = error.__cause__ or error.__context__
    return error


@contextmanager
def _signals_held_back() -> Iterator[None]:
    """Let Ctrl-C and SIGTERM wait until the end of the block."""
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
    """The name of the checkpoint after so many steps."""
    return directory / f"step-{steps:012d}.zip"


def checkpoints(directory: Path) -> list[Path]:
    """The checkpoints in a directory, oldest first."""
    return sorted(directory.glob("step-*.zip"))

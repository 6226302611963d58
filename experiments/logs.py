"""The logs of a run, ``progress.csv`` and TensorBoard's event files; a resumed run goes on with
them as if it had never stopped."""

import csv
import os
import socket
import struct
import time
from collections.abc import Iterable, Iterator, Sequence
from io import StringIO
from pathlib import Path
from typing import Any

from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
from stable_baselines3.common.logger import KVWriter
from tensorboard.compat.proto.event_pb2 import Event  # type: ignore[import-untyped]
from tensorboard.compat.proto.summary_pb2 import Summary  # type: ignore[import-untyped]
from tensorboard.summary.writer.record_writer import RecordWriter  # type: ignore[import-untyped]
from torch.utils.tensorboard.summary import custom_scalars

from envs import RETURN, Metric
from mnm_rl.callbacks import tensorboard_layout
from mnm_rl.files import NotSavedError, replacing

STEPS = "time/total_timesteps"
"""The column that rows are ordered by."""

OF_EVERY_TRAINING = {"return": "rollout/ep_rew_mean", "length": "rollout/ep_len_mean"}
"""The columns of the metrics that Stable-Baselines3 logs itself, for every environment."""


def column_of(metric: Metric) -> str:
    """The column with the running mean of a metric."""
    return OF_EVERY_TRAINING.get(metric.name, f"rollout/{metric.name}")


def first_logged(metrics: Iterable[Metric], runs: Sequence[Sequence[dict[str, float]]]) -> Metric:
    """The first of some metrics, or else the return, with a value in the rows of every run."""
    return next(
        (m for m in metrics if all(any(column_of(m) in row for row in rows) for rows in runs)),
        RETURN,
    )


class ProgressTable(KVWriter):
    """``progress.csv``: a column for each quantity, a row for each rollout. New columns go to the
    right.

    Args:
        path: the file.
        up_to: environment steps up to which the rows that are there are kept, as they are written.
    """

    def __init__(self, path: Path, up_to: int) -> None:
        self.path = path
        self._columns: list[str] = []
        self._write_anew([row for row in read_rows(path) if float(row[STEPS]) <= up_to])

    def write(
        self, key_values: dict[str, Any], key_excluded: dict[str, tuple[str, ...]], step: int = 0
    ) -> None:
        """Add a row."""
        row = {
            key: str(value)
            for key, value in key_values.items()
            if "csv" not in (key_excluded.get(key) or ())
        }
        if row.keys() - set(self._columns):
            self._write_anew([*read_rows(self.path), row])
        else:
            self._append(_line(row.get(column, "") for column in self._columns))

    def _append(self, line: str) -> None:
        try:
            with open(self.path, "a", newline="") as file:
                file.write(line)
        except OSError as error:
            raise NotSavedError(error.errno, error.strerror, str(self.path)) from error

    def _write_anew(self, rows: Sequence[dict[str, str]]) -> None:
        for row in rows:
            self._columns += [column for column in row if column not in self._columns]
        lines = (
            [
                _line(self._columns),
                *(_line(row.get(column, "") for column in self._columns) for row in rows),
            ]
            if rows
            else []
        )
        with replacing(self.path) as file:
            file.write("".join(lines).encode())

    def close(self) -> None:
        """Nothing is left open."""


class EventFile(KVWriter):
    """A file of TensorBoard's events, beside those that are there, which are cut after a step.

    TensorBoard's own writer has a thread of its own, which prints its traceback when the disk is
    full.

    Args:
        directory: where the files are.
        up_to: environment steps up to which their events are kept.
        keys: those of :class:`mnm_rl.callbacks.EpisodeMeans`, for the layout of the charts.
    """

    def __init__(self, directory: Path, up_to: int, keys: Iterable[str] = ()) -> None:
        cut_events(directory, up_to)
        first = not any(directory.glob("events.out.tfevents.*"))
        self.path = (
            directory / f"events.out.tfevents.{time.time_ns()}.{socket.gethostname()}.{os.getpid()}"
        )
        self._add(Event(wall_time=time.time(), file_version="brain.Event:2"))
        if first:
            layout = custom_scalars(tensorboard_layout(keys))  # type: ignore[no-untyped-call]
            self._add(Event(wall_time=time.time(), summary=layout))

    def write(
        self, key_values: dict[str, Any], key_excluded: dict[str, tuple[str, ...]], step: int = 0
    ) -> None:
        """Add the points of a step."""
        values = [
            Summary.Value(tag=key, simple_value=float(value))
            for key, value in sorted(key_values.items())
            if "tensorboard" not in (key_excluded.get(key) or ())
        ]
        self._add(Event(wall_time=time.time(), step=step, summary=Summary(value=values)))

    def _add(self, event: Any) -> None:
        try:
            with open(self.path, "ab") as file:
                RecordWriter(file).write(event.SerializeToString())
        except OSError as error:
            raise NotSavedError(error.errno, error.strerror, str(self.path)) from error

    def close(self) -> None:
        """Nothing is left open."""


def _line(cells: Iterator[str] | Sequence[str]) -> str:
    text = StringIO()
    csv.writer(text, lineterminator="\n").writerow(cells)
    return text.getvalue()


def read_rows(path: Path) -> list[dict[str, str]]:
    """The rows of a ``progress.csv``, as they are written, none where there is no such file;
    without empty cells, and without rows that a crash has garbled."""
    if not path.exists():
        return []
    lines = path.read_text(errors="replace").replace("\0", "").splitlines()
    columns = _cells(lines[0]) if lines else []
    rows: list[dict[str, str]] = []
    for line in lines[1:]:
        row = {column: cell for column, cell in zip(columns, _cells(line), strict=False) if cell}
        try:
            numbers = {column: float(cell) for column, cell in row.items()}
        except ValueError:
            continue
        if (float(rows[-1][STEPS]) if rows else 0) < numbers.get(STEPS, 0):
            rows.append(row)
    return rows


def _cells(line: str) -> list[str]:
    try:
        return next(csv.reader([line]), [])
    except csv.Error:  # a cell that is longer than any number
        return []


def cut_events(directory: Path, up_to: int) -> None:
    """Cut TensorBoard's event files after the last event of a step, so that no point is there twice
    when training goes on from it.

    Raises:
        NotSavedError: if a file cannot be changed.
    """
    for path in directory.glob("events.out.tfevents.*"):
        try:
            os.truncate(path, _bytes_of_events(path, up_to))
        except OSError as error:
            raise NotSavedError(error.errno, error.strerror, str(path)) from error


def _bytes_of_events(path: Path, up_to: int) -> int:
    """Where the first event after a step begins, or what a crash left of the last one. A record is
    the length of its event in 8 bytes, their checksum in 4, the event, and its checksum in 4."""
    with open(path, "rb") as file:
        while True:
            start = file.tell()
            head = file.read(12)
            if len(head) < 12:
                return start
            (length,) = struct.unpack("<Q", head[:8])
            if length > 2**30 or len(record := file.read(length + 4)) < length + 4:
                return start
            try:
                if Event.FromString(record[:length]).step > up_to:
                    return start
            except DecodeError:
                return start

"""What ``train.py`` and ``eval.py`` share on the command line: one-line errors, exit codes, numbers as people write them."""

import contextlib
import io
import json
import logging
import math
import os
import re
import signal
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn, TypeVar, cast

import tyro
from tyro.constructors import ConstructorRegistry, PrimitiveConstructorSpec, PrimitiveTypeInfo

from mnm_rl import TrainingDivergedError
from mnm_rl.algorithms.distributed import LostProcessError

OptionsT = TypeVar("OptionsT")


class UsageError(Exception):
    """The user asked for something that cannot be; the message says what would be right. Exit code 2."""


class RunError(Exception):
    """Something failed while running; the message says what, and what is left. Exit code 1."""


class InterruptedRun(Exception):
    """The user stopped the run; the message says how to go on. Exit code 130."""


_TYPES = ConstructorRegistry()
"""What tyro has to be taught about types."""


@_TYPES.primitive_rule
def _whole_number(type_info: PrimitiveTypeInfo) -> PrimitiveConstructorSpec[int] | None:
    """Whole numbers as people write them: ``1000000``, ``1_000_000`` or ``1e6``."""
    if type_info.type is not int:
        return None
    return PrimitiveConstructorSpec(
        nargs=1,
        metavar="N",
        instance_from_str=lambda args: _count(args[0]),
        is_instance=lambda instance: isinstance(instance, int),
        str_from_instance=lambda instance: [f"{instance:_}"],
    )


def _count(text: str) -> int:
    number = float(text)  # takes 1e6 and 1_000_000
    if not number.is_integer() or abs(number) >= 2**53:
        raise ValueError(f"{text} is not a whole number")
    return int(number)


def parse(
    options: type[OptionsT], args: Sequence[str], prog: str, description: str = "", default: OptionsT | None = None
) -> OptionsT:
    """Parse a command line into a dataclass, its whole numbers written as in ``1e6`` or ``1_000_000``.

    Raises:
        UsageError: with tyro's explanation on one line.
        SystemExit: after ``--help``.
    """
    explanation = io.StringIO()
    try:
        with contextlib.redirect_stderr(explanation):
            return cast(
                OptionsT, tyro.cli(options, args=args, prog=prog, description=description, default=default, registry=_TYPES)
            )
    except ValueError as error:  # from the checks of a dataclass
        raise UsageError(str(error)) from None
    except SystemExit as exit_:
        if exit_.code == 0:
            raise
        raise UsageError(f"{_message(explanation.getvalue())} (all options: {prog} --help)") from None


def _message(box: str) -> str:
    """The message in one of tyro's boxes, on one line."""
    lines = [re.sub(r"^[│|╭╰+]|[│|╮╯+]$", "", line.strip()).strip() for line in box.splitlines()]
    texts = [line for line in lines[1:] if line.strip(" ─-")]  # the first line is the title; a line may begin with a minus sign
    sentences = [line for line in texts if not line.startswith("For full helptext")]
    return " ".join(sentences).removeprefix("Error parsing hyperparameters: ")


def run_main(main: Callable[[Sequence[str]], None], log: Callable[[], Path | None] = lambda: None) -> NoReturn:
    """Run a command and exit: 0 done, 1 failed while running, 2 wrong usage, 130 interrupted.

    Errors are one line on the standard error output. An error that nobody foresaw, such as one in the user's environment,
    leaves its traceback in ``error.log`` of the directory that ``log`` names.
    """
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _interrupt)
    logging.basicConfig(format="%(message)s")  # on the standard error output
    logging.getLogger("mnm_rl").setLevel(logging.INFO)  # that kernels are compiled, that steps are run again
    try:
        main(sys.argv[1:])
        sys.exit(0)
    except UsageError as error:
        _exit(2, str(error))
    except (RunError, TrainingDivergedError, LostProcessError) as error:
        _exit(1, "; ".join([str(error), *getattr(error, "__notes__", [])]))
    except (InterruptedRun, KeyboardInterrupt) as error:
        _exit(130, str(error) or "interrupted")
    except Exception as error:
        foreseen = not hasattr(error, "__notes__")  # else it came out of an environment or a training
        if isinstance(error, BrokenPipeError) and foreseen:  # the reader of a pipe went away, as `head` does
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            sys.exit(1)
        if isinstance(error, OSError) and error.filename and foreseen:
            _exit(1, f"{error.strerror or error}: {error.filename}")
        message = f"{type(error).__name__}: {first_line(error)}"
        if (directory := log()) is not None:
            with contextlib.suppress(OSError):
                (directory / "error.log").write_text(traceback.format_exc())
                message += f" (the traceback is in {directory / 'error.log'})"
        _exit(1, "; ".join([message, *getattr(error, "__notes__", [])]))


_interrupted = -math.inf
"""When the last signal came."""


def _interrupt(number: int, frame: FrameType | None) -> None:
    """Raise KeyboardInterrupt, but once for signals that come together: the next would end the handling of the first."""
    global _interrupted
    before, _interrupted = _interrupted, time.monotonic()
    if _interrupted - before > 1:
        raise KeyboardInterrupt


def first_line(error: BaseException) -> str:
    """The first line of an error's message, or the error's name where it has none."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def _exit(code: int, message: str) -> NoReturn:
    print(f"{'stopped' if code == 130 else 'error'}: {message}", file=sys.stderr)
    sys.exit(code)


def check_range(low: int, high: int, **options: int | None) -> None:
    """Check numbers of the command line; None is an option that was left out.

    Raises:
        UsageError: if one is out of range.
    """
    for name, value in options.items():
        flag = f"--{name.replace('_', '-')}"
        if value is not None and value < low:
            raise UsageError(f"{flag} must be at least {low}, got {value}")
        if value is not None and value > high:
            raise UsageError(f"{flag} must be at most {high:,}, got {value:,}")


def key_values(pairs: Sequence[str], flag: str = "--env-kwargs", example: str = "size=13") -> dict[str, Any]:
    """``name=value`` pairs of the command line as a dictionary: numbers, true, false, null and lists, or else text.

    Raises:
        UsageError: if a pair has no ``=``.
    """
    result: dict[str, Any] = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals or not key:
            raise UsageError(f"{flag} takes name=value pairs such as {example}, got {pair!r}")
        try:
            result[key] = json.loads({"True": "true", "False": "false", "None": "null"}.get(value, value))
        except ValueError:
            result[key] = value
    return result

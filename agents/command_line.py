"""What ``train.py`` and ``eval.py`` share on the command line: one-line errors, exit codes, numbers as people write them."""

import contextlib
import io
import json
import os
import re
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any, NoReturn, TypeVar

import tyro
from tyro.constructors import PrimitiveConstructorSpec

from mnm_rl import TrainingDivergedError

OptionsT = TypeVar("OptionsT")


class UsageError(Exception):
    """The user asked for something that cannot be; the message says what would be right. Exit code 2."""


class RunError(Exception):
    """Something failed while running; the message says what, and what is left. Exit code 1."""


class InterruptedRun(Exception):
    """The user stopped the run; the message says how to go on. Exit code 130."""


def _count(text: str) -> int:
    number = float(text)  # takes 1e6 and 1_000_000
    if number != int(number):
        raise ValueError(f"{text} is not a whole number")
    return int(number)


Count = Annotated[
    int,
    PrimitiveConstructorSpec(
        nargs=1,
        metavar="N",
        instance_from_str=lambda args: _count(args[0]),
        is_instance=lambda instance: isinstance(instance, int),
        str_from_instance=lambda instance: [f"{instance:_}"],
    ),
]
"""A whole number on the command line: ``1000000``, ``1_000_000`` or ``1e6``."""


def parse(options: type[OptionsT], args: Sequence[str], prog: str, description: str = "") -> OptionsT:
    """Parse a command line into a dataclass.

    Raises:
        UsageError: with tyro's explanation on one line.
        SystemExit: after ``--help``.
    """
    explanation = io.StringIO()
    try:
        with contextlib.redirect_stderr(explanation):
            return tyro.cli(options, args=args, prog=prog, description=description)
    except SystemExit as exit_:
        if exit_.code == 0:
            raise
        lines = (re.sub(r"^[│╭╰].?|[│╮╯]$", "", line).strip(" ─") for line in explanation.getvalue().splitlines())
        useful = [line for line in lines if line and not line.startswith("For full helptext")]
        raise UsageError(f"{' '.join(useful)} (all options: {prog} --help)") from None


def run_main(main: Callable[[Sequence[str]], None], log: Callable[[], Path | None] = lambda: None) -> NoReturn:
    """Run a command and exit: 0 done, 1 failed while running, 2 wrong usage, 130 interrupted.

    Errors are one line on the standard error output. An error that nobody foresaw, such as one in the user's environment,
    leaves its traceback in ``error.log`` of the directory that ``log`` names.
    """
    try:
        main(sys.argv[1:])
        sys.exit(0)
    except UsageError as error:
        _exit(2, str(error))
    except (RunError, TrainingDivergedError) as error:
        _exit(1, str(error))
    except (InterruptedRun, KeyboardInterrupt) as error:
        _exit(130, str(error) or "interrupted")
    except BrokenPipeError:  # the reader of a pipe went away, as `head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except OSError as error:
        _exit(1, f"{error.strerror or error}{f': {error.filename}' if error.filename else ''}")
    except Exception as error:
        message = f"{type(error).__name__}: {first_line(error)}"
        if (directory := log()) is not None:
            with contextlib.suppress(OSError):
                (directory / "error.log").write_text(traceback.format_exc())
                message += f" (the traceback is in {directory / 'error.log'})"
        _exit(1, message)


def first_line(error: BaseException) -> str:
    """The first line of an error's message, or the error's name where it has none."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def _exit(code: int, message: str) -> NoReturn:
    print(f"{'stopped' if code == 130 else 'error'}: {message}", file=sys.stderr)
    sys.exit(code)


def at_least(minimum: int, **options: int | None) -> None:
    """Check numbers of the command line.

    Raises:
        UsageError: if one is below the minimum.
    """
    for name, value in options.items():
        if value is not None and value < minimum:
            raise UsageError(f"--{name.replace('_', '-')} must be at least {minimum}, got {value}")


def key_values(pairs: Sequence[str]) -> dict[str, Any]:
    """``name=value`` pairs of the command line as a dictionary: numbers, true, false, null and lists, or else text.

    Raises:
        UsageError: if a pair has no ``=``.
    """
    result: dict[str, Any] = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals or not key:
            raise UsageError(f"--env-kwargs takes name=value pairs such as size=13, got {pair!r}")
        try:
            result[key] = json.loads({"True": "true", "False": "false", "None": "null"}.get(value, value))
        except ValueError:
            result[key] = value
    return result

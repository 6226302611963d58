"""What the commands share: one-line errors, exit codes, numbers as people write them.

Nothing here imports PyTorch, which takes seconds: ``--help`` and wrong usage are answered without
it.
"""

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
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import FrameType, NoneType, UnionType
from typing import Any, NoReturn, TypeVar, Union, cast, get_args, get_origin

import tyro
from tyro.constructors import (
    ConstructorRegistry,
    PrimitiveConstructorSpec,
    PrimitiveTypeInfo,
    UnsupportedTypeAnnotationError,
)

OptionsT = TypeVar("OptionsT")

MAX_SEED = 2**32 - 1
"""The largest seed that NumPy takes."""

FINAL_EPISODES, FINAL_SEED = 512, 10_000
"""What a trained model plays to be judged: how many episodes, and their seed."""

INSTALLED = "." in (__package__ or "")
"""Whether this is the wheel's copy, which has commands of its own (see ``mnm_rl_zoo``)."""


def calling(program: str, launcher: str = "python") -> list[str]:
    """How ``train``, ``eval`` or ``experiments`` is called here: by a launcher, or by the name that
    it is installed under."""
    if INSTALLED and launcher == "python":
        return [f"mnm-{program}"]
    if INSTALLED:
        return [*launcher.split(), "-m", f"mnm_rl_zoo.{program}"]
    return [
        *launcher.split(),
        *(["-m", program] if program == "experiments" else [f"{program}.py"]),
    ]


def flag(name: str) -> str:
    """The flag of a field."""
    return f"--{name.replace('_', '-')}"


def option(name: str, value: Any) -> list[str]:
    """An option as it stands on a command line."""
    if isinstance(value, bool):
        return [flag(name if value else f"no_{name}")]
    return [flag(name), str(value)]


class UsageError(Exception):
    """The user asked for something that cannot be; the message says what would be right. Exit code
    2."""


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
        str_from_instance=lambda instance: [f"{instance:,}"],
    )


@_TYPES.primitive_rule
def _name_value_pairs(type_info: PrimitiveTypeInfo) -> PrimitiveConstructorSpec[Any] | None:
    """Arguments by name, as in ``size=13 layout=perfect``."""
    if type_info.type != dict[str, Any]:
        return None
    return PrimitiveConstructorSpec(
        nargs="*",
        metavar="[NAME=VALUE ...]",
        instance_from_str=key_values,
        is_instance=lambda instance: isinstance(instance, dict),
        str_from_instance=lambda instance: [
            f"{key}={json.dumps(instance[key])}" for key in instance
        ],
    )


@_TYPES.primitive_rule
def _or_none(type_info: PrimitiveTypeInfo) -> PrimitiveConstructorSpec[Any] | None:
    """What may be left out is shown as what it is when given: ``PATH``, not ``{None}|PATH``."""
    kinds = get_args(type_info.type) if get_origin(type_info.type) in (Union, UnionType) else ()
    given = [kind for kind in kinds if kind is not NoneType]
    if len(given) != 1 or len(kinds) != 2:
        return None
    spec = ConstructorRegistry.get_primitive_spec(
        PrimitiveTypeInfo.make(given[0], type_info.markers)
    )
    if isinstance(spec, UnsupportedTypeAnnotationError) or spec.nargs != 1:
        return None
    return PrimitiveConstructorSpec(
        nargs=1,
        metavar=spec.metavar,
        choices=spec.choices and ("None", *spec.choices),
        instance_from_str=lambda args: None if args == ["None"] else spec.instance_from_str(args),
        is_instance=lambda instance: instance is None or spec.is_instance(instance),
        str_from_instance=lambda instance: (
            ["None"] if instance is None else spec.str_from_instance(instance)
        ),
    )


def default(text: str) -> Any:
    """Mark an option whose default is better told in words than by its value; with no words,
    nothing is told."""
    return tyro.conf.arg(help_behavior_hint=f"(default: {text})" if text else "")


def _count(text: str) -> int:
    number = float(text)  # takes 1e6 and 1_000_000
    if not number.is_integer() or abs(number) >= 2**53:
        raise ValueError(f"{text} is not a whole number")
    return int(number)


def parse(
    options: type[OptionsT],
    args: Sequence[str],
    prog: str,
    description: str = "",
    default: OptionsT | None = None,
) -> OptionsT:
    """Parse a command line into a dataclass, its whole numbers written as in ``1e6`` or
    ``1_000_000``.

    Raises:
        UsageError: with tyro's explanation on one line.
        SystemExit: after ``--help``.
    """
    explanation = io.StringIO()
    try:
        with contextlib.redirect_stderr(explanation):
            return cast(
                OptionsT,
                tyro.cli(
                    options,
                    args=args,
                    prog=prog,
                    description=description,
                    default=default,
                    registry=_TYPES,
                ),
            )
    except ValueError as error:  # of a dataclass, on one of its fields
        name, _, what = str(error).partition(" ")
        raise UsageError(f"{flag(name)} {what}") from None
    except SystemExit as exit_:
        if exit_.code == 0:
            raise
        raise UsageError(
            f"{_message(explanation.getvalue())} (all options: {prog} --help)"
        ) from None


def _message(box: str) -> str:
    """The message in one of tyro's boxes, on one line."""
    lines = [re.sub(r"^[│|╭╰+]|[│|╮╯+]$", "", line.strip()).strip() for line in box.splitlines()]
    # the first line is the title; a line may begin with a minus sign
    texts = [line for line in lines[1:] if line.strip(" ─-")]
    sentences = [line for line in texts if not line.startswith("For full helptext")]
    return re.sub(
        r"^Error parsing \w[\w.]*: (\w+)", lambda found: flag(found[1]), " ".join(sentences)
    )


@contextlib.contextmanager
def importing() -> Iterator[None]:
    """Import what takes seconds: meanwhile Ctrl-C and SIGTERM end the process, since an exception
    would come out of any module."""
    before = {
        number: signal.signal(number, lambda *_: os._exit(130))
        for number in (signal.SIGINT, signal.SIGTERM)
    }
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def run_main(
    main: Callable[[Sequence[str]], None], log: Callable[[], Path | None] = lambda: None
) -> NoReturn:
    """Run a command and exit: 0 done, 1 failed while running, 2 wrong usage, 130 interrupted.

    Errors are one line on the standard error output. An error that nobody foresaw, such as one in
    the user's environment, leaves its traceback in ``error.log`` of the directory that ``log``
    names.
    """
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _interrupt)
    # PyTorch's threads wait asleep: ten times as fast on a busy core
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    logging.basicConfig(format="%(message)s")  # on the standard error output
    # that kernels are compiled, that steps are run again
    logging.getLogger("mnm_rl").setLevel(logging.INFO)
    try:
        main(sys.argv[1:])
        sys.exit(0)
    except UsageError as error:
        _exit(2, str(error))
    except (InterruptedRun, KeyboardInterrupt) as error:
        _exit(130, str(error) or "interrupted")
    except _told_in_full() as error:
        _exit(1, "; ".join([str(error), *getattr(error, "__notes__", [])]))
    except Exception as error:
        # else it came out of an environment or a training
        foreseen = not hasattr(error, "__notes__")
        # the reader of a pipe went away, as `head` does
        if isinstance(error, BrokenPipeError) and foreseen:
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            sys.exit(1)
        if isinstance(error, OSError) and error.filename and foreseen:
            _exit(1, f"{error.strerror or error}: {error.filename}")
        message = f"{type(error).__name__}: {first_line(error)}"
        if (directory := log()) is not None:
            from experiments.run_directory import RunDirectory  # which imports PyTorch

            with contextlib.suppress(OSError):
                errors = RunDirectory(directory).errors
                errors.write_text(traceback.format_exc())
                message += f" (the traceback is in {errors})"
        _exit(1, "; ".join([message, *getattr(error, "__notes__", [])]))


def _told_in_full() -> tuple[type[Exception], ...]:
    """The errors whose messages say all; the library has none where nothing has imported it."""
    if "mnm_rl" not in sys.modules:
        return (RunError,)
    from mnm_rl import TrainingDivergedError
    from mnm_rl.algorithms.distributed import LostProcessError

    return RunError, TrainingDivergedError, LostProcessError


_interrupted = -math.inf
"""When the last signal came."""


def _interrupt(number: int, frame: FrameType | None) -> None:
    """Raise KeyboardInterrupt, but once for signals that come together: the next would end the
    handling of the first."""
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
        if value is not None and value < low:
            raise UsageError(f"{flag(name)} must be at least {low}, got {value}")
        if value is not None and value > high:
            raise UsageError(f"{flag(name)} must be at most {high:,}, got {value:,}")


def key_values(
    pairs: Sequence[str], option: str = "--env-kwargs", example: str = "size=13"
) -> dict[str, Any]:
    """``name=value`` pairs of the command line as a dictionary: numbers, true, false, null and
    lists, or else text.

    Raises:
        UsageError: if a pair has no ``=``.
    """
    result: dict[str, Any] = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals or not key:
            raise UsageError(f"{option} takes name=value pairs such as {example}, got {pair!r}")
        try:
            result[key] = json.loads(
                {"True": "true", "False": "false", "None": "null"}.get(value, value)
            )
        except ValueError:
            result[key] = value
    return result

"""Compiled kernels on disk, for the next process.

Numba's own cache ends in an error where no directory can be written to, where a file was cut, and
where the disk is full. This one goes on without: a kernel that cannot be read is compiled, and one
that cannot be written is compiled by the next process as well.
"""

import functools
import hashlib
import logging
import os
import pickle
import sys
import uuid
from collections.abc import Callable
from contextlib import suppress
from importlib.resources import files
from pathlib import Path
from typing import Any, ClassVar

import llvmlite
import numba
from numba.core.caching import NullCache
from numba.core.compiler import CompileResult
from numba.core.serialize import dumps

from mnm_rl.cores.implementations import log_once


@functools.cache
def _made_from() -> bytes:
    """A digest of what compiled kernels depend on beside their types: any kernel may call any other
    of this package. It is of contents, not of times, which a copy into an image or a fresh checkout
    would change."""
    digest = hashlib.sha256(repr((numba.__version__, llvmlite.__version__, sys.version)).encode())
    sources = [file for file in files(__package__).iterdir() if file.name.endswith((".py", ".pyc"))]
    for file in sorted(sources, key=lambda file: file.name):
        digest.update(file.read_bytes())
    if not sources:  # where they cannot be seen they may have changed
        digest.update(os.urandom(32))
    return digest.digest()


def directories() -> list[Path]:
    """Where compiled kernels are looked for, and written to: Numba's places up to the first that
    can be written to. What is in one before it was put there by another user, as when the superuser
    installs and compiles."""
    package = Path(__file__).absolute().parent
    # another installation has other kernels
    own = f"mnm_rl_{hashlib.sha256(os.fsencode(package)).hexdigest()[:16]}"
    places = [package / "__pycache__"]
    if numba.config.CACHE_DIR:
        places.insert(0, Path(numba.config.CACHE_DIR) / own)
    with suppress(RuntimeError):  # a user without a home
        places.append(Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / own)
    writable = [_is_writable(place) for place in places]
    return places[: writable.index(True) + 1] if any(writable) else places


@functools.cache
def _is_writable(directory: Path) -> bool:
    """Whether files can be made in a directory, which need not exist yet."""
    while not os.path.exists(directory) and directory != directory.parent:  # Path.exists may raise
        directory = directory.parent
    return os.path.isdir(directory) and os.access(directory, os.W_OK | os.X_OK)


class KernelCache(NullCache):
    """What a kernel's dispatcher asks for compiled code, and gives it to: a file for every kernel,
    machine and types.

    A file begins with a digest of what it was made from and of the rest of it: another digest, and
    it is as if it were not there.
    """

    written: ClassVar[Path | None] = None
    """Where the last kernel of this process went."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self._name = f"{function.__module__.rpartition('.')[2]}.{function.__qualname__}"

    def _file(self, types: Any, codegen: Any) -> str:
        key = hashlib.sha256(repr((types, codegen.magic_tuple())).encode()).hexdigest()
        return f"{self._name}.{sys.implementation.cache_tag}.{key[:16]}.kernel"

    def load_overload(self, types: Any, target_context: Any) -> Any:
        """The compiled code for these types, or None."""
        target_context.refresh()
        name = self._file(types, target_context.codegen())
        for directory in directories():
            with suppress(Exception):  # whatever is wrong with a file, there is a way without it
                content = (directory / name).read_bytes()
                if content[:32] == _digest(content[32:]):
                    return CompileResult._rebuild(target_context, *pickle.loads(content[32:]))
        return None

    def save_overload(self, types: Any, result: Any) -> None:
        """Keep compiled code."""
        content = dumps(result._reduce())
        problem: OSError | None = None
        for directory in directories():
            path = directory / self._file(types, result.codegen)
            # other processes see all of a file or none of it
            part = path.with_name(f"{path.name}.{uuid.uuid4().hex}")
            try:
                directory.mkdir(parents=True, exist_ok=True)
                part.write_bytes(_digest(content) + content)
                part.replace(path)
                KernelCache.written = directory
                return
            except OSError as error:
                problem = problem or error
                with suppress(OSError):
                    part.unlink()
        log_once(
            "compiled kernels cannot be kept, so that every process compiles them again "
            f"({problem}); "
            "NUMBA_CACHE_DIR can name a directory for them",
            logging.WARNING,
        )


def _digest(content: bytes) -> bytes:
    return hashlib.sha256(_made_from() + content).digest()

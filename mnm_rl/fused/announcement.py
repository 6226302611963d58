"""Says that kernels are being compiled: it takes so long that one would think the program hangs."""

from collections.abc import Callable

from mnm_rl.cores.implementations import log_once

_listeners: dict[Callable[[str], object], set[str]] = {}


def announce_to(tell: Callable[[str], object]) -> None:
    """Have the line told as well, whenever the kernels of another core are compiled: to ``print``, for example. It is logged in any
    case, which a user sees who has set up logging."""
    _listeners.setdefault(tell, set())


def compiling(kernels: str) -> None:
    """Announce that the kernels of this name are compiled now; once a process."""
    message = f"compiling kernels for this machine ({kernels}): a minute or so, the first time"
    log_once(message)
    for tell, told in _listeners.items():
        if message not in told:
            told.add(message)
            tell(message)

"""Says that kernels are being compiled: it takes so long that one would think the program hangs."""

from mnm_rl.cores.implementations import log_once

_aloud = False
_printed: set[str] = set()


def announce_aloud() -> None:
    """From now on print it as well: what is logged is seen by those only who have set up
    logging."""
    global _aloud
    _aloud = True


def compiling(kernels: str) -> None:
    """Announce that the kernels of this name are being compiled; once a process."""
    message = f"compiling kernels for this machine ({kernels}): a minute or so, the first time"
    log_once(message)
    if _aloud and message not in _printed:
        _printed.add(message)
        print(message, flush=True)

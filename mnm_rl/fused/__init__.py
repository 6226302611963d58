"""Fast implementations of the cores, with the same results: Numba kernels on CPUs, and a reversible scan on any device.

Importing this package makes them known to the cores; what they need is imported when they first run.
"""

from functools import partial
from importlib import import_module
from typing import Any

from mnm_rl.cores import LstmCore, MnmCore, PlasticCore
from mnm_rl.cores.implementations import Implementation, register
from mnm_rl.fused.reversible import Reversible


def _kernels(module: str) -> type[Implementation[Any]]:
    """The implementation in a module that needs Numba, which takes a second to import."""
    try:
        return import_module(f"mnm_rl.fused.{module}").Fused  # type: ignore[no-any-return]
    except (ImportError, AttributeError, RuntimeError) as error:
        raise ImportError(f"Numba cannot be used here ({error})") from error


register(MnmCore, "fused", partial(_kernels, "mnm"))
register(PlasticCore, "fused", partial(_kernels, "plastic"))
register(LstmCore, "fused", partial(_kernels, "lstm"))
register(MnmCore, "reversible", lambda: Reversible)

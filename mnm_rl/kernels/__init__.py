"""Fast implementations of the cores, with the same results: Numba kernels on CPUs, and a reversible
scan on any device.

Importing this package makes them known to the cores; what they need is imported when they first
run.
"""

import logging
from functools import cache, partial
from importlib import import_module
from typing import Any

from mnm_rl.cores import GruCore, LstmCore, MnmCore, NtmCore, PlasticCore
from mnm_rl.cores.implementations import Implementation, log_once, register
from mnm_rl.cores.reversible import Reversible


@cache
def numba_problem() -> str | None:
    """Why the kernels cannot be had on this machine, or None."""
    try:
        import numba

        if numba.config.DISABLE_JIT:
            return "Numba's compiler is switched off (NUMBA_DISABLE_JIT)"
        import_module("mnm_rl.kernels.simd").check()
    # of any kind: a version that does not fit NumPy's, a machine that LLVM does not know
    except Exception as error:
        return f"Numba cannot be used here ({type(error).__name__}: {error})"
    return None


def _kernels(module: str) -> type[Implementation[Any]]:
    """The implementation in a module that needs Numba, which takes a second to import."""
    if (problem := numba_problem()) is not None:
        log_once(
            f"{problem}: cores run in plain PyTorch, which takes several times as long",
            logging.WARNING,
        )
        raise ImportError(problem)
    return import_module(f"mnm_rl.kernels.{module}").Fused  # type: ignore[no-any-return]


register(MnmCore, "fused", partial(_kernels, "mnm"))
register(PlasticCore, "fused", partial(_kernels, "plastic"))
register(LstmCore, "fused", partial(_kernels, "lstm"))
register(GruCore, "fused", partial(_kernels, "gru"))
register(NtmCore, "fused", partial(_kernels, "ntm"))
register(MnmCore, "reversible", lambda: Reversible)

"""Compile all kernels, so that nobody has to wait for it later: for images and continuous
integration.

    python -m mnm_rl.compile

Compiled kernels are for the processor's model and for the versions of Python and Numba; where one
of them differs they are compiled again. They are kept with the package, or in ``NUMBA_CACHE_DIR``,
and found there by users who cannot write to it.
"""

import sys
import time
from collections.abc import Iterator
from typing import Any

import numpy as np

from mnm_rl.algorithms.a2c import RecurrentA2C
from mnm_rl.algorithms.ppo import RecurrentPPO
from mnm_rl.kernels import numba_problem


def policies() -> Iterator[tuple[str, dict[str, Any]]]:
    """Every policy that has kernels, with arguments such that each kernel is needed."""
    for rule, layers in {"g": 2, "p": 2, "delta": 1}.items():
        yield "MnmPolicy", {"write_rule": rule, "memory_layers": layers}
    for name in ("PlasticPolicy", "LstmPolicy", "GruPolicy", "NtmPolicy"):
        yield name, {}


def train() -> None:
    """Train an agent of each kind for a moment, and ask it for an action."""
    for algorithm in (RecurrentPPO, RecurrentA2C):
        for name, arguments in policies():
            model = algorithm(
                name,
                "CartPole-v1",
                n_steps=8,
                policy_kwargs={**arguments, "hidden_size": 8},
                device="cpu",
            )
            model.learn(8)
            model.predict(np.zeros(4, np.float32))


def main() -> int:
    """Compile what is not there yet, and say how much it was; returns the exit status."""
    if (problem := numba_problem()) is not None:
        print(f"there are no kernels to compile: {problem}", file=sys.stderr)
        return 1
    from mnm_rl.kernels import simd
    from mnm_rl.kernels.cache import KernelCache

    print("compiling kernels for this machine ...", flush=True)
    since = time.perf_counter()
    train()
    seconds = time.perf_counter() - since
    compiled = sum(sum(kernel.stats.cache_misses.values()) for kernel in simd.kernels)
    if not compiled:
        print(f"all kernels were there already ({seconds:.0f} s)")
    elif KernelCache.written is None:
        print(
            f"compiled {compiled} kernels in {seconds:.0f} s, which could not be kept",
            file=sys.stderr,
        )
        return 1
    else:
        print(f"compiled {compiled} kernels in {seconds:.0f} s, into {KernelCache.written}")
    return 0


if __name__ == "__main__":
    sys.exit(main())

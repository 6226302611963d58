"""Every core of the library, for the tests."""

from collections.abc import Callable
from functools import partial
from typing import Any

from mnm_rl import MnmCore, RecurrentCore, cores
from mnm_rl.memory import WRITE_RULES


def all_cores(input_size: int, hidden_size: int) -> dict[str, Callable[[], RecurrentCore[Any]]]:
    """Every core with its defaults, by the name of its class without "Core"; the MNM with every
    write rule, by "mnm-RULE"."""
    kinds = [
        kind
        for kind in vars(cores).values()
        if isinstance(kind, type) and issubclass(kind, RecurrentCore)
    ]
    found: dict[str, Callable[[], RecurrentCore[Any]]] = {
        kind.__name__.removesuffix("Core").lower(): partial(kind, input_size, hidden_size)
        for kind in kinds
        if kind not in (RecurrentCore, MnmCore)
    }
    for rule in WRITE_RULES:
        found[f"mnm-{rule}"] = partial(MnmCore, input_size, hidden_size, rule)  # type: ignore[arg-type]
    return found

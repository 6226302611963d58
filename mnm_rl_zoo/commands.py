"""The commands that a wheel installs: ``mnm-train``, ``mnm-eval`` and ``mnm-experiments``."""

import os
import sys
from typing import NoReturn


def train() -> NoReturn:
    """``mnm-train AGENT [options]``: what ``python train.py`` does in the repository."""
    _see_modules_here()
    from train import command

    command()


def evaluate() -> NoReturn:
    """``mnm-eval RUN [RUN ...] [options]``: what ``python eval.py`` does in the repository."""
    _see_modules_here()
    from eval import command

    command()


def experiments() -> NoReturn:
    """``mnm-experiments VERB FILE [options]``: what ``python -m experiments`` does in the
    repository."""
    _see_modules_here()
    from experiments.__main__ import command

    command()


def _see_modules_here() -> None:
    """Let ``--env module:Id`` find a module in the working directory, as it does after
    ``python``."""
    sys.path.insert(0, os.getcwd())

"""What a run is: all that is needed to make it again, as the command line and ``config.json`` say
it.

Nothing here imports PyTorch, which takes seconds: a command line is read without it.
"""

import dataclasses
import json
import shlex
from dataclasses import dataclass, field
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, ClassVar, Literal, Union, get_args, get_origin, get_type_hints

import tyro

from agents import AGENTS, Hyperparameters
from experiments.command_line import MAX_SEED, UsageError, calling, default, first_line

OF_POLICY = {"init": "pytorch", "popart": False, "core_layers": 1}
"""Arguments of the policy that earlier versions did not write down, since they left no choice."""

UNWRITTEN = OF_POLICY | {
    "algorithm": "a2c",
    "target_kl": None,
    "variant": "paper",
    "anneal_lr": False,
}
"""Hyperparameters of runs that did not write them down."""


@dataclass(frozen=True, kw_only=True)
class Run:
    """All that is needed to make a run again.

    Each field is an option of ``train.py``, an entry of ``config.json``, and a setting of the runs
    of a grid.

    Raises:
        ValueError: if a value is of another type than its field, or out of range. The message
            begins with the name of the field.
    """

    hyperparameters: tyro.conf.OmitArgPrefixes[Hyperparameters]
    """Of the agent, and of the algorithm that it is trained with."""
    env: str = "mnm/Maze-v0"
    """Gymnasium id of the environment; module:Id imports the module first."""
    env_kwargs: Annotated[dict[str, Any], default("")] = field(default_factory=dict)
    """Arguments of the environment, such as size=13 layout=perfect."""
    total_timesteps: int = 2_000_000
    """Environment steps to train for."""
    n_envs: int = 64
    """Environments at once."""
    seed: int = 0
    """Seed of the weights, the environments and the actions."""
    checkpoint_interval: int = 250_000
    """Environment steps between two checkpoints; at each, all environments begin new episodes."""

    def __post_init__(self) -> None:
        for part in vars(self.hyperparameters).values():
            _check_types(part)
        _check_types(self)
        ranges = {
            "total_timesteps": (1, 2**53),
            "n_envs": (1, 2**20),
            "seed": (0, MAX_SEED),
            "checkpoint_interval": (1, 2**53),
        }
        for name, (low, high) in ranges.items():
            value = getattr(self, name)
            if value < low:
                raise ValueError(f"{name} must be at least {low}, got {value}")
            if value > high:
                raise ValueError(f"{name} must be at most {high:,}, got {value:,}")

    @property
    def agent(self) -> str:
        """The agent's name."""
        return self.hyperparameters.core.name

    @property
    def algorithm(self) -> str:
        """What trains it: ``"ppo"`` or ``"a2c"``."""
        return self.hyperparameters.algorithm.algorithm

    @property
    def environment(self) -> str:
        """The environment and its arguments in one name, such as ``mnm/Maze-v0 size=13``."""
        return " ".join(
            [
                self.env,
                *(
                    f"{key}={str(value).replace(chr(10), '/')}"
                    for key, value in self.env_kwargs.items()
                ),
            ]
        )

    def to_json(self) -> dict[str, Any]:
        """The entries of its ``config.json``, which :meth:`from_json` reads."""
        entries = {own.name: getattr(self, own.name) for own in dataclasses.fields(Run)}
        hyperparameters = dataclasses.asdict(self.hyperparameters)
        return {"agent": self.agent} | entries | {"hyperparameters": hyperparameters}

    @classmethod
    def from_json(cls, entries: dict[str, Any]) -> "Run":
        """A run of the entries of its ``config.json``; what is left out is the default.

        Raises:
            ValueError, TypeError, KeyError, AttributeError: if an entry cannot be.
        """
        entries = dict(entries)
        agent = AGENTS[entries.pop("agent")]
        earlier = UNWRITTEN if entries.pop("versions", None) else {}
        given: dict[str, Any] = {}
        for name, value in entries.pop("hyperparameters", {}).items():
            # those of earlier versions are not nested
            given |= value if isinstance(value, dict) else {name: value}
        defaults = agent.defaults(given.get("algorithm", "ppo"))
        known = defaults.flat()
        unwritten = {name: value for name, value in earlier.items() if name in known}
        hyperparameters = defaults.changed(**unwritten | given)
        return Run(hyperparameters=hyperparameters, **entries)

    @classmethod
    def read(cls, path: Path) -> "Run":
        """Read a run from the ``config.json`` of its directory or of its published model, or from
        a file with the same entries.

        Raises:
            UsageError: if there is no such file, or it is another.
        """
        try:
            entries = json.loads(path.read_text())
            if "format" in entries and "run" not in entries:
                publish = shlex.join([*calling("experiments"), "publish", "RUN"])
                raise UsageError(
                    f"{path.parent} is an exported model, which does not say how it was trained: "
                    f"{publish} writes one of a run that does"
                )
            return cls.from_json(entries.get("run", entries))
        except OSError as error:
            raise UsageError(f"cannot read {path}: {error.strerror}") from None
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise UsageError(
                f"{path} is damaged or of another version: {first_line(error)}"
            ) from None

    @classmethod
    def load(cls, directory: Path) -> "Run":
        """Read the run of a directory.

        Raises:
            UsageError: if the directory is not there or is not a run's.
        """
        from experiments.run_directory import RunDirectory  # which imports PyTorch

        if not directory.is_dir():
            raise UsageError(f"there is no run directory {directory}")
        config = RunDirectory(directory).config
        if not config.exists():
            raise UsageError(f"{directory} is not a run directory: it has no {config.name}")
        return cls.read(config)


def differences(one: Run, other: Run) -> dict[str, tuple[Any, Any]]:
    """The options that differ between two runs, by name, with the value in each; None is one that
    a run's agent does not have."""
    first, second = (run.to_json() | run.hyperparameters.flat() for run in (one, other))
    values = {name: (first.get(name), second.get(name)) for name in first | second}
    del values["hyperparameters"]
    return {name: pair for name, pair in values.items() if pair[0] != pair[1]}


def _check_types(instance: Any) -> None:
    """Check the types of a dataclass's fields, whose values come from a file.

    Raises:
        ValueError: if a value is of another type than its field.
    """
    for name, hint in get_type_hints(type(instance)).items():
        value = getattr(instance, name)
        allowed = get_args(hint) if get_origin(hint) in (UnionType, Union) else (hint,)
        if not any(_is_of(value, kind) for kind in allowed):
            raise ValueError(f"{name} cannot be {value!r}")


def _is_of(value: Any, kind: Any) -> bool:
    if get_origin(kind) is ClassVar:
        return True
    if get_origin(kind) is Literal:
        return value in get_args(kind)
    kind = get_origin(kind) or kind
    return (
        type(value) is kind
        or (kind is float and type(value) is int)
        or (kind not in (int, bool) and isinstance(value, kind))
    )

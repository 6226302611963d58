"""A grid of runs: agents x algorithms x environments x settings x seeds, read from one TOML file;
see docs/experiments.md."""

import dataclasses
import itertools
import json
import re
import shlex
import sys
import tomllib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from agents import AGENTS, Hyperparameters
from experiments.command_line import INSTALLED, MAX_SEED, UsageError, calling, key_values, option
from experiments.configuration import Run, differences
from experiments.run_directory import RunDirectory
from mnm_rl.algorithms.on_policy import ALGORITHMS
from mnm_rl.files import replacing

TRAIN = Path(__file__).parents[2] / "train.py"


@dataclass(frozen=True, kw_only=True)
class Job:
    """One run of a grid, and the directory that it is kept in."""

    run: Run
    environment: str
    """What the grid's file calls the environment: its id and arguments."""
    setting: str
    """What the hyperparameters are called; ``default`` for the agent's own."""
    directory: Path

    @property
    def agent(self) -> str:
        return self.run.agent

    @property
    def algorithm(self) -> str:
        return self.run.algorithm

    @property
    def seed(self) -> int:
        return self.run.seed

    @property
    def label(self) -> str:
        """The agent, and the setting where it is not the default."""
        return self.agent if self.setting == "default" else f"{self.agent}, {self.setting}"

    @property
    def name(self) -> str:
        """All that tells the run from others of its grid, on one line."""
        return f"{self.label}, {self.algorithm}, {self.environment}, seed {self.seed}"

    @property
    def config(self) -> Path:
        """What ``train.py`` reads of a run that is to start."""
        return self.directory.with_suffix(".json")

    @property
    def log(self) -> Path:
        """What ``train.py`` printed."""
        return self.directory.with_suffix(".log")

    @property
    def failure(self) -> Path:
        """Where it says why the run failed; there is no such file for other runs."""
        return self.directory.with_suffix(".failed")

    @property
    def lock(self) -> Path:
        """A file that is locked while somebody works on the run."""
        return self.directory.with_suffix(".lock")

    @property
    def finished(self) -> bool:
        return RunDirectory(self.directory).finished

    @property
    def failed(self) -> bool:
        return self.failure.exists() and not self.finished

    @property
    def resumable(self) -> bool:
        """Whether there is a checkpoint to go on from."""
        return not self.finished and bool(RunDirectory(self.directory).saved())

    def write_config(self) -> None:
        """Write what ``train.py`` reads."""
        self.directory.parent.mkdir(parents=True, exist_ok=True)
        with replacing(self.config) as file:
            file.write((json.dumps(self.run.to_json(), indent=2) + "\n").encode())

    def command(self) -> list[str]:
        """The command line of the run, from its start or from its last checkpoint."""
        program = ["-m", "mnm_rl_zoo.train"] if INSTALLED else [str(TRAIN)]
        return [sys.executable, *program, *self._arguments()]

    def _arguments(self) -> list[str]:
        if self.resumable:
            interval = option("checkpoint_interval", self.run.checkpoint_interval)
            start = [self.agent, "--resume", str(self.directory), *interval]
        else:
            start = ["--config", str(self.config), "--out", str(self.directory)]
        return [*start, "--threads", "1"]

    def shell(self) -> str:
        """The command line as it can be typed."""
        return shlex.join([*calling("train"), *self._arguments()])

    def check_unchanged(self) -> None:
        """Check that what is in the directory was made with the settings of the grid's file and the
        defaults of the agent.

        Raises:
            UsageError: if one differs.
        """
        if not RunDirectory(self.directory).config.exists():
            return
        try:
            made = Run.load(self.directory)
        except UsageError as error:
            raise UsageError(f"{error}; delete {self.directory} to run it again") from None
        for name, (before, now) in differences(made, self.run).items():
            if name != "checkpoint_interval":
                raise UsageError(
                    f"{self.directory} was made with {name} {before}, and the grid says {now}: "
                    f"delete it, or give the grid's file another name"
                )


@dataclass(frozen=True, kw_only=True)
class Grid:
    """A grid of runs, as its file says it.

    Raises:
        UsageError: if a value cannot be, or a list names something twice.
    """

    name: str
    """The file's name without its ending; the runs live in ``runs/<name>``."""
    title: str
    about: str = ""
    """What the grid is to show, in a few sentences, for its report."""
    agents: Sequence[str]
    algorithms: Sequence[str] = ("ppo",)
    environments: Sequence[str]
    """Each the id and its arguments, such as ``"mnm/Maze-v0 size=13 layout=perfect"``."""
    seeds: Sequence[int]
    """Which; in the file also how many."""
    total_timesteps: int
    n_envs: int = 64
    checkpoint_interval: int = Run.checkpoint_interval
    """Steps between two checkpoints: what is lost, at most, when a machine goes away."""
    settings: dict[str, dict[str, Any]] = field(default_factory=lambda: {"default": {}})
    """Hyperparameters by the name of the setting; ``agents`` among them limits the setting to some
    of the agents."""
    tune: dict[str, Any] = field(default_factory=dict)
    """What ``python -m experiments tune`` searches, see :mod:`experiments.grids.tune`."""

    def __post_init__(self) -> None:
        if not self.settings:
            raise UsageError("settings: leave it out, or name one")
        for name in ("total_timesteps", "n_envs", "checkpoint_interval"):
            value = getattr(self, name)
            if type(value) is not int or value < 1:
                raise UsageError(f"{name} must be a whole number of at least 1, got {value!r}")
        for name in ("agents", "algorithms", "environments"):
            value = getattr(self, name)
            if (
                isinstance(value, str)
                or not value
                or not all(isinstance(entry, str) for entry in value)
            ):
                raise UsageError(f"{name} must be a list of names, got {value!r}")
            if twice := [entry for entry in value if value.count(entry) > 1]:
                raise UsageError(f"{name} has {twice[0]} twice")
        if (
            not self.seeds
            or len(set(self.seeds)) < len(self.seeds)
            or not all(0 <= seed <= MAX_SEED for seed in self.seeds)
        ):
            raise UsageError(
                "seeds must be how many, at least 1, or a list of different seeds, got "
                f"{list(self.seeds)}"
            )
        for algorithm in self.algorithms:
            if algorithm not in ALGORITHMS:
                raise UsageError(
                    f"unknown algorithm {algorithm!r}: it must be one of {', '.join(ALGORITHMS)}"
                )
        for agent in self.agents:
            if agent not in AGENTS:
                raise UsageError(f"unknown agent {agent!r}: it must be one of {', '.join(AGENTS)}")
        for setting, values in self.settings.items():
            if unknown := [agent for agent in values.get("agents", ()) if agent not in self.agents]:
                raise UsageError(
                    f"setting {setting!r} is for {unknown[0]!r}, which is not among the grid's "
                    "agents"
                )
        directories = [job.directory for job in self.jobs()]
        if twice := [directory for directory in directories if directories.count(directory) > 1]:
            raise UsageError(
                "two environments or settings have names so alike that both would be kept in "
                f"{twice[0]}"
            )

    @classmethod
    def load(cls, path: Path) -> "Grid":
        """Read a grid from its file.

        Raises:
            UsageError: if there is no such file, or something in it is wrong.
        """
        try:
            values = tomllib.loads(path.read_text())
        except FileNotFoundError:
            raise UsageError(f"there is no grid {path}") from None
        except (tomllib.TOMLDecodeError, UnicodeDecodeError, IsADirectoryError) as error:
            raise UsageError(f"{path} is not a TOML file: {error}") from None
        known = {
            f.name: f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING
            for f in dataclasses.fields(cls)
        }
        del known["name"]
        for name in values:
            if name not in known:
                raise UsageError(f"{path}: there is no {name!r}; a grid has {', '.join(known)}")
        if missing := [name for name, needed in known.items() if needed and name not in values]:
            raise UsageError(f"{path} must say {', '.join(missing)}")
        if type(values["seeds"]) is int:
            values["seeds"] = range(values["seeds"])
        for name in ("total_timesteps", "n_envs", "checkpoint_interval"):
            if isinstance(value := values.get(name), float) and value.is_integer():
                values[name] = int(value)  # 1e6 is a float in TOML
        try:
            return cls(name=path.stem, **values)
        except UsageError as error:
            raise UsageError(f"{path}: {error}") from None
        except (TypeError, ValueError, AttributeError) as error:
            raise UsageError(f"{path}: {error}") from None

    def jobs(self, runs: Path = Path("runs")) -> list[Job]:
        """All runs: every agent's first seed, then every agent's second, so that an unfinished grid
        compares like with like."""
        root = runs / self.name
        return [
            Job(
                run=Run(
                    hyperparameters=hyperparameters,
                    env=env,
                    env_kwargs=key_values(env_kwargs),
                    total_timesteps=self.total_timesteps,
                    n_envs=self.n_envs,
                    seed=seed,
                    checkpoint_interval=self.checkpoint_interval,
                ),
                environment=environment,
                setting=setting,
                directory=root
                / _slug(environment)
                / algorithm
                / agent
                / _slug(setting)
                / f"seed{seed}",
            )
            for seed, environment, algorithm in itertools.product(
                self.seeds, self.environments, self.algorithms
            )
            for env, *env_kwargs in [environment.split(" ")]
            for agent in self.agents
            for setting, hyperparameters in self._hyperparameters(agent, algorithm)
        ]

    def _hyperparameters(self, agent: str, algorithm: str) -> Iterator[tuple[str, Hyperparameters]]:
        """The hyperparameters of an agent by the name of the setting."""
        defaults = AGENTS[agent].defaults(algorithm)
        for setting, values in self.settings.items():
            if agent not in values.get("agents", [agent]):
                continue
            if "algorithm" in values:
                raise UsageError(f"setting {setting!r}: name the algorithms in algorithms")
            # TOML has no None: it is written as on the command line.
            changed: dict[str, Any] = {
                name: None if value == "None" else value
                for name, value in values.items()
                if name != "agents"
            }
            try:
                yield setting, defaults.changed(**changed)
            except ValueError as error:
                raise UsageError(f"setting {setting!r}: {error}") from None


def _slug(text: str) -> str:
    """A text as the name of a directory."""
    return re.sub(r"[^\w=.+-]+", "-", text)

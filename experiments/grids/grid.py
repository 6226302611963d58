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

from agents import AGENTS
from envs import Metric
from experiments.command_line import INSTALLED, MAX_SEED, UsageError, calling, key_values, option
from experiments.run import ALGORITHMS, UNWRITTEN, Run
from experiments.run_directory import RunDirectory

TRAIN = Path(__file__).parents[2] / "train.py"


@dataclass(frozen=True, kw_only=True)
class Job:
    """One run of a grid: what ``train.py`` is told, and the directory that the run is kept in."""

    agent: str
    algorithm: str
    environment: str
    """As :attr:`experiments.run.Run.environment` writes it: the id and its arguments, such as
    ``mnm/Maze-v0 size=13``."""
    setting: str
    """What the hyperparameters are called; ``default`` for the agent's own."""
    seed: int
    total_timesteps: int
    n_envs: int
    checkpoint_interval: int
    hyperparameters: dict[str, Any]
    """Those that differ from the agent's defaults."""
    directory: Path

    @property
    def label(self) -> str:
        """The agent, and the setting where it is not the default."""
        return self.agent if self.setting == "default" else f"{self.agent}, {self.setting}"

    @property
    def name(self) -> str:
        """All that tells the run from others of its grid, on one line."""
        return f"{self.label}, {self.algorithm}, {self.environment}, seed {self.seed}"

    @property
    def all_hyperparameters(self) -> dict[str, Any]:
        """The agent's defaults, and what differs from them."""
        return dataclasses.asdict(
            dataclasses.replace(AGENTS[self.agent].defaults(self.algorithm), **self.hyperparameters)
        )

    @property
    def metrics(self) -> tuple[Metric, ...]:
        """Those that the environment declares.

        Raises:
            UsageError: if it cannot be made.
        """
        env, *env_kwargs = self.environment.split(" ")
        run = Run(
            hyperparameters=AGENTS[self.agent](),
            env=env,
            env_kwargs=key_values(env_kwargs),
            total_timesteps=self.total_timesteps,
            n_envs=self.n_envs,
            seed=self.seed,
        )
        return run.metrics

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

    def command(self) -> list[str]:
        """The command line of the run, from its start or from its last checkpoint."""
        program = ["-m", "mnm_rl_zoo.train"] if INSTALLED else [str(TRAIN)]
        return [sys.executable, *program, *self._arguments()]

    def _arguments(self) -> list[str]:
        always = ["--threads", "1", "--checkpoint-interval", str(self.checkpoint_interval)]
        if self.resumable:
            return [self.agent, "--resume", str(self.directory), *always]
        env, *env_kwargs = self.environment.split(" ")
        return [
            *(self.agent, "--algorithm", self.algorithm, "--env", env),
            *(["--env-kwargs", *env_kwargs] if env_kwargs else []),
            *(
                "--total-timesteps",
                str(self.total_timesteps),
                "--n-envs",
                str(self.n_envs),
                "--seed",
                str(self.seed),
            ),
            *("--out", str(self.directory), *always),
            *itertools.chain.from_iterable(
                option(name, value) for name, value in self.hyperparameters.items()
            ),
        ]

    def shell(self) -> str:
        """The command line as it can be typed."""
        return shlex.join([*calling("train"), *self._arguments()])

    def check_unchanged(self) -> None:
        """Check that what is in the directory was made with the settings of the grid's file and the
        defaults of the agent.

        Raises:
            UsageError: if one differs.
        """
        wanted = self.all_hyperparameters
        try:
            config = json.loads(RunDirectory(self.directory).config.read_text())
            made = wanted | UNWRITTEN | config["hyperparameters"] | config
        except FileNotFoundError:
            return
        except (ValueError, KeyError, TypeError) as error:
            raise UsageError(
                f"{self.directory / 'config.json'} is damaged ({error}); delete {self.directory} "
                "to run it again"
            ) from None
        env, *env_kwargs = self.environment.split(" ")
        wanted |= {"env": env, "env_kwargs": key_values(env_kwargs)}
        for name in ("agent", "algorithm", "total_timesteps", "n_envs", "seed"):
            wanted[name] = getattr(self, name)
        for name, value in wanted.items():
            if made.get(name) != value:
                raise UsageError(
                    f"{self.directory} was made with {name} {made.get(name)}, and the grid says "
                    f"{value}: "
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
        for environment in self.environments:
            key_values(environment.split(" ")[1:])
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
                agent=agent,
                algorithm=algorithm,
                environment=environment,
                setting=setting,
                seed=seed,
                total_timesteps=self.total_timesteps,
                n_envs=self.n_envs,
                checkpoint_interval=self.checkpoint_interval,
                hyperparameters=hyperparameters,
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
            for agent in self.agents
            for setting, hyperparameters in self._hyperparameters(agent)
        ]

    def _hyperparameters(self, agent: str) -> Iterator[tuple[str, dict[str, Any]]]:
        """The settings of an agent by name."""
        known = {f.name for f in dataclasses.fields(AGENTS[agent])} - {"algorithm"}
        for setting, values in self.settings.items():
            if agent not in values.get("agents", [agent]):
                continue
            # TOML has no None: it is written as on the command line.
            hyperparameters: dict[str, Any] = {
                name: None if value == "None" else value
                for name, value in values.items()
                if name != "agents"
            }
            for name in hyperparameters:
                if name not in known:
                    raise UsageError(
                        f"setting {setting!r}: {agent} has no {name!r}; it has "
                        f"{', '.join(sorted(known))}"
                    )
            AGENTS[agent](**hyperparameters)
            yield setting, hyperparameters


def _slug(text: str) -> str:
    """A text as the name of a directory."""
    return re.sub(r"[^\w=.+-]+", "-", text)

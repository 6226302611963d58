"""Grids of runs, and what came of them: python -m experiments VERB FILE [options]."""

import signal

# from the first import until run_main takes over, Ctrl-C ends without a traceback
if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_DFL)

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

import tyro

from experiments.command_line import (
    UsageError,
    calling,
    check_range,
    default,
    importing,
    parse,
    run_main,
)

if TYPE_CHECKING:
    from experiments.grids.schedule import Pool

File = tyro.conf.Positional[Annotated[Path, tyro.conf.arg(metavar="FILE")]]


@dataclass(frozen=True, kw_only=True)
class Run:
    """Run a grid: what is finished stays, what was interrupted goes on."""

    file: File
    """The grid, such as experiments/maze_small.toml."""
    workers: Annotated[int | None, default("as many as there are cores")] = None
    """Runs at a time, one thread each."""
    ray: Annotated[str | None, default("")] = None
    """Run on the Ray cluster at this address; auto for the one that this machine belongs to."""
    retry: bool = False
    """Try those runs again that failed."""

    def __call__(self) -> None:
        with importing():
            from experiments.grids.display import Display
            from experiments.grids.grid import Grid
            from experiments.grids.schedule import run_jobs

        jobs = Grid.load(self.file).jobs()
        run_jobs(jobs, make_pool(self.workers, self.ray), Display(jobs), self.retry)


@dataclass(frozen=True, kw_only=True)
class List:
    """List the runs of a grid: how each stands, and the command that makes it or goes on with
    it."""

    file: File
    """The grid."""

    def __call__(self) -> None:
        with importing():
            from experiments.grids.grid import Grid

        for job in Grid.load(self.file).jobs():
            state = (
                "finished"
                if job.finished
                else "failed"
                if job.failed
                else "unfinished"
                if job.resumable
                else "to do"
            )
            if state == "to do":
                job.write_config()  # which the command reads
            print(f"{state:<10}  {job.name}\n            {job.shell()}")


@dataclass(frozen=True, kw_only=True)
class Tune:
    """Search hyperparameters over a grid, as its table [tune] says."""

    file: File
    """The grid."""
    workers: Annotated[int | None, default("as many as there are cores")] = None
    """Runs at a time, one thread each."""
    ray: Annotated[str | None, default("")] = None
    """Run on the Ray cluster at this address instead of on this machine."""
    out: Annotated[Path | None, default("docs/results/<grid>-tune.json")] = None
    """Where all trials go."""

    def __call__(self) -> None:
        with importing():
            from experiments.grids.grid import Grid
            from experiments.grids.tune import tune

        grid = Grid.load(self.file)
        out = self.out or Path("docs/results") / f"{grid.name}-tune.json"
        for study in tune(grid, make_pool(self.workers, self.ray), out):
            best = study.rows()[0]
            print(
                f"{study.name}: {best['score']} with {best['hyperparameters']} (trial "
                f"{best['trial']})"
            )
        print(f"all trials are in {out}")


@dataclass(frozen=True, kw_only=True)
class Collect:
    """Keep what is needed of the finished runs of a grid in one small file, beside what it holds
    already of runs made elsewhere."""

    file: File
    """The grid."""
    out: Annotated[Path | None, default("docs/results/<grid>.json")] = None
    """Where."""

    def __call__(self) -> None:
        with importing():
            from experiments.grids.grid import Grid
            from experiments.grids.results import Results, collect

        grid = Grid.load(self.file)
        out = self.out or Path("docs/results") / f"{grid.name}.json"
        results = collect(grid, earlier=Results.load(out) if out.exists() else None)
        out.parent.mkdir(parents=True, exist_ok=True)
        results.save(out)
        print(f"{len(results.results)} of {results.planned} runs, in {out}")


@dataclass(frozen=True, kw_only=True)
class Report:
    """Make the report of a grid: one HTML page that is opened from disk."""

    file: File
    """The grid, whose finished runs are collected first, or the file of collected results."""
    out: Path = Path("report.html")
    """The page."""
    figures: Annotated[Path | None, default("")] = None
    """Write the figures as PDF and PNG, too, into this directory."""

    def __call__(self) -> None:
        if self.out.is_dir() or not self.out.parent.is_dir():
            raise UsageError(f"--out {self.out}: name a file in a directory that there is")
        with importing():
            from experiments.analysis.page import write_figures, write_page
            from experiments.grids.grid import Grid
            from experiments.grids.results import Results, collect

        results = (
            collect(Grid.load(self.file))
            if self.file.suffix == ".toml"
            else Results.load(self.file)
        )
        write_page(results, self.out)
        print(f"the report is {self.out}")
        if self.figures is not None:
            print(
                f"{len(write_figures(results, self.figures, 'pdf', 'png'))} figures are in "
                f"{self.figures}"
            )


@dataclass(frozen=True, kw_only=True)
class Publish:
    """Write the model of a finished run as files for others: weights, a description, and a card
    with its score."""

    run: tyro.conf.Positional[Annotated[Path, tyro.conf.arg(metavar="RUN")]]
    """The run directory."""
    out: Path = Path("model")
    """The directory of the model, new or empty."""

    def __call__(self) -> None:
        with importing():
            from experiments.publish import publish

        publish(self.run, self.out)
        print(f"the model is in {self.out}")


Verb = (
    Annotated[Run, tyro.conf.subcommand("run", prefix_name=False)]
    | Annotated[List, tyro.conf.subcommand("list", prefix_name=False)]
    | Annotated[Tune, tyro.conf.subcommand("tune", prefix_name=False)]
    | Annotated[Collect, tyro.conf.subcommand("collect", prefix_name=False)]
    | Annotated[Report, tyro.conf.subcommand("report", prefix_name=False)]
    | Annotated[Publish, tyro.conf.subcommand("publish", prefix_name=False)]
)


def make_pool(workers: int | None, ray: str | None) -> "Pool":
    """Where runs are worked on: this machine, or a cluster."""
    with importing():
        from experiments.grids.cluster import RayPool
        from experiments.grids.schedule import LocalPool

    check_range(1, 4096, workers=workers)
    if ray is None:
        return LocalPool(workers or os.cpu_count() or 1)
    if workers is not None:
        raise UsageError(
            "--workers is for this machine; with --ray there are as many as the cluster has cores"
        )
    return RayPool(ray)


@dataclass(frozen=True)
class Options:
    verb: tyro.conf.OmitSubcommandPrefixes[tyro.conf.OmitArgPrefixes[Verb]]


def main(args: Sequence[str]) -> None:
    parse(Options, args, prog=" ".join(calling("experiments")), description="Grids of runs.").verb()


def command() -> NoReturn:
    """Run as a command: with exit codes, and errors in one line."""
    run_main(main)


if __name__ == "__main__":
    command()

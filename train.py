"""Train an agent: python train.py AGENT [options]. Read from top to bottom; the pieces are in
experiments/ and mnm_rl/."""

import os
import signal

# from the first import until run_main takes over, Ctrl-C and SIGTERM end without a traceback
if __name__ == "__main__":
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: os._exit(130))

import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass, fields
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Literal, NoReturn

from agents import AGENTS
from agents.agent import Algorithm
from experiments.command_line import (
    InterruptedRun,
    UsageError,
    calling,
    check_range,
    default,
    flag,
    importing,
    parse,
    run_main,
)
from experiments.configuration import Run, differences


@dataclass(frozen=True, kw_only=True)
class Options(Run):
    """A run, and where and how it is made."""

    config: Annotated[Path | None, default("")] = None
    """Make the run of this file, such as the config.json of an earlier one; options change it."""
    out: Annotated[Path | None, default("runs/<env>/<agent>/seed<S>-<date>")] = None
    """Run directory."""
    resume: Annotated[Path | None, default("")] = None
    """Go on with an unfinished run, or with a finished one for more --total-timesteps."""
    device: Literal["cpu", "cuda", "auto"] = "cpu"
    """Where the model is (small recurrent models are fastest on the CPU)."""
    threads: Annotated[int | None, default("all cores")] = None
    """CPU threads."""

    @property
    def run(self) -> Run:
        return Run(**{own.name: getattr(self, own.name) for own in fields(Run)})


directory: Path | None = None


def main(args: Sequence[str]) -> None:
    global directory
    directory = None
    options = parse_options(args)
    run = options.run
    with importing():
        import torch
        from stable_baselines3.common.logger import Logger

        from envs.metrics import metrics_of
        from experiments.analysis.report import report
        from experiments.logs import OF_EVERY_TRAINING, EventFile, ProgressTable
        from experiments.run import (
            build,
            check_memory,
            check_resumable,
            check_unchanged,
            load_to_go_on,
            make_env,
            new_directory,
            own_envs,
            reopen,
            write_config,
        )
        from experiments.run_directory import RunDirectory
        from mnm_rl import TrainingDivergedError
        from mnm_rl.algorithms import distributed
        from mnm_rl.callbacks import (
            AtomicCheckpoints,
            EpisodeMeans,
            ProgressBar,
            StopOnSignal,
            StoppedTraining,
        )
        from mnm_rl.files import NotSavedError, checkpoints, save_atomically

    if options.device == "cuda" and not torch.cuda.is_available():
        raise UsageError(
            "--device cuda: this machine has no GPU that PyTorch can use; take cpu or auto"
        )
    if options.threads is not None:
        torch.set_num_threads(options.threads)
    try:
        # torchrun: each process trains with its share of the environments, the first one writes
        distributed.join(options.device)
    except ValueError as error:
        raise UsageError(f"--device {options.device}: {error}") from None

    # What to train, and where to keep it.
    if options.resume is not None:
        check_resumable(run, options.resume)
    check_memory(run)
    env = make_env(run, own_envs(run), run.hyperparameters.algorithm.reward_scale)
    model = build(run, env, options.device)
    if options.resume is None:
        directory = distributed.from_first(lambda: new_directory(options.out, run))
        if distributed.is_first():
            write_config(run, directory)
    else:
        directory = options.resume
        configured, model = model, load_to_go_on(run, directory, env, options.device)
        check_unchanged(model, configured, directory)
        distributed.any_process(False)  # all have loaded it
        if distributed.is_first():
            reopen(run, directory, model.num_timesteps)
    if distributed.is_first():
        size = f"{sum(p.numel() for p in model.policy.parameters()):,} parameters"
        print(f"{run.agent} on {run.env}, {size}, in {directory}", file=sys.stderr)

    # Running means of what the environment reports, the score first.
    metrics = [metric.name for metric in metrics_of(env.env)]
    window = max(100, 2 * run.n_envs)
    means = {name: EpisodeMeans(name, window) for name in metrics if name not in OF_EVERY_TRAINING}

    # Logs: progress.csv and TensorBoard events, both in the run directory. Those of a resumed run
    # end at its checkpoint.
    logger = Logger(str(directory), [])
    if distributed.is_first():
        table = ProgressTable(RunDirectory(directory).progress, up_to=model.num_timesteps)
        events = EventFile(directory, up_to=model.num_timesteps, keys=means)
        logger.output_formats += [table, events]
    model.set_logger(logger)

    # Train.
    same = {
        name: getattr(options, name)
        for name in ("device", "threads")
        if getattr(options, name) not in (None, "cpu")
    }
    flags = [
        part
        for name, value in {"resume": directory, **same}.items()
        for part in (f"--{name}", str(value))
    ]
    again = (
        f"go on with: {shlex.join([*calling('train', distributed.launcher()), run.agent, *flags])}"
    )
    progress, stop = ProgressBar(means.get(metrics[0])), StopOnSignal()
    shown = [progress] if distributed.is_first() else []
    saver = AtomicCheckpoints(RunDirectory(directory).checkpoints, run.checkpoint_interval)
    try:
        model.learn(
            max(0, run.total_timesteps - model.num_timesteps),
            callback=[*means.values(), *shown, saver, stop],
            log_interval=1,
            reset_num_timesteps=options.resume is None,
        )
    except StoppedTraining:
        saver.save()
        if not distributed.is_first():
            return
        raise InterruptedRun(
            f"saved at {model.num_timesteps:,} of {run.total_timesteps:,} steps; {again}"
        ) from None
    except (TrainingDivergedError, NotSavedError):
        raise  # going on would diverge again, or find the disk as full
    except Exception as error:
        if stop.at_once:
            raise KeyboardInterrupt from error  # it came out of compiled code as another exception
        if distributed.is_first() and model.num_timesteps > 0 and saver.save_before_rollout():
            error.add_note(f"saved; {again}")
        elif isinstance(error, distributed.LostProcessError) and checkpoints(saver.directory):
            error.add_note(again)
        raise
    finally:
        progress.close()
        stop.restore()
        logger.close()
    if not distributed.is_first():
        return
    save_atomically(model, RunDirectory(directory).model)

    # Show what came of it.
    report(directory)


def parse_options(args: Sequence[str]) -> Options:
    names = ", ".join(AGENTS)
    program = " ".join(calling("train"))
    if not args or args[0] in ("-h", "--help"):
        print(f"usage: {program} AGENT [options]\n       {program} --config FILE [options]")
        print("\nagents:")
        for name, kind in AGENTS.items():
            print(f"  {name:<18} {(kind.__doc__ or '').splitlines()[0]}")
        print(f"\noptions: {program} AGENT --help")
        if not args:
            raise UsageError(f"name an agent: {names}")
        sys.exit(0)
    agent, rest = (None, args) if args[0].startswith("-") else (args[0], args[1:])
    if agent not in (None, *AGENTS):
        raise UsageError(f"unknown agent {agent!r}: it must be one of {names}")

    # What the options change: the run of a file or of a directory, or the agent's defaults.
    if (path := _given(rest, "--config")) is not None:
        run, source = Run.read(Path(path)), ["--config", path]
    elif (path := _given(rest, "--resume")) is not None:
        with importing():
            run, source = Run.load(Path(path)), ["--resume", path]
    elif agent is not None:
        algorithm = _given(rest, "--algorithm") or "ppo"
        run, source = Run(hyperparameters=AGENTS[agent].defaults(algorithm)), []
    else:
        raise UsageError(f"name an agent first, or a run with --config: {names}")
    if agent not in (None, run.agent):
        own = shlex.join([*calling("train"), run.agent, *source])
        raise UsageError(f"{path} holds a run of {run.agent}, not {agent}: {own}")

    defaults = Options(**vars(run))
    program = f"{calling('train')[-1]} {run.agent}"
    options = parse(Options, rest, program, AGENTS[run.agent].__doc__ or "", defaults)
    check_range(1, 256, threads=options.threads)
    for name in ("config", "out"):
        if options.resume is not None and getattr(options, name) is not None:
            raise UsageError(f"--resume goes on with the run in its directory: leave out --{name}")
    if options.algorithm == "a2c":
        for name in differences(run, options.run):
            if name in Algorithm.of_ppo:
                raise UsageError(
                    f"{flag(name)} is a hyperparameter of PPO: leave it out, or --algorithm a2c"
                )
    return options


def _given(args: Sequence[str], option: str) -> str | None:
    """The value of an option that decides on the defaults of the others."""
    for word, value in pairwise([*args, ""]):
        if word == option:
            return value
        if word.startswith(f"{option}="):
            return word.removeprefix(f"{option}=")
    return None


def command() -> NoReturn:
    """Run as a command: with exit codes, errors in one line, and the signals that stop a
    training."""
    run_main(main, log=lambda: directory)


if __name__ == "__main__":
    command()

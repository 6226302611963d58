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
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Generic, Literal, NoReturn, TypeVar

import tyro

from agents import AGENTS, Agent
from experiments.command_line import (
    MAX_SEED,
    InterruptedRun,
    UsageError,
    calling,
    check_range,
    default,
    importing,
    key_values,
    parse,
    run_main,
)

AgentT = TypeVar("AgentT", bound=Agent)


@dataclass(frozen=True, kw_only=True)
class Options(Generic[AgentT]):
    hyperparameters: tyro.conf.OmitArgPrefixes[AgentT]
    """Of the agent, and of the algorithm that it is trained with."""
    env: str = "mnm/Maze-v0"
    """Gymnasium id of the environment; module:Id imports the module first."""
    env_kwargs: Annotated[tuple[str, ...], default("")] = ()
    """Arguments of the environment, such as size=13 layout=perfect."""
    total_timesteps: Annotated[int | None, default("2,000,000")] = None
    """Environment steps to train for."""
    n_envs: int = 64
    """Environments at once."""
    seed: int = 0
    """Seed of the weights, the environments and the actions."""
    out: Annotated[Path | None, default("runs/<env>/<agent>/seed<S>-<date>")] = None
    """Run directory."""
    resume: Annotated[Path | None, default("")] = None
    """Go on with an unfinished run, or with a finished one for more --total-timesteps."""
    checkpoint_interval: Annotated[int | None, default("250,000")] = None
    """Environment steps between two checkpoints; at each, all environments begin new episodes."""
    device: Literal["cpu", "cuda", "auto"] = "cpu"
    """Where the model is (small recurrent models are fastest on the CPU)."""
    threads: Annotated[int | None, default("all cores")] = None
    """CPU threads."""


directory: Path | None = None


def main(args: Sequence[str]) -> None:
    global directory
    directory = None
    agent, options = parse_options(args)
    with importing():
        import torch
        from stable_baselines3.common.logger import Logger

        from envs.metrics import metrics_of
        from experiments.analysis.report import report
        from experiments.logs import OF_EVERY_TRAINING, EventFile, ProgressTable
        from experiments.run import Run, check_unchanged, load_to_go_on, new_directory, reopen
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
    if options.resume is None:
        run = Run(
            hyperparameters=options.hyperparameters,
            env=options.env,
            env_kwargs=key_values(options.env_kwargs),
            total_timesteps=options.total_timesteps or 2_000_000,
            n_envs=options.n_envs,
            seed=options.seed,
            checkpoint_interval=options.checkpoint_interval or Run.checkpoint_interval,
        )
    else:
        run = Run.load_to_resume(options.resume, agent, options.total_timesteps)
        run = replace(
            run, checkpoint_interval=options.checkpoint_interval or run.checkpoint_interval
        )
    run.check_memory()
    env = run.make_env(run.own_envs, run.hyperparameters.reward_scale)
    model = run.build(env, options.device)
    if options.resume is None:
        directory = distributed.from_first(lambda: new_directory(options.out, run))
        if distributed.is_first():
            run.save(directory)
    else:
        directory = options.resume
        configured, model = model, load_to_go_on(run, directory, env, options.device)
        check_unchanged(model, configured, directory)
        distributed.any_process(False)  # all have loaded it
        if distributed.is_first() and (options.checkpoint_interval or options.total_timesteps):
            reopen(run, directory, model.num_timesteps)
    if distributed.is_first():
        size = f"{sum(p.numel() for p in model.policy.parameters()):,} parameters"
        print(f"{agent} on {run.env}, {size}, in {directory}", file=sys.stderr)

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
    again = f"go on with: {shlex.join([*calling('train', distributed.launcher()), agent, *flags])}"
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


def parse_options(args: Sequence[str]) -> tuple[str, Options[Agent]]:
    names = ", ".join(AGENTS)
    program = " ".join(calling("train"))
    if not args or args[0] in ("-h", "--help"):
        print(f"usage: {program} AGENT [options]\n\nagents:")
        for name, kind in AGENTS.items():
            print(f"  {name:<18} {(kind.__doc__ or '').splitlines()[0]}")
        print(f"\noptions: {program} AGENT --help")
        if not args:
            raise UsageError(f"name an agent: {names}")
        sys.exit(0)
    agent = args[0]
    if agent not in AGENTS:
        raise UsageError(f"unknown agent {agent!r}: it must be one of {names}")
    of_agent: type[Options[Agent]] = Options[AGENTS[agent]]  # type: ignore[valid-type]
    defaults = of_agent(hyperparameters=AGENTS[agent].defaults(_algorithm(args)))
    options = parse(
        of_agent, args[1:], f"{calling('train')[-1]} {agent}", AGENTS[agent].__doc__ or "", defaults
    )
    check_range(
        1,
        2**53,
        total_timesteps=options.total_timesteps,
        checkpoint_interval=options.checkpoint_interval,
    )
    check_range(1, 2**20, n_envs=options.n_envs)
    check_range(1, 256, threads=options.threads)
    check_range(0, MAX_SEED, seed=options.seed)
    if options.resume is not None:
        changed = {"hyperparameters", "env", "env_kwargs", "n_envs", "seed", "out"}
        unchanged = Options(hyperparameters=AGENTS[agent]())
        if given := sorted(
            name for name in changed if getattr(options, name) != getattr(unchanged, name)
        ):
            raise UsageError(
                "--resume goes on with the settings of the run: leave out the flags for "
                f"{', '.join(given)}"
            )
    if options.hyperparameters.algorithm == "a2c":
        for name in Agent.of_ppo:
            if getattr(options.hyperparameters, name) != getattr(defaults.hyperparameters, name):
                raise UsageError(
                    f"--{name.replace('_', '-')} is a hyperparameter of PPO: leave it out, or "
                    "--algorithm a2c"
                )
    return agent, options


def _algorithm(args: Sequence[str]) -> str:
    """The algorithm that the command line names, which decides on the defaults of the other
    options; PPO if it names none."""
    for flag, value in pairwise([*args, ""]):
        if flag == "--algorithm":
            return value
        if flag.startswith("--algorithm="):
            return flag.removeprefix("--algorithm=")
    return "ppo"


def command() -> NoReturn:
    """Run as a command: with exit codes, errors in one line, and the signals that stop a
    training."""
    run_main(main, log=lambda: directory)


if __name__ == "__main__":
    command()

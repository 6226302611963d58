"""What a training run needs: its environments, its model, and the directory that it is kept in."""

import json
import os
import platform
import shlex
import sys
import time
import zipfile
import zlib
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any, cast

import gymnasium as gym
import numpy as np
import stable_baselines3
import torch
from gymnasium.vector import AutoresetMode
from gymnasium.wrappers.vector import RecordEpisodeStatistics, TransformReward
from stable_baselines3.common.utils import LinearSchedule

from envs import Metric  # which registers the environments
from envs.metrics import metrics_of
from experiments.command_line import RunError, UsageError, first_line
from experiments.configuration import OF_POLICY, Run, differences
from experiments.logs import read_rows
from experiments.run_directory import RunDirectory
from mnm_rl import GymnasiumVecEnv, OtherSpacesError
from mnm_rl.algorithms import distributed
from mnm_rl.algorithms.checks import flattened
from mnm_rl.algorithms.on_policy import ALGORITHMS, RecurrentOnPolicyAlgorithm
from mnm_rl.algorithms.pretrained import without_numbers
from mnm_rl.callbacks import AT_BOUNDARY
from mnm_rl.files import checkpoints, replacing
from mnm_rl.trained import find_model, trained_models

CGROUPS = (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"))
"""Where Linux says how much memory a container may use, in versions 2 and 1 of its control
groups."""


def own_envs(run: Run) -> int:
    """How many of the environments this process has, where several share the training.

    Raises:
        UsageError: if the shares would not be equal.
    """
    return _share(run.n_envs, "the environments")


def make_env(run: Run, n_envs: int, reward_scale: float = 1.0) -> GymnasiumVecEnv:
    """The environments, ``n_envs`` at once; returns in ``info["episode"]`` are before scaling.

    Raises:
        UsageError: if there is no such environment, it does not take the arguments, or it
            declares its metrics wrongly.
    """
    try:
        env = gym.make_vec(run.env, num_envs=n_envs, **run.env_kwargs)
        if env.metadata.get("autoreset_mode") is not AutoresetMode.SAME_STEP:
            env.close()
            env = gym.make_vec(
                run.env,
                num_envs=n_envs,
                vectorization_mode="sync",
                vector_kwargs={"autoreset_mode": AutoresetMode.SAME_STEP},
                wrappers=[_CheckedSteps, flattened],
                **run.env_kwargs,
            )
        metrics_of(env)  # refuses what is no declaration
        if reward_scale != 1:
            env = TransformReward(
                RecordEpisodeStatistics(env), lambda reward: reward * reward_scale
            )
        return GymnasiumVecEnv(env)
    except (Exception, SystemExit) as error:
        advice = (
            f"; {how_to_register(run.env)}" if isinstance(error, gym.error.UnregisteredEnv) else ""
        )
        raise UsageError(
            f"cannot make the environment {run.environment}: {first_line(error)}{advice}"
        ) from error


def metrics_of_run(run: Run) -> tuple[Metric, ...]:
    """Those that the environment declares.

    Raises:
        UsageError: as for :func:`make_env`.
    """
    env = make_env(run, 1)
    env.close()
    return metrics_of(env.env)


def build(run: Run, env: GymnasiumVecEnv, device: str) -> RecurrentOnPolicyAlgorithm:
    """A new model for the run.

    Raises:
        UsageError: if the environment's spaces or the hyperparameters cannot be used.
    """
    algorithm, arguments, policy_kwargs = _arguments(
        run, env, env.num_envs * distributed.world_size()
    )
    arguments |= {"seed": run.seed, "device": device}
    window = max(100, 2 * env.num_envs)
    try:
        return algorithm(
            run.hyperparameters.core.policy,
            env,
            policy_kwargs=policy_kwargs,
            stats_window_size=window,
            **arguments,
        )
    except (ValueError, TypeError, AssertionError, RuntimeError, MemoryError) as error:
        raise UsageError(
            f"{run.agent} cannot be trained on {run.env}: {first_line(error)}"
        ) from error


def _arguments(
    run: Run, env: GymnasiumVecEnv, n_envs: int
) -> tuple[type[RecurrentOnPolicyAlgorithm], dict[str, Any], dict[str, Any]]:
    """The algorithm, its arguments that are hyperparameters, and those of the policy."""
    algorithm, policy, core = vars(run.hyperparameters).values()
    arguments, policy_kwargs = asdict(algorithm), asdict(policy) | core.arguments()
    del arguments["algorithm"], arguments["reward_scale"]  # the latter is the environment's
    if arguments.pop("anneal_lr"):
        arguments["learning_rate"] = LinearSchedule(arguments["learning_rate"], 0.0, 1.0)
    arguments["n_steps"] = arguments["n_steps"] or getattr(env.env.unwrapped, "horizon", 100)
    policy_kwargs["optimizer_class"] = torch.optim.Adam
    policy_kwargs["optimizer_kwargs"] = {"eps": policy_kwargs.pop("adam_eps")}
    if run.algorithm == "ppo":
        of_minibatch = -(-n_envs // min(arguments.pop("n_minibatches"), n_envs))
        _share(of_minibatch, "the environments of a minibatch")
        arguments["batch_size"] = arguments["n_steps"] * of_minibatch
    else:
        for name in algorithm.of_ppo:
            del arguments[name]
    return ALGORITHMS[run.algorithm], arguments, policy_kwargs


def check_memory(run: Run) -> None:
    """Check that what the run keeps at least is not more than the machine's memory.

    These are the rollout, the recurrent state before and after it, and four numbers for each
    parameter: itself, its gradient and Adam's two moments. What the policy needs of each is
    found without memory for it, from the spaces of one environment.

    Raises:
        UsageError: if it is more, or the environment cannot be made.
    """
    n_envs = own_envs(run)
    env = make_env(run, 1)
    algorithm, arguments, policy_kwargs = _arguments(run, env, run.n_envs)
    policy_kwargs |= {"optimizer_class": torch.optim.SGD, "optimizer_kwargs": {}}
    try:
        with without_numbers():
            policy_class: Any = algorithm.policy_aliases[run.hyperparameters.core.policy]
            policy = policy_class(
                env.observation_space, env.action_space, lambda _: 0.0, **policy_kwargs
            )
            state = sum(part.numel() for part in policy.initial_state(1))
        parameters = sum(parameter.numel() for parameter in policy.parameters())
    except Exception:
        return  # build says what is wrong with the spaces or the hyperparameters
    finally:
        env.close()
    step = gym.spaces.flatdim(env.observation_space) + gym.spaces.flatdim(env.action_space)
    needed = 4 * (arguments["n_steps"] * n_envs * step + 2 * n_envs * state + 4 * parameters)
    if needed > (there := _memory()):
        raise UsageError(
            f"{run.agent} would need at least {needed / 1e9:,.0f} GB of memory, and the "
            f"machine has {there / 1e9:,.0f} GB: "
            f"take fewer than {run.n_envs:,} environments (--n-envs), shorter rollouts than "
            f"{arguments['n_steps']:,} steps "
            "(--n-steps) or a smaller model"
        )


def write_config(run: Run, directory: Path) -> None:
    """Write ``config.json``, whole or not at all.

    Raises:
        NotSavedError: if it cannot be written.
    """
    versions = {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "gymnasium": gym.__version__,
        "stable_baselines3": stable_baselines3.__version__,
    }
    with replacing(RunDirectory(directory).config) as file:
        file.write((json.dumps(run.to_json() | {"versions": versions}, indent=2) + "\n").encode())


def check_resumable(run: Run, directory: Path) -> None:
    """Check that a run can go on in its directory.

    Args:
        run: the run, with the environment steps to train for in all, as many as before or more.
        directory: the run's.

    Raises:
        UsageError: if the run there has other settings, no checkpoint, or is finished and no more
            steps are asked for.
    """
    before, kept = Run.load(directory), RunDirectory(directory)
    may_change = {"total_timesteps", "checkpoint_interval"}
    if changed := sorted(set(differences(before, run)) - may_change):
        raise UsageError(
            "--resume goes on with the settings of the run: leave out the flags for "
            f"{', '.join(changed)}"
        )
    if kept.weights.exists():
        raise UsageError(
            f"{directory} is a published model, which has no checkpoint to resume from: "
            "from_pretrained(..., env) goes on training with it"
        )
    if kept.finished and run.total_timesteps <= before.total_timesteps:
        raise UsageError(
            f"{directory} holds a finished run: to go on, --total-timesteps must be more than its "
            f"{before.total_timesteps:,}"
        )
    if not kept.finished and not kept.saved():
        out = shlex.join(["--out", str(directory)])
        raise UsageError(
            f"{directory} has no checkpoint to resume from: its training was stopped before "
            f"the first one; start it again, with {out} and the options that it had"
        )
    if run.total_timesteps < before.total_timesteps:
        raise UsageError(
            f"--total-timesteps must be at least the {before.total_timesteps:,} of the run in "
            f"{directory}, got {run.total_timesteps:,}"
        )


def _share(total: int, what: str) -> int:
    try:
        return distributed.share(total, what)
    except ValueError as error:
        raise UsageError(f"{error}; choose other --n-envs, or another --nproc-per-node") from None


class _CheckedSteps(gym.Wrapper[Any, Any, Any, Any]):
    """Refuses what a vector environment would take without a word, such as None for False."""

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        observation, reward, terminated, truncated, info = self.env.step(action)
        for name, flag in (("terminated", terminated), ("truncated", truncated)):
            if flag not in (True, False):
                raise TypeError(f"{name} must be True or False, got {flag!r}")
        # isinstance(reward, SupportsFloat) takes as long as a step of a small environment
        if not hasattr(reward, "__float__") or np.size(cast(Any, reward)) != 1:
            raise TypeError(f"a reward must be a number, got {reward!r}")
        space = self.observation_space
        if isinstance(space, gym.spaces.Box) and np.shape(observation) != space.shape:
            raise ValueError(
                f"an observation must have the shape {space.shape}, got {np.shape(observation)}"
            )
        return observation, reward, terminated, truncated, info


def _memory() -> int:
    """The memory of the machine, or of the container where this runs in one, in bytes."""
    limits = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    for version in CGROUPS:
        with suppress(OSError, ValueError):  # no such version of them, or "max"
            limits.append(int(version.read_text()))
    return min(limits)


def new_directory(out: Path | None, run: Run) -> Path:
    """Make the directory of a new run.

    Raises:
        UsageError: if ``out`` holds something already.
    """
    if out is None:
        out = (
            Path("runs")
            / run.env.replace(":", "-")
            / run.agent
            / f"seed{run.seed}-{time.strftime('%Y%m%d-%H%M%S')}"
        )
    kept = RunDirectory(out)
    try:
        if out.exists() and not out.is_dir():
            raise UsageError(f"--out {out} is a file; name a directory")
        if kept.finished:
            raise UsageError(f"{out} holds a finished run; give --out another name")
        if kept.saved():
            resume = shlex.join(["--resume", str(out)])
            raise UsageError(
                f"{out} holds an unfinished run; continue it with {resume}, or give --out another "
                "name"
            )
        out.mkdir(parents=True, exist_ok=True)
        if not all(map(kept.is_before_first_checkpoint, out.iterdir())):
            raise UsageError(f"{out} is not empty; give --out another name")
        for path in out.iterdir():  # of a run that was stopped before its first checkpoint
            if path != kept.checkpoints:
                path.unlink()
    except OSError as error:
        raise UsageError(
            f"cannot make the directory --out {str(out)[:100]}: {error.strerror}"
        ) from error
    return out


def read_progress(directory: Path) -> list[dict[str, float]]:
    """The rows of a run's ``progress.csv``, none where there is no such file; without those that a
    crash has garbled."""
    return [
        {column: float(cell) for column, cell in row.items()}
        for row in read_rows(RunDirectory(directory).progress)
    ]


def find_run(name: Path) -> Path:
    """A run directory, or that of the trained model of this name.

    Raises:
        UsageError: if there is neither.
    """
    try:
        return find_model(name)
    except FileNotFoundError:
        models = f"; trained models are {', '.join(trained_models())}" if ":" in str(name) else ""
        raise UsageError(f"there is no run directory {name}{models}") from None


def newest_model(directory: Path) -> Path:
    """``model.zip`` of a finished run, else its last checkpoint; the directory itself where it is a
    published model's.

    Raises:
        UsageError: if there is neither.
    """
    kept = RunDirectory(directory)
    if kept.weights.exists():
        return directory
    saved = [*kept.saved(), *([kept.model] if kept.finished else [])]
    if not saved:
        raise UsageError(
            f"{directory} has no model yet: its training was stopped before the first checkpoint"
        )
    return saved[-1]


def how_to_register(env: str) -> str:
    """How an environment that Gymnasium does not know becomes known."""
    return (
        f"if a module registers it, name the module as well: --env MODULE:{env.rpartition(':')[2]}"
    )


def load_to_go_on(
    run: Run, directory: Path, env: GymnasiumVecEnv, device: str
) -> RecurrentOnPolicyAlgorithm:
    """Load the newest of what a run can go on from as if it had never ended: the end of its
    training, where going on begins new episodes, or a checkpoint. If there is neither, the end of
    its training, with a note.

    Raises:
        RunError, UsageError: as for :func:`load_model`.
    """
    kept = RunDirectory(directory)
    before = kept.saved()
    if kept.finished:
        model = load_model(run, kept.model, env, device)
        if vars(model).get(AT_BOUNDARY) or not before:
            if not vars(model).get(AT_BOUNDARY) and distributed.is_first():
                at = f"after {model.num_timesteps:,} steps"
                print(
                    f"note: {directory} has no checkpoint, and goes on with new episodes {at}: "
                    "had so many steps been asked "
                    "for from the start, it would have stayed in those that it was in",
                    file=sys.stderr,
                )
            return model
    return load_model(run, before[-1], env, device)


def reopen(run: Run, directory: Path, steps: int) -> None:
    """Have a run go on after so many steps with what it is to be now, such as longer: what its end
    had left gives way, and what it goes on from is a checkpoint.

    Raises:
        NotSavedError: if ``config.json`` cannot be written.
    """
    if run == Run.load(directory):
        return
    kept = RunDirectory(directory)
    start = kept.checkpoint(steps)
    start.parent.mkdir(exist_ok=True)
    write_config(run, directory)
    kept.evaluation.unlink(missing_ok=True)
    if start.exists():
        kept.model.unlink(missing_ok=True)
    elif kept.finished:
        os.replace(kept.model, start)


def load_model(
    run: Run, path: Path, env: GymnasiumVecEnv | None, device: str
) -> RecurrentOnPolicyAlgorithm:
    """Load a model or checkpoint of a run.

    Raises:
        RunError: if the file is damaged, or holds something else.
        UsageError: if it was trained on other observations or actions than the environment's.
    """
    algorithm = ALGORITHMS[run.algorithm]
    damaged = None if path.is_dir() else _damage(path)
    if damaged is not None:
        older = [other for other in checkpoints(path.parent) if other < path]
        advice = (
            f"; delete it to go on from {older[-1].name}"
            if path.parent == RunDirectory(path.parents[1]).checkpoints and older
            else ""
        )
        raise RunError(f"{path} is damaged ({damaged}){advice}")
    try:
        if path.is_dir():
            return algorithm.from_pretrained(path, env, device=device)
        return algorithm.load(path, env=env, device=device)
    except OtherSpacesError as error:
        raise UsageError(
            f"{path} was trained on another environment than config.json names "
            f"({first_line(error)})"
        ) from error
    except ValueError as error:
        raise RunError(first_line(error)) from error


def _damage(path: Path) -> str | None:
    """What is wrong with a file that should be a zip archive."""
    try:
        with zipfile.ZipFile(path) as archive:
            return archive.testzip()
    except (zipfile.BadZipFile, zlib.error, EOFError) as error:
        return first_line(error)


def check_unchanged(
    model: RecurrentOnPolicyAlgorithm, configured: RecurrentOnPolicyAlgorithm, directory: Path
) -> None:
    """Check that a checkpoint was made with the hyperparameters that ``config.json`` holds now.

    Raises:
        UsageError: if one differs.
    """
    for name in ("policy_kwargs", *model.hyperparameters()):
        if name == "seed" or name not in vars(model):
            continue
        before, now = getattr(model, name), getattr(configured, name)
        if name == "policy_kwargs":
            before = dict.fromkeys(now) | OF_POLICY | before
        if name == "learning_rate":
            before, now = str(before), str(now)  # schedules are compared as they are written
        if before != now:
            raise UsageError(
                f"{directory / 'config.json'} was changed: the run was trained with {name} "
                f"{before}, not {now}"
            )

"""What an agent knows: where the goal is, as a linear map reads it off the agent's outputs."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from stable_baselines3.common.utils import set_random_seed
from torch import Tensor, nn

from envs import MazeVectorEnv
from experiments.analysis.figures import draw_lines, line, make_figure, save_figure
from experiments.command_line import UsageError
from experiments.configuration import Run
from experiments.run import load_model, make_env, newest_model
from experiments.statistics import Scores
from mnm_rl import GymnasiumVecEnv


def goal_readout(
    runs: Sequence[tuple[Path, Run]], path: Path, seed: int, episodes: int = 512
) -> None:
    """Draw how well a linear read-out of an agent's outputs tells where the goal is, at every step
    of the episode.

    At each step, ridge regression from the outputs of the core to the row and column of the goal is
    fitted on ``episodes`` episodes and tested on as many others; the curve is the explained
    variance (R^2) in the test episodes, the interquartile mean over the runs of each agent. What
    the curve shows is what the memory has kept of where the goal was.

    Raises:
        UsageError: if an environment is not a maze.
    """
    for _, run in runs:
        check_maze(run)
    fits: dict[str, list[tuple[Scores, Scores]]] = {}
    for directory, run in runs:
        outputs, goals = _outputs_and_goals(directory, run, 2 * episodes, seed)
        fit = [
            _explained(x[:episodes], goals[:episodes], x[episodes:], goals[episodes:])
            for x in outputs
        ]
        fits.setdefault(run.agent, []).append((np.arange(1.0, len(fit) + 1), np.array(fit)))
    figure, axes = make_figure()
    draw_lines(axes, {agent: line(seeds) for agent, seeds in fits.items()}, {"nothing": 0.0})
    axes.set(
        xlabel="step of the episode",
        ylabel="R² of the goal's position",
        title="Where the goal is, read off the agent's outputs",
    )
    save_figure(figure, path)


def check_maze(run: Run) -> None:
    """Check that a run's environment has a goal to read out.

    Raises:
        UsageError: if it is not a maze with one hidden goal.
    """
    env = make_env(run, 1)
    env.close()
    maze = env.env.unwrapped
    if not isinstance(maze, MazeVectorEnv) or maze.sees_goals:
        raise UsageError(
            f"--goal-readout looks for the one hidden goal of a maze; {run.env} has none"
        )


def _outputs_and_goals(
    directory: Path, run: Run, episodes: int, seed: int
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """The core's outputs at each step ``[T, episodes, D]`` and the goals ``[episodes, 2]`` of one
    episode in each maze."""
    env = make_env(run, episodes)
    maze = env.env.unwrapped
    assert isinstance(maze, MazeVectorEnv)
    env.seed(seed)
    obs, goals = env.reset(), maze.goal
    return core_outputs(directory, run, env, obs, seed)[0], goals


def core_outputs(
    directory: Path, run: Run, env: GymnasiumVecEnv, obs: Any, seed: int
) -> tuple[NDArray[np.float32], NDArray[Any]]:
    """Play one episode in each of B environments, all of the same length T.

    Args:
        directory: the run directory.
        run: its run.
        env: the environments, reset.
        obs: their first observations, ``[B, F]``.
        seed: of the actions.

    Returns:
        the core's outputs at each step, ``[T, B, D]``, and the observations, ``[T, B, F]``
    """
    model = load_model(run, newest_model(directory), env, "cpu")
    set_random_seed(seed)
    outputs: list[NDArray[np.float32]] = []
    seen: list[NDArray[Any]] = []

    def keep(module: nn.Module, args: Any, result: tuple[Tensor, ...]) -> None:
        outputs.append(result[0][0].numpy())

    state, starts = None, np.ones(env.num_envs, bool)
    with model.policy.core.register_forward_hook(keep):
        while not seen or not starts.any():
            seen.append(obs)
            actions, state = model.predict(obs, state, starts)
            obs, _, starts, _ = env.step(actions)
    return np.stack(outputs), np.stack(seen)


def _explained(
    x: NDArray[Any], y: NDArray[Any], x_test: NDArray[Any], y_test: NDArray[Any]
) -> float:
    """R^2 on test data of ridge regression."""
    residual = y_test - ridge(x, y, x_test)
    return float(1 - (residual**2).sum() / ((y_test - y_test.mean(axis=0)) ** 2).sum())


def ridge(x: NDArray[Any], y: NDArray[Any], x_test: NDArray[Any]) -> NDArray[Any]:
    """What ridge regression, fitted to ``x`` ``[N, D]`` and ``y`` ``[N, K]``, predicts for
    ``x_test`` ``[M, D]``: ``[M, K]``; inputs that hardly vary, as saturated units do, hardly
    count."""
    mean = x.mean(axis=0)
    x, x_test = x - mean, x_test - mean
    squares = x.T @ x
    penalty = 0.02 * np.trace(squares) / len(squares) + 1e-6
    weights = np.linalg.solve(squares + penalty * np.eye(len(squares)), x.T @ (y - y.mean(axis=0)))
    predicted: NDArray[Any] = y.mean(axis=0) + x_test @ weights
    return predicted

"""What an agent knows: where the goal is, as a linear map reads it off the agent's outputs."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import pyplot as plt
from numpy.typing import NDArray
from stable_baselines3.common.utils import set_random_seed
from torch import Tensor, nn

from envs import MazeVectorEnv
from experiments.command_line import UsageError
from experiments.figures import save_figure
from experiments.run import Run, load_model, newest_model


def goal_readout(runs: Sequence[tuple[Path, Run]], path: Path, seed: int, episodes: int = 512) -> None:
    """Draw how well a linear read-out of an agent's outputs tells where the goal is, at every step of the episode.

    At each step, ridge regression from the outputs of the core to the row and column of the goal is fitted on ``episodes``
    episodes and tested on as many others; the curve is the explained variance (R^2) in the test episodes. What the curve
    shows is what the memory has kept of where the goal was.

    Raises:
        UsageError: if an environment is not a maze.
    """
    figure, axes = plt.subplots(figsize=(8, 4.5), layout="constrained")
    agents = list(dict.fromkeys(run.agent for _, run in runs))
    for directory, run in runs:
        outputs, goals = _outputs_and_goals(directory, run, 2 * episodes, seed)
        fit = [_explained(x[:episodes], goals[:episodes], x[episodes:], goals[episodes:]) for x in outputs]
        label = f"{run.agent}, seed {run.seed}"
        axes.plot(np.arange(1, len(fit) + 1), fit, color=f"C{agents.index(run.agent)}", alpha=0.8, label=label)
    axes.set(
        xlabel="step of the episode", ylabel="R² of the goal's position", title="Where the goal is, read off the agent's outputs"
    )
    axes.set_ylim(-0.1, 1)
    axes.axhline(0, color="gray", linewidth=0.5)
    axes.legend(loc="center left", bbox_to_anchor=(1, 0.5), frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    save_figure(figure, path)


def _outputs_and_goals(directory: Path, run: Run, episodes: int, seed: int) -> tuple[list[NDArray[np.float32]], NDArray[np.int64]]:
    """The core's outputs at each step ``[T][episodes, D]`` and the goals ``[episodes, 2]`` of one episode in each maze."""
    env = run.make_env(episodes)
    maze = env.env.unwrapped
    if not isinstance(maze, MazeVectorEnv):
        raise UsageError(f"--goal-readout looks for the goal of a maze; {run.env} has none")
    model = load_model(run, newest_model(directory), env, "cpu")
    set_random_seed(seed)
    env.seed(seed)
    outputs: list[NDArray[np.float32]] = []

    def keep(module: nn.Module, args: Any, result: tuple[Tensor, ...]) -> None:
        outputs.append(result[0][0].numpy())

    obs: Any = env.reset()
    goals = maze.goal
    state, starts = None, np.ones(episodes, bool)
    with model.policy.core.register_forward_hook(keep):
        for _ in range(maze.horizon):
            actions, state = model.predict(obs, state, starts)
            obs, _, starts, _ = env.step(actions)
    return outputs, goals


def _explained(x: NDArray[Any], y: NDArray[Any], x_test: NDArray[Any], y_test: NDArray[Any]) -> float:
    """R^2 on test data of ridge regression with standardized inputs."""
    mean, std = x.mean(axis=0), x.std(axis=0) + 1e-6
    x, x_test = (x - mean) / std, (x_test - mean) / std
    weights = np.linalg.solve(x.T @ x + 10 * np.eye(x.shape[1]), x.T @ (y - y.mean(axis=0)))
    residual = y_test - y.mean(axis=0) - x_test @ weights
    return float(1 - (residual**2).sum() / ((y_test - y_test.mean(axis=0)) ** 2).sum())

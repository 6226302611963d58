"""What is said about trained agents: figures with intervals, learning curves, animations, and a look into the memory."""

import contextlib
import csv
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import gymnasium as gym
import matplotlib as mpl
import numpy as np
from matplotlib import pyplot as plt
from matplotlib.ticker import EngFormatter
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from scipy import stats
from stable_baselines3.common.utils import set_random_seed
from torch import Tensor, nn

from agents.command_line import RunError, UsageError, first_line
from agents.run import Run, load_model, newest_model
from envs import MazeVectorEnv
from envs.references import REFERENCES, reference_episodes
from mnm_rl.evaluation import evaluate_episodes

mpl.use("Agg")

Interval = tuple[float, float]


@dataclass(frozen=True)
class Score:
    """The figures of some episodes; what an environment does not report is None."""

    mean: float
    """Mean return."""
    ci95: Interval | None
    """95% bootstrap interval of the mean return; None for a single episode."""
    goals: float | None
    first_goal: float | None
    between: float | None

    @classmethod
    def of(cls, returns: NDArray[Any], infos: dict[str, Sequence[float | None]]) -> "Score":
        """Sum up returns and the maze's counts, one of each an episode."""
        goals, first, between = (_mean(infos.get(key, ())) for key in ("goals", "steps_to_first_goal", "mean_steps_between_goals"))
        return cls(float(returns.mean()), _bootstrap(returns, np.mean), goals, first, between)


@dataclass(frozen=True)
class Evaluation:
    """A run and how it did."""

    directory: Path
    run: Run
    steps: int
    """Environment steps it was trained for."""
    episodes: int
    score: Score
    references: dict[str, Score]
    """The maze's reference policies; empty for other environments."""

    def normalized(self, value: float) -> float | None:
        """A return on the scale where random is 0 and the oracle 1; None where there are no references."""
        if not self.references:
            return None
        random, oracle = self.references["random"].mean, self.references["oracle"].mean
        return (value - random) / (oracle - random)

    def row(self) -> dict[str, Any]:
        """The entry of the run in the JSON report."""
        return {
            "run": str(self.directory),
            "agent": self.run.agent,
            "env": self.run.environment,
            "seed": self.run.seed,
            "train_steps": self.steps,
            "episodes": self.episodes,
            "return_mean": self.score.mean,
            "return_ci95": self.score.ci95,
            "normalized_score": self.normalized(self.score.mean),
            "goals": self.score.goals,
            "steps_to_first_goal": self.score.first_goal,
            "steps_between_goals": self.score.between,
        }


def evaluate(directory: Path, run: Run, episodes: int, seed: int, deterministic: bool) -> Evaluation:
    """Play episodes with the newest model of a run.

    Raises:
        UsageError, RunError: if there is no model, it is damaged, or its environment cannot be made.
    """
    env = run.make_env(min(episodes, 128))
    model = load_model(newest_model(directory), env, "cpu")
    set_random_seed(seed)
    env.seed(seed)
    print(f"playing {episodes:,} episodes with {directory}", file=sys.stderr)
    try:
        played = evaluate_episodes(model, env, episodes, deterministic)
    except RuntimeError as error:
        raise RunError(f"{run.environment}: {first_line(error)}") from error
    returns = np.array([episode["return"] for episode in played])
    if not np.isfinite(returns).all():
        raise RunError(f"{run.environment} gave rewards that are NaN or infinite")
    score = Score.of(
        returns,
        {key: [episode[key] for episode in played if key in episode] for episode in played[:1] for key in episode},
    )
    env.close()
    return Evaluation(directory, run, model.num_timesteps, episodes, score, references(run))


def references(run: Run) -> dict[str, Score]:
    """Scores of the reference policies on the maze of a run, on the same layout and horizon; none for other environments."""
    env = run.make_env(1)
    maze = env.env.unwrapped
    env.close()
    return _maze_references(json.dumps(maze.task.arguments)) if isinstance(maze, MazeVectorEnv) else {}


@cache
def _maze_references(arguments: str) -> dict[str, Score]:
    maze = json.loads(arguments)
    episodes = 200 if maze.get("layout") == "perfect" else 1000  # a new map an episode takes its time
    scores: dict[str, Score] = {}
    for reference in REFERENCES:
        played = reference_episodes(reference, episodes, **maze)
        scores[reference] = Score.of(played.pop("return"), {key: list(values) for key, values in played.items()})
    return scores


def agent_rows(evaluations: Sequence[Evaluation]) -> list[dict[str, Any]]:
    """The entries of the agents in the JSON report: interquartile means over seeds, with bootstrap intervals over seeds."""
    rows = []
    for agent, env in dict.fromkeys((e.run.agent, e.run.environment) for e in evaluations):
        runs = [e for e in evaluations if (e.run.agent, e.run.environment) == (agent, env)]
        means = np.array([e.score.mean for e in runs])
        iqm = float(_interquartile_mean(means))
        rows.append(
            {
                "agent": agent,
                "env": env,
                "seeds": [e.run.seed for e in runs],
                "return_iqm": iqm,
                "return_iqm_ci95": _bootstrap(means, _interquartile_mean),
                "normalized_iqm": runs[0].normalized(iqm),
            }
        )
    return rows


def read_progress(directory: Path, up_to: float = np.inf) -> list[dict[str, float]]:
    """The rows of a run's ``progress.csv``, none where there is no such file; without those that a crash has garbled."""
    path = directory / "progress.csv"
    if not path.exists():
        return []
    rows: list[dict[str, float]] = []
    for row in csv.DictReader(path.read_text(errors="replace").replace("\0", "").splitlines()):
        with contextlib.suppress(ValueError, TypeError):
            numbers = {key: float(value) for key, value in row.items() if key and value}
            if (rows[-1]["time/total_timesteps"] if rows else 0) < numbers.get("time/total_timesteps", 0) <= up_to:
                rows.append(numbers)
    return rows


def learning_curves(runs: Sequence[tuple[Path, Run]], path: Path) -> None:
    """Draw goals (or returns, where an environment has no goals) over steps: an agent's mean, and thinly each of its seeds."""
    figure, axes = plt.subplots(figsize=(8, 4.5), layout="constrained")
    key, label = "rollout/goals", "goals an episode"
    progress = [read_progress(directory) for directory, _ in runs]
    if not all(any(key in row for row in rows) for rows in progress):
        key, label = "rollout/ep_rew_mean", "return"
    curves: dict[str, list[NDArray[Any]]] = {run.agent: [] for _, run in runs}
    for (_, run), rows in zip(runs, progress, strict=True):
        if points := [(row["time/total_timesteps"], row[key]) for row in rows if key in row]:
            curves[run.agent].append(np.array(points).T)
    for i, (agent, seeds) in enumerate(curves.items()):
        if seeds:
            steps = np.linspace(max(x[0] for x, _ in seeds), min(x[-1] for x, _ in seeds), 500)
            axes.plot(steps, np.mean([np.interp(steps, x, y) for x, y in seeds], axis=0), color=f"C{i}", label=agent)
        if len(seeds) > 1:
            for x, y in seeds:
                axes.plot(x, y, color=f"C{i}", linewidth=0.7, alpha=0.3)
    environments = list(dict.fromkeys(run.environment for _, run in runs))
    if key == "rollout/goals" and len(environments) == 1:
        for name, score in references(runs[0][1]).items():
            goals = score.goals or 0.0
            axes.axhline(goals, color="gray", linestyle="--", linewidth=1)
            axes.annotate(name, (1, goals), xycoords=("axes fraction", "data"), ha="right", va="bottom", color="gray", fontsize=9)
    axes.set(xlabel="environment steps", ylabel=label, title=", ".join(environments))
    axes.set_xlim(left=0)
    axes.xaxis.set_major_formatter(EngFormatter(sep=""))
    if axes.get_legend_handles_labels()[0]:
        axes.legend(loc="center left", bbox_to_anchor=(1, 0.5), frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    _save(figure, path)


def record_gif(directory: Path, run: Run, path: Path, seed: int, deterministic: bool) -> None:
    """Record one episode (at most 1,000 steps) as an animation.

    Raises:
        UsageError: if the environment cannot be drawn.
    """
    try:
        env = gym.make(run.env, render_mode="rgb_array", **run.env_kwargs)
        obs, _ = env.reset(seed=seed)
        frames = [env.render()]
    except Exception as error:
        raise UsageError(f"--gif: {run.env} cannot be drawn as pictures: {first_line(error)}") from error
    model = load_model(newest_model(directory), None, "cpu")
    set_random_seed(seed)
    state, done, total, texts = None, False, 0.0, [""]
    while not done and len(frames) < 1000:
        action, state = model.predict(obs, state, deterministic=deterministic)
        obs, reward, terminated, truncated, _ = env.step(action)
        total += float(reward)
        done = terminated or truncated
        frames.append(env.render())
        texts.append(f"return {total:.0f}")
    pictures = [
        _captioned(np.asarray(frame), f"{run.agent}   step {t} of {len(frames) - 1}   {text}")
        for t, (frame, text) in enumerate(zip(frames, texts, strict=True))
    ]
    pictures[0].save(path, format="GIF", save_all=True, append_images=pictures[1:], duration=120, loop=0)
    env.close()


def probe(runs: Sequence[tuple[Path, Run]], path: Path, seed: int, episodes: int = 512) -> None:
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
    _save(figure, path)


def _outputs_and_goals(directory: Path, run: Run, episodes: int, seed: int) -> tuple[list[NDArray[np.float32]], NDArray[np.int64]]:
    """The core's outputs at each step ``[T][episodes, D]`` and the goals ``[episodes, 2]`` of one episode in each maze."""
    env = run.make_env(episodes)
    maze = env.env.unwrapped
    if not isinstance(maze, MazeVectorEnv):
        raise UsageError(f"--probe looks for the goal of a maze; {run.env} has none")
    model = load_model(newest_model(directory), env, "cpu")
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


def _captioned(frame: NDArray[np.uint8], text: str) -> Image.Image:
    picture = Image.new("RGB", (frame.shape[1], frame.shape[0] + 24), "white")
    picture.paste(Image.fromarray(frame), (0, 24))
    ImageDraw.Draw(picture).text((6, 4), text, fill="black", font_size=14)
    return picture


def _save(figure: Any, path: Path) -> None:
    try:
        figure.savefig(path, dpi=120)
    except ValueError as error:  # an ending that matplotlib does not know
        raise UsageError(f"cannot draw {path}: {first_line(error)}") from error
    finally:
        plt.close(figure)


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else None


def _interquartile_mean(values: NDArray[Any], axis: int = -1) -> Any:
    return stats.trim_mean(values, 0.25, axis=axis)


def _bootstrap(values: NDArray[Any], statistic: Any) -> Interval | None:
    if len(values) < 2:
        return None
    interval = stats.bootstrap((values,), statistic, method="percentile", rng=0).confidence_interval
    return float(interval.low), float(interval.high)

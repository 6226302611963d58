"""Results of a grid without running it: seeds that differ as seeds do."""

from typing import Any

import gymnasium as gym
import numpy as np

from envs.metrics import metrics_of
from experiments.grids.results import Result, Results

MAZE = "mnm/MazeSmall-v0"


def result(agent: str, seed: int, score: float, metrics: bool = True, **others: Any) -> Result:
    """A finished run that found ``score`` goals an episode in its final evaluation, with a curve
    that rises to it; without metrics only the return is known, ten times as much."""
    steps = np.linspace(1e4, 1e6, 30)
    of_maze = (
        {"goals": score, "steps_to_first_goal": 12.0, "mean_steps_between_goals": 100 / score}
        if metrics
        else {}
    )
    values: dict[str, Any] = {
        "algorithm": "ppo",
        "environment": MAZE,
        "setting": "default",
        "steps": 1_000_000,
        "curve": {
            "steps": steps.tolist(),
            "seconds": (steps / 1000).round(1).tolist(),
            "score": (score * (1 - np.exp(-4e-6 * steps))).round(3).tolist(),
        },
        "returns": [(10 * score - 10, 256), (10 * score + 10, 256)],
        "metrics": of_maze | {"return": 10 * score},
        "waits": [(12.0, 512), (100 / score, 500), (80 / score, 400), (75 / score, 200)],
    }
    return Result(agent=agent, seed=seed, **values | others)


def results(*runs: Result, planned: int | None = None) -> Results:
    """The results of a grid of these runs."""

    def of(key: str) -> list[Any]:
        return list(dict.fromkeys(getattr(run, key) for run in runs))

    return Results(
        name="small",
        title="The small maze <again>",
        about="Which memory finds its way back?",
        grid={
            "title": "The small maze",
            **{f"{key}s": of(key) for key in ("agent", "algorithm", "environment", "seed")},
        },
        planned=len(runs) if planned is None else planned,
        versions={"python": ["3.11.7"], "torch": ["2.13.0"]},
        hyperparameters=[
            {
                "agent": agent,
                "algorithm": "ppo",
                "setting": "default",
                "hyperparameters": {"learning_rate": 1e-3},
            }
            for agent in of("agent")
        ],
        metrics={
            environment: list(metrics_of(gym.make(environment)))
            for environment in dict.fromkeys([*of("environment"), MAZE])
        },
        references={
            MAZE: {
                name: {
                    "goals": goals,
                    "steps_to_first_goal": 9.0,
                    "mean_steps_between_goals": 4.0,
                    "return": 10 * goals,
                }
                for name, goals in (("random", 1.0), ("explorer", 25.0), ("oracle", 29.0))
            }
        },
        results=list(runs),
    )


def three_agents() -> Results:
    """Three agents with five seeds: MNM-p above the LSTM, which is above the RNN."""
    rng = np.random.default_rng(0)
    goals = {"rnn": 9.0, "mnm-p": 22.0, "lstm": 18.0}
    return results(
        *(
            result(agent, s, round(goals[agent] + rng.normal(), 2))
            for s in range(5)
            for agent in goals
        ),
        planned=20,
    )

"""Environments, registered with Gymnasium.

They are the mazes ``mnm/Maze-v0``, ``mnm/MazeSmall-v0`` and ``mnm/MazeGoals-v0``, the bandit
``mnm/Bandit-v0``, and the memory tasks.
"""

from typing import Any

from gymnasium.envs.registration import register, registry

from envs.bandit import BanditEnv, BanditVectorEnv
from envs.maze import MazeEnv
from envs.maze_goals import MazeGoalsEnv, MazeGoalsVectorEnv
from envs.maze_vector import MazeVectorEnv
from envs.memory_env import MemoryEnv, MemoryVectorEnv
from envs.memory_tasks import TASKS, Episodes, MemoryTask
from envs.metrics import RETURN, Metric

_ENVIRONMENTS: dict[str, tuple[str, str | None, dict[str, Any]]] = {
    "Maze": (f"{__name__}.maze:MazeEnv", f"{__name__}.maze_vector:MazeVectorEnv", {}),
    "MazeSmall": (
        f"{__name__}.maze:MazeEnv",
        f"{__name__}.maze_vector:MazeVectorEnv",
        {"size": 7, "horizon": 100},
    ),
    "MazeGoals": (
        f"{__name__}.maze_goals:MazeGoalsEnv",
        f"{__name__}.maze_goals:MazeGoalsVectorEnv",
        {},
    ),
    "Bandit": (f"{__name__}.bandit:BanditEnv", f"{__name__}.bandit:BanditVectorEnv", {}),
} | {
    task.title().replace("_", ""): (
        f"{__name__}.memory_env:MemoryEnv",
        f"{__name__}.memory_env:MemoryVectorEnv",
        {"task": task},
    )
    for task in TASKS
}

for _name, (_single, _batched, _kwargs) in _ENVIRONMENTS.items():
    if (_id := f"mnm/{_name}-v0") not in registry:
        register(_id, entry_point=_single, vector_entry_point=_batched, kwargs=_kwargs)

__all__ = [
    "RETURN",
    "TASKS",
    "BanditEnv",
    "BanditVectorEnv",
    "Episodes",
    "MazeEnv",
    "MazeGoalsEnv",
    "MazeGoalsVectorEnv",
    "MazeVectorEnv",
    "MemoryEnv",
    "MemoryTask",
    "MemoryVectorEnv",
    "Metric",
]

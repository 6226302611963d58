"""The maze environments, registered with Gymnasium as ``mnm/Maze-v0`` and ``mnm/MazeSmall-v0``."""

from gymnasium.envs.registration import register, registry

from envs.maze import MazeEnv
from envs.maze_vector import MazeVectorEnv

for _id, _kwargs in (("mnm/Maze-v0", {}), ("mnm/MazeSmall-v0", {"size": 7, "horizon": 100})):
    if _id not in registry:
        register(_id, entry_point="envs.maze:MazeEnv", vector_entry_point="envs.maze_vector:MazeVectorEnv", kwargs=_kwargs)

__all__ = ["MazeEnv", "MazeVectorEnv"]

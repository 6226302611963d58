"""MiniGrid's Memory task: see an object, walk down a corridor, turn to the side where the same
object is.

pip install ".[minigrid]"
python -m examples.minigrid_memory
"""

from typing import Any

import gymnasium as gym
import torch
from gymnasium import spaces
from gymnasium.wrappers import FilterObservation
from minigrid.core.constants import OBJECT_TO_IDX
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from stable_baselines3.common.vec_env import VecEnv
from torch import Tensor
from torch.nn.functional import one_hot

from mnm_rl import RecurrentPPO


def without_mission(env: gym.Env[Any, Any]) -> gym.Env[Any, Any]:
    """Keep image and direction; the mission is a text that is always the same."""
    return FilterObservation(env, ["image", "direction"])


class Kinds(BaseFeaturesExtractor):
    """Which kind of object is in each cell that is seen, one-hot, and the direction."""

    def __init__(self, observation_space: spaces.Dict) -> None:
        cells = 7 * 7
        super().__init__(observation_space, cells * len(OBJECT_TO_IDX) + 4)

    def forward(self, observations: dict[str, Tensor]) -> Tensor:
        kinds = one_hot(observations["image"][:, 0].long(), len(OBJECT_TO_IDX))
        return torch.cat([kinds.flatten(1).float(), observations["direction"]], dim=1)


# What MiniGrid calls an image are numbers of kinds, colours and states of objects: nothing to
# divide by 255.
POLICY_KWARGS: dict[str, Any] = {"features_extractor_class": Kinds, "normalize_images": False}


def make_env(seed: int, n_envs: int = 8) -> VecEnv:
    """Environments of the smallest size."""
    return make_vec_env(
        "MiniGrid-MemoryS7-v0", n_envs=n_envs, seed=seed, wrapper_class=without_mission
    )


def main(total_timesteps: int = 200_000) -> float:
    model = RecurrentPPO(
        "MnmPolicy",
        make_env(0),
        learning_rate=7e-4,
        n_steps=128,
        batch_size=256,  # two environments
        gae_lambda=0.98,
        ent_coef=0.01,
        max_grad_norm=1.0,
        policy_kwargs=POLICY_KWARGS | {"hidden_size": 64},
        seed=0,
        device="cpu",
    )
    model.learn(total_timesteps, progress_bar=True)
    assert model.ep_info_buffer is not None
    right = sum(episode["r"] > 0 for episode in model.ep_info_buffer) / len(model.ep_info_buffer)
    print(
        f"the right object in {right:.0%} of the last {len(model.ep_info_buffer)} episodes "
        "(without memory 50%)"
    )
    return right


if __name__ == "__main__":
    main()

"""An environment of one's own: two arms, one of which pays. Which one changes every episode: try,
see, remember.

python -m examples.own_environment
"""

from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.evaluation import evaluate_policy

from mnm_rl import RecurrentPPO
from mnm_rl.wrappers import MetaObservation


class TwoArms(gym.Env[Any, Any]):
    """Each arm pays 1 with a probability of its own, drawn anew every episode of 20 pulls. There is
    nothing to see."""

    observation_space = spaces.Box(0, 1, (1,), np.float32)
    action_space = spaces.Discrete(2)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.pulls, self.probability = 0, self.np_random.permutation([0.1, 0.9])
        return np.zeros(1, np.float32), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.pulls += 1
        reward = float(self.np_random.random() < self.probability[action])
        return np.zeros(1, np.float32), reward, self.pulls == 20, False, {}


def main(total_timesteps: int = 60_000) -> float:
    # MetaObservation adds the previous action, the previous reward and the start of an episode to
    # what is seen.
    env = make_vec_env(TwoArms, n_envs=16, seed=0, wrapper_class=MetaObservation)
    model = RecurrentPPO(
        "MnmPolicy",
        env,
        n_steps=20,
        batch_size=80,
        n_epochs=4,
        learning_rate=1e-3,
        policy_kwargs={"hidden_size": 32},
        seed=0,
        device="cpu",
    ).learn(total_timesteps, progress_bar=True)
    mean, _ = evaluate_policy(
        model, make_vec_env(TwoArms, n_envs=16, seed=1, wrapper_class=MetaObservation), 400
    )
    print(f"return of an episode: {mean:.1f} (always one arm: 10.0; always the better one: 18.0)")
    return float(mean)


if __name__ == "__main__":
    main()

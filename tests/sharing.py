"""A training that one process does alone, or several share, with the same results: torchrun ... -m
tests.sharing DIRECTORY [DEVICE]

Actions are the likeliest ones, and each environment has a generator of its own, seeded by its
number among all: so the rollouts are the same, however many processes collect them.
"""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from gymnasium.vector import AutoresetMode, SyncVectorEnv

from mnm_rl import RecurrentA2C, RecurrentPPO
from mnm_rl.algorithms import distributed
from mnm_rl.algorithms.buffers import RolloutSequence
from mnm_rl.algorithms.on_policy import RecurrentOnPolicyAlgorithm
from tests.policies import small

N_ENVS, N_STEPS, ROLLOUTS = 8, 6, 4

CASES: dict[str, tuple[type[RecurrentOnPolicyAlgorithm], str, dict[str, Any]]] = {
    "a2c": (RecurrentA2C, "mnm-p", {"learning_rate": 1e-3, "normalize_advantage": True}),
    "a2c, advantages as they are": (RecurrentA2C, "gru", {}),
    "ppo": (RecurrentPPO, "mnm-p", {"batch_size": N_STEPS * 4, "n_epochs": 2}),
    "ppo, cut sequences": (RecurrentPPO, "gru", {"batch_size": 2 * (N_STEPS // 2), "n_epochs": 2}),
    "ppo, stopped by its kl": (
        RecurrentPPO,
        "lstm",
        {"batch_size": None, "n_epochs": 20, "learning_rate": 0.02, "target_kl": 0.01},
    ),
}


class Noisy(gym.Env[Any, Any]):
    """Observes noise, is paid for the right side of it, in episodes of random lengths."""

    observation_space = gym.spaces.Box(-10, 10, (3,), np.float32)
    action_space = gym.spaces.Discrete(2)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self._observe()
        return self.observation, {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        reward = float(10 * self.observation[0] * (2 * action - 1) + 5)
        self._observe()
        return (
            self.observation,
            reward,
            bool(self.np_random.random() < 0.1),
            bool(self.np_random.random() < 0.1),
            {},
        )

    def _observe(self) -> None:
        self.observation = self.np_random.normal(size=3).astype(np.float32)


def trained(case: str, parts: int = 1, device: str = "cpu") -> dict[str, torch.Tensor]:
    """Parameters, statistics and the number of updates after some rollouts with this process's
    environments.

    Args:
        parts: of how many processes' minibatches each minibatch is to consist.
    """
    algorithm, policy, arguments = CASES[case]
    env = SyncVectorEnv(
        [Noisy] * distributed.share(N_ENVS, "the environments"),
        autoreset_mode=AutoresetMode.SAME_STEP,
    )
    model = small(algorithm, policy, env, n_steps=N_STEPS, seed=5, device=device, **arguments)
    act = model.policy._act
    model.policy._act = lambda latent, *_, **__: act(latent, deterministic=True)  # type: ignore[method-assign]
    if parts > 1 and arguments.get("batch_size"):
        model.batch_size = arguments["batch_size"] // parts  # type: ignore[attr-defined]
    model.learn(ROLLOUTS * N_ENVS * N_STEPS)
    assert model.num_timesteps == ROLLOUTS * N_ENVS * N_STEPS
    return {name: value.cpu() for name, value in model.policy.state_dict().items()} | {
        "updates": torch.tensor(model._n_updates)
    }


def in_order(n: int) -> Any:
    """In place of a random permutation."""
    return np.arange(n)


OF_ONE = RolloutSequence.minibatches


def of_two(rollout: RolloutSequence, size: int | None) -> Iterator[list[RolloutSequence]]:
    """The minibatches of two processes together, each of which has one half of the environments."""
    T, B = rollout.episode_starts.shape
    halves = []
    for envs in torch.arange(B).chunk(2):
        states = {
            t: type(state)(*(tensor[envs] for tensor in state))
            for t, state in rollout.states.items()
        }
        halves.append(rollout._piece(envs, 0, T)._replace(states=states))
    for pieces in zip(*(OF_ONE(half, size) for half in halves), strict=True):
        yield [piece for of_half in pieces for piece in of_half]


def main(directory: Path, device: str = "cpu") -> None:
    torch.set_num_threads(1)
    np.random.permutation = in_order
    distributed.join(device)
    results: dict[str, Any] = {case: trained(case, device=device) for case in CASES}
    results["drawn"] = (np.random.random(), torch.rand(()).item())  # noqa: NPY002
    torch.save(results, directory / f"{distributed.rank()}.pt")


if __name__ == "__main__":
    main(Path(sys.argv[1]), *sys.argv[2:])

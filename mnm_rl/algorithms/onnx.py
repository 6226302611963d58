"""A policy as an ONNX model of one step, which runs without PyTorch and without this library."""

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor, nn

from mnm_rl._version import __version__
from mnm_rl.algorithms.policies import RecurrentActorCriticPolicy
from mnm_rl.cores.core import make_state


class _Step(nn.Module):
    """The likeliest action, as tensors in and tensors out."""

    def __init__(self, policy: RecurrentActorCriticPolicy) -> None:
        super().__init__()
        self.policy = policy
        state = policy.actor_core.initial_state(1)
        self.like = state
        self.carried = [i for i, part in enumerate(state) if part.numel() > 0]

    def forward(self, observation: Any, episode_start: Tensor, *carried: Tensor) -> tuple[Tensor, ...]:
        policy, B = self.policy, episode_start.shape[0]
        parts = [part.new_zeros(B, *part.shape[1:]) for part in self.like]
        for i, part in zip(self.carried, carried, strict=True):
            parts[i] = part
        distribution, state = policy.get_distribution(observation, make_state(self.like, parts), episode_start)
        action = distribution.get_actions(deterministic=True)
        space = policy.action_space
        if isinstance(space, spaces.Box):
            low, high = (torch.from_numpy(bound).to(action) for bound in (space.low, space.high))
            action = action.reshape(-1, *space.shape)
            action = low + 0.5 * (action + 1) * (high - low) if policy.squash_output else action.clamp(low, high)
        return action, _parameters(distribution), *(state[i] for i in self.carried)


def _parameters(distribution: Any) -> Tensor:
    """The logits of choices, side by side, or the mean of a Gaussian."""
    dist = distribution.distribution
    if isinstance(dist, list):
        return torch.cat([part.logits for part in dist], dim=1)
    return dist.logits if hasattr(dist, "logits") else dist.mean  # type: ignore[no-any-return]


def export_onnx(policy: RecurrentActorCriticPolicy, path: str | Path) -> None:
    """Write one deterministic step of a policy; see :meth:`mnm_rl.RecurrentPPO.export` for inputs and outputs.

    Raises:
        ImportError: if ``onnx`` or ``onnxscript`` is not installed.
    """
    try:
        import onnx
        import onnxscript  # noqa: F401  (PyTorch's exporter needs it)
    except ImportError as error:
        raise ImportError(f"{error}; ONNX models are written with: pip install 'mnm-rl[onnx]'") from error
    step = _Step(policy).eval()
    B = 2  # torch.export takes a size of 1 for a constant
    observation, names = _example(policy.observation_space, B, policy.device)
    state = [step.like[i].detach() for i in step.carried]
    carried = tuple(torch.zeros(B, *part.shape[1:], dtype=part.dtype, device=part.device) for part in state)
    fields = getattr(step.like, "_fields", None) or [str(i) for i in range(len(step.like))]
    states = [f"state_{fields[i]}" for i in step.carried]
    batch = torch.export.Dim("batch")
    shapes = {key: {0: batch} for key in observation} if isinstance(observation, dict) else {0: batch}
    was_training = policy.training
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PyTorch's exporter warns of its own doings
        program = torch.onnx.export(
            step,
            (observation, torch.zeros(B, dtype=torch.bool, device=policy.device), *carried),
            input_names=[*names, "episode_start", *states],
            output_names=[
                "action",
                "mean" if isinstance(policy.action_space, spaces.Box) else "logits",
                *(f"new_{s}" for s in states),
            ],
            dynamic_shapes=(shapes, {0: batch}, tuple({0: batch} for _ in carried)),
            dynamo=True,
            verbose=False,
        )
    policy.set_training_mode(was_training)
    assert program is not None
    program.save(str(path))
    model = onnx.load(str(path))
    onnx.helper.set_model_props(model, {"producer": f"mnm_rl {__version__}", "policy": type(policy).__name__})
    onnx.save(model, str(path))


def _example(space: spaces.Space[Any], B: int, device: torch.device) -> tuple[Any, list[str]]:
    """Observations of B environments, and the names of the inputs that they are."""

    def batch(part: spaces.Space[Any]) -> Tensor:
        return torch.as_tensor(np.stack([np.asarray(part.sample())] * B), device=device)

    if isinstance(space, spaces.Dict):
        return {key: batch(part) for key, part in space.spaces.items()}, [f"observation_{key}" for key in space.spaces]
    return batch(space), ["observation"]

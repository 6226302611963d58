"""A policy as an ONNX model of one step, which runs without PyTorch and without this library."""

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor, nn

from mnm_rl._version import __version__
from mnm_rl.algorithms.checks import unchecked_distributions
from mnm_rl.algorithms.recurrent_policy import RecurrentActorCriticPolicy
from mnm_rl.cores.core import make_state


class _Step(nn.Module):
    """The likeliest action, as tensors in and tensors out."""

    def __init__(self, policy: RecurrentActorCriticPolicy) -> None:
        super().__init__()
        self.policy = policy
        state = policy.actor_core.initial_state(1)
        self.like = state
        self.carried = [i for i, part in enumerate(state) if part.numel() > 0]
        # asked before PyTorch's exporter puts methods of its own in place
        self.as_built = policy.predicts_as_built

    def forward(
        self, observation: Any, episode_start: Tensor, *carried: Tensor
    ) -> tuple[Tensor, ...]:
        policy, B = self.policy, episode_start.shape[0]
        parts = [part.new_zeros(B, *part.shape[1:]) for part in self.like]
        for i, part in zip(self.carried, carried, strict=True):
            parts[i] = part
        before = make_state(self.like, parts)
        distribution, state = policy.get_distribution(observation, before, episode_start)
        if self.as_built:
            action = distribution.get_actions(deterministic=True)
        else:
            action, state = policy._predict(observation, before, episode_start, deterministic=True)
        space = policy.action_space
        if isinstance(space, spaces.Box):
            low, high = (torch.from_numpy(bound).to(action) for bound in (space.low, space.high))
            action = action.reshape(-1, *space.shape)
            action = (
                low + 0.5 * (action + 1) * (high - low)
                if policy.squash_output
                else action.clamp(low, high)
            )
        return action, _parameters(distribution), *(state[i] for i in self.carried)


def _parameters(distribution: Any) -> Tensor:
    """The logits of choices, side by side, or the mean of a Gaussian."""
    dist = distribution.distribution
    if isinstance(dist, list):
        return torch.cat([part.logits for part in dist], dim=1)
    return dist.logits if hasattr(dist, "logits") else dist.mean  # type: ignore[no-any-return]


def export_onnx(policy: RecurrentActorCriticPolicy, path: str | Path) -> None:
    """Write one deterministic step of a policy; see :meth:`mnm_rl.RecurrentPPO.export` for inputs
    and outputs.

    The policy stays as it is, training mode included, and nothing random is drawn.

    Raises:
        ImportError: if ``onnx`` or ``onnxscript`` is not installed.
        IsADirectoryError: if the path is a directory.
        ValueError: if code of the user's own takes the number of environments for a constant.
    """
    try:
        import onnx
        import onnxscript  # noqa: F401  (PyTorch's exporter needs it)
    except ImportError as error:
        raise ImportError(
            f"{error}; ONNX models are written with: pip install 'mnm-rl[onnx]'"
        ) from error
    path = Path(path)
    if path.is_dir():
        raise IsADirectoryError(
            f"{path} is a directory, and the ONNX model is one file, such as {path / 'policy.onnx'}"
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    with _left_as_it_is(policy):
        program = _exported(_Step(policy).eval(), policy)
    program.save(str(path))
    model = onnx.load(str(path))
    for given in model.graph.input:
        if not given.type.tensor_type.shape.dim[0].dim_param:
            path.unlink()
            raise ValueError(
                f"the model would take one number of environments only, because of {given.name}: "
                "somewhere in the policy or its "
                "core a size is taken for a constant, as by len(tensor), where tensor.shape[0] "
                "would follow the batch"
            )
    onnx.helper.set_model_props(
        model, {"producer": f"mnm_rl {__version__}", "policy": type(policy).__name__}
    )
    onnx.save(model, str(path))


def _exported(step: _Step, policy: RecurrentActorCriticPolicy) -> torch.onnx.ONNXProgram:
    B = 2  # torch.export takes a size of 1 for a constant
    observation, names = _example(policy.observation_space, B, policy.device)
    state = [step.like[i].detach() for i in step.carried]
    carried = tuple(
        torch.zeros(B, *part.shape[1:], dtype=part.dtype, device=part.device) for part in state
    )
    fields = getattr(step.like, "_fields", None) or [str(i) for i in range(len(step.like))]
    states = [f"state_{fields[i]}" for i in step.carried]
    batch = torch.export.Dim("batch")
    shapes = (
        {key: {0: batch} for key in observation} if isinstance(observation, dict) else {0: batch}
    )
    with torch.no_grad(), unchecked_distributions(), _quiet():
        program = torch.onnx.export(
            step,
            (observation, torch.zeros(B, dtype=torch.bool, device=policy.device), *carried),
            input_names=[*names, "episode_start", *states],
            output_names=[
                "action",
                "action_mean" if isinstance(policy.action_space, spaces.Box) else "logits",
                *(f"new_{s}" for s in states),
            ],
            dynamic_shapes=(shapes, {0: batch}, tuple({0: batch} for _ in carried)),
            dynamo=True,
            verbose=False,
        )
    assert program is not None
    return program


@contextmanager
def _left_as_it_is(policy: RecurrentActorCriticPolicy) -> Iterator[None]:
    """Whatever a step leaves behind on the policy's modules and on its distribution, such as noise
    and diagnostics, would be tensors without numbers: put back what was there, training mode
    included."""
    owners = [*policy.modules(), policy.action_dist]
    before = [
        {
            name: dict(part) if type(part) is dict and not name.startswith("_") else part
            for name, part in vars(owner).items()
        }
        for owner in owners
    ]
    try:
        yield
    finally:
        for owner, attributes in zip(owners, before, strict=True):
            vars(owner).clear()
            vars(owner).update(attributes)


@contextmanager
def _quiet() -> Iterator[None]:
    """PyTorch's exporter warns and logs of its own doings."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


def _example(space: spaces.Space[Any], B: int, device: torch.device) -> tuple[Any, list[str]]:
    """Observations of B environments, and the names of the inputs that they are."""

    def batch(part: spaces.Space[Any]) -> Tensor:
        return torch.as_tensor(np.zeros((B, *(part.shape or ())), part.dtype), device=device)

    if isinstance(space, spaces.Dict):
        return {key: batch(part) for key, part in space.spaces.items()}, [
            f"observation_{key}" for key in space.spaces
        ]
    return batch(space), ["observation"]

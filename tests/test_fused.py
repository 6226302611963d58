"""The fused path gives what plain PyTorch gives: outputs, states and every gradient."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from mnm_rl import LstmCore, MnmCore, PlasticCore, RecurrentCore
from mnm_rl.cores.plastic import PlasticRule

F, D, T, B = 3, 20, 40, 5


def plastic(rule: PlasticRule) -> PlasticCore:
    """A core whose trace gets clipped."""
    core = PlasticCore(F, D, rule)
    for parameter in core.parameters():
        parameter.data = torch.randn_like(parameter)
    core.w.data /= D  # not chaotic
    core.alpha.data /= D
    if rule != "modulated":
        core.eta.data.fill_(0.6)
    return core


CORES: dict[str, Callable[[], RecurrentCore[Any]]] = {
    **{
        f"mnm-{rule}, {heads} heads, {layers} layers": lambda rule=rule, heads=heads, layers=layers: MnmCore(
            F, D, write_rule=rule, heads=heads, memory_layers=layers
        )
        for rule in "gp"
        for heads in (1, 4)
        for layers in (1, 3)
    },
    "mnm-p, key feedback, fixed start": lambda: MnmCore(F, D, heads=2, feedback_inputs="key_value", learn_initial_memory=False),
    **{rule: lambda rule=rule: plastic(rule) for rule in ("hebb", "decay", "oja", "modulated", "retroactive")},
    "lstm": lambda: LstmCore(F, D),
}
TOLERANCE = {torch.float32: 1e-4, torch.float64: 1e-9}


@pytest.fixture(params=CORES)
def core(request: pytest.FixtureRequest) -> RecurrentCore[Any]:
    return CORES[request.param]()


def sequence(core: RecurrentCore[Any], dtype: torch.dtype) -> tuple[Tensor, Any, Tensor]:
    """Inputs, a state in the middle of an episode, and episode starts of which some are in the middle."""
    core.to(dtype)
    inputs, starts = torch.randn(T, B, F, dtype=dtype), torch.rand(T, B) < 0.2
    starts[0] = torch.arange(B) % 2 == 0
    core.path = "plain"
    with torch.no_grad():
        state = core(inputs, core.initial_state(B), starts)[1]
    return inputs, state, starts


def everything(core: RecurrentCore[Any], run: Callable[[Any, Any], tuple[Tensor, Any, Tensor]], inputs: Tensor, state: Any) -> Any:
    """Outputs, last state and meta-loss, and the gradients of an arbitrary function of them with respect to everything."""
    inputs = inputs.clone().requires_grad_()
    state = type(state)(*(tensor.clone().requires_grad_() for tensor in state))
    outputs, last, meta_loss = run(inputs, state)
    generator = torch.Generator().manual_seed(0)
    results = {"outputs": outputs, "meta_loss": meta_loss} | {f"last {name}": t for name, t in last._asdict().items()}
    leaves = {"inputs": inputs} | {f"first {n}": t for n, t in state._asdict().items()} | dict(core.named_parameters())
    loss = sum((r * torch.randn(r.shape, generator=generator, dtype=r.dtype)).sum() for r in results.values() if r.requires_grad)
    gradients = torch.autograd.grad(loss, list(leaves.values()), allow_unused=True)  # type: ignore[arg-type]
    return results | {f"gradient of {name}": g for name, g in zip(leaves, gradients, strict=True) if g is not None and g.any()}


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
def test_the_fused_path_equals_the_plain_path(core: RecurrentCore[Any], dtype: torch.dtype) -> None:
    inputs, first, starts = sequence(core, dtype)
    results = {}
    for core.path in ("plain", "fused"):
        results[core.path] = everything(core, lambda x, state: core(x, state, starts), inputs, first)
    assert_close(results["fused"], results["plain"], dtype)


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
def test_recorded_steps_have_the_gradient_of_the_sequence(core: RecurrentCore[Any], dtype: torch.dtype) -> None:
    inputs, first, starts = sequence(core, dtype)

    def step_by_step(inputs: Tensor, state: Any) -> tuple[Tensor, Any, Tensor]:
        recording = core.record(state, T)
        steps = [recording.step(x, start) for x, start in zip(inputs.detach(), starts, strict=True)]
        outputs, meta_loss = recording.replay(inputs, starts)
        torch.testing.assert_close(torch.stack(steps), outputs.detach())
        return outputs, type(state)(*(tensor.detach() for tensor in recording.state)), meta_loss

    def at_once(inputs: Tensor, state: Any) -> tuple[Tensor, Any, Tensor]:
        outputs, last, meta_loss = core(inputs, state, starts)
        return outputs, type(state)(*(tensor.detach() for tensor in last)), meta_loss

    core.path = "fused"
    recorded = everything(core, step_by_step, inputs, first)
    core.path = "plain"
    assert_close(recorded, everything(core, at_once, inputs, first), dtype)


def assert_close(actual: dict[str, Tensor], expected: dict[str, Tensor], dtype: torch.dtype) -> None:
    assert actual.keys() == expected.keys()
    for name, value in expected.items():
        if value.numel():
            assert (actual[name] - value).abs().max() <= TOLERANCE[dtype] * value.abs().max(), name

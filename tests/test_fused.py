"""The fused path gives what plain PyTorch gives: outputs, states and every gradient."""

import subprocess
import sys
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from mnm_rl import (
    GruCore,
    LstmCore,
    MnmCore,
    NtmCore,
    PlasticCore,
    RecurrentCore,
    RnnCore,
)
from mnm_rl.cores.implementations import PathName
from mnm_rl.cores.plastic import PlasticRule
from mnm_rl.kernels import simd
from mnm_rl.kernels.stepper import ROOM

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


def large(core: MnmCore) -> MnmCore:
    """A core with activations of norms above one, and with a gate and feedback maps at work."""
    core.memory.theta_0.data *= 3
    for parameter in core.memory.rule.parameters():
        parameter.data.normal_()
    assert core.read_gate is not None
    core.read_gate.weight.data.normal_()
    return core


def forgetful(core: MnmCore) -> MnmCore:
    """A core that often forgets almost all."""
    assert core.retention is not None
    core.retention.weight.data.normal_(std=4)
    core.retention.bias.data.zero_()
    return core


CORES: dict[str, Callable[[], RecurrentCore[Any]]] = {
    **{
        f"mnm-{rule}, {heads} heads, {layers} layers": partial(
            MnmCore, F, D, write_rule=rule, heads=heads, memory_layers=layers
        )
        for rule in "gp"
        for heads in (1, 4)
        for layers in (1, 3)
    },
    **{
        f"mnm-{rule}-paper, {heads} heads": partial(
            MnmCore, F, D, write_rule=rule, heads=heads, variant="paper"
        )
        for rule in "gp"
        for heads in (1, 4)
    },
    "mnm-p, large activations": lambda: large(MnmCore(F, D, heads=2)),
    "mnm-g, large activations": lambda: large(MnmCore(F, D, write_rule="g", heads=2)),
    "deltanet, a gate": lambda: MnmCore(
        F, D, write_rule="delta", memory_layers=1, read_gate="scalar"
    ),
    **{
        f"deltanet, {heads} heads": lambda heads=heads: MnmCore(
            F, D, write_rule="delta", heads=heads, memory_layers=1
        )
        for heads in (1, 4)
    },
    **{
        f"gated deltanet, {heads} heads": lambda heads=heads: forgetful(
            MnmCore(F, D, write_rule="gated-delta", heads=heads, read_gate="scalar")
        )
        for heads in (1, 4)
    },
    "gated deltanet, no writes": lambda: MnmCore(F, D, write_rule="gated-delta", writes=False),
    "gated deltanet, a narrow memory": lambda: MnmCore(
        F, D, write_rule="gated-delta", memory_size=5
    ),
    "mnm-p, key feedback, fixed start": lambda: MnmCore(
        F, D, heads=2, feedback_inputs="key_value", learn_initial_memory=False
    ),
    "mnm-p, a narrow memory": lambda: MnmCore(
        F, D, heads=2, feedback_inputs="key_value", memory_size=7
    ),
    "mnm-p, no writes": lambda: MnmCore(F, D, writes=False),
    "mnm-g, a wide memory": lambda: MnmCore(F, D, write_rule="g", heads=2, memory_size=40),
    "deltanet, a narrow memory": lambda: MnmCore(
        F, D, write_rule="delta", memory_layers=1, memory_size=5
    ),
    **{
        rule: lambda rule=rule: plastic(rule)
        for rule in ("hebb", "decay", "oja", "modulated", "retroactive")
    },
    "lstm": lambda: LstmCore(F, D),
    "gru": lambda: GruCore(F, D),
    "ntm": lambda: NtmCore(F, D, slots=7, width=5),
    "ntm, one slot": lambda: NtmCore(F, D, slots=1, width=20),
    "ntm, PyTorch's weights": lambda: NtmCore(F, D, slots=3, width=16, init="pytorch"),
}
TOLERANCE = {torch.float32: 1e-4, torch.float64: 1e-9}


@pytest.fixture(params=CORES)
def core(request: pytest.FixtureRequest) -> RecurrentCore[Any]:
    return CORES[request.param]()


def test_true_is_one_head() -> None:
    """As a description in JSON may say."""
    core = MnmCore(F, D, heads=True)
    assert core(torch.randn(T, B, F), core.initial_state(B), torch.zeros(T, B, dtype=torch.bool))[
        0
    ].shape == (T, B, D)


def sequence(core: RecurrentCore[Any], dtype: torch.dtype) -> tuple[Tensor, Any, Tensor]:
    """Inputs, a state in the middle of an episode, and episode starts of which some are in the
    middle."""
    core.to(dtype)
    inputs, starts = torch.randn(T, B, F, dtype=dtype), torch.rand(T, B) < 0.2
    starts[0] = torch.arange(B) % 2 == 0
    core.path = "plain"
    with torch.no_grad():
        state = core(inputs, core.initial_state(B), starts)[1]
    return inputs, state, starts


def everything(
    core: RecurrentCore[Any],
    run: Callable[[Any, Any], tuple[Tensor, Any, Tensor]],
    inputs: Tensor,
    state: Any,
) -> Any:
    """Outputs, last state and meta-loss, and the gradients of an arbitrary function of them with
    respect to everything."""
    inputs = inputs.clone().requires_grad_()
    state = type(state)(*(tensor.clone().requires_grad_() for tensor in state))
    outputs, last, meta_loss = run(inputs, state)
    generator = torch.Generator().manual_seed(0)
    results = {"outputs": outputs, "meta_loss": meta_loss} | {
        f"last {name}": t for name, t in last._asdict().items()
    }
    leaves = (
        {"inputs": inputs}
        | {f"first {n}": t for n, t in state._asdict().items()}
        | dict(core.named_parameters())
    )
    loss = sum(
        (r * torch.randn(r.shape, generator=generator, dtype=r.dtype)).sum()
        for r in results.values()
        if r.requires_grad
    )
    gradients = torch.autograd.grad(loss, list(leaves.values()), allow_unused=True)  # type: ignore[arg-type]
    return results | {
        f"gradient of {name}": g
        for name, g in zip(leaves, gradients, strict=True)
        if g is not None and g.any()
    }


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
def test_the_fused_path_equals_the_plain_path(core: RecurrentCore[Any], dtype: torch.dtype) -> None:
    inputs, first, starts = sequence(core, dtype)
    results = {}
    for core.path in ("plain", "fused"):
        results[core.path] = everything(
            core, lambda x, state: core(x, state, starts), inputs, first
        )
    assert_close(results["fused"], results["plain"], dtype)


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("scale", [1e-30, 1e4, 1e8])
def test_the_paths_are_equal_at_inputs_of_any_size(
    core: RecurrentCore[Any], scale: float, dtype: torch.dtype
) -> None:
    """An input of 1e8 is what the derivative of a saturated gate is multiplied by, which therefore
    is zero."""
    inputs, first, starts = sequence(core, dtype)
    inputs, starts = scale * inputs[:10], starts[:10]
    results = {}
    for core.path in ("plain", "fused"):
        results[core.path] = everything(
            core, lambda x, state: core(x, state, starts), inputs, first
        )
    # A gate that happens not to be saturated sees its sum rounded by so much; by more than a gate's
    # range, there is none.
    rounding = 4 * scale * torch.finfo(dtype).eps
    tolerance = TOLERANCE[dtype] + (rounding if rounding < 1 else 0)
    zero = torch.zeros(())
    for name in results["plain"].keys() | results["fused"].keys():
        actual, expected = (results[path].get(name, zero) for path in ("fused", "plain"))
        if expected.numel():
            assert (actual - expected).abs().max() <= tolerance * max(
                1.0, expected.abs().max().item()
            ), name


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
def test_recorded_steps_have_the_gradient_of_the_sequence(
    core: RecurrentCore[Any], dtype: torch.dtype
) -> None:
    inputs, first, starts = sequence(core, dtype)

    def step_by_step(inputs: Tensor, state: Any) -> tuple[Tensor, Any, Tensor]:
        recording = core.record(state, T)
        stepper = recording.stepper
        steps = [stepper.step(x, start) for x, start in zip(inputs.detach(), starts, strict=True)]
        outputs, meta_loss = recording.replay(inputs, starts)
        torch.testing.assert_close(torch.stack(steps), outputs.detach())
        return outputs, type(state)(*(tensor.detach() for tensor in stepper.state())), meta_loss

    def at_once(inputs: Tensor, state: Any) -> tuple[Tensor, Any, Tensor]:
        outputs, last, meta_loss = core(inputs, state, starts)
        return outputs, type(state)(*(tensor.detach() for tensor in last)), meta_loss

    core.path = "fused"
    recorded = everything(core, step_by_step, inputs, first)
    core.path = "plain"
    assert_close(recorded, everything(core, at_once, inputs, first), dtype)


def assert_close(
    actual: dict[str, Tensor], expected: dict[str, Tensor], dtype: torch.dtype
) -> None:
    assert actual.keys() == expected.keys()
    for name, value in expected.items():
        if value.numel():
            assert (actual[name] - value).abs().max() <= TOLERANCE[dtype] * value.abs().max(), name


def longer(
    core: RecurrentCore[Any], T: int, dtype: torch.dtype = torch.float32
) -> dict[str, Tensor]:
    """The gradients of a long sequence, by the core's path."""
    core.to(dtype).zero_grad()
    generator = torch.Generator().manual_seed(1)
    inputs = torch.randn(T, B, F, generator=generator).to(dtype)
    starts = torch.zeros(T, B, dtype=torch.bool)
    starts[T // 2, 0] = True
    outputs, _, meta_loss = core(inputs, core.initial_state(B), starts)
    (outputs.pow(2).mean() + meta_loss.mean()).backward()
    return {name: p.grad.double() for name, p in core.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("rule", ["g", "p", "delta", "gated-delta"])
def test_undoing_a_thousand_writes_does_not_drift(rule: str) -> None:
    core = MnmCore(F, 32, write_rule=rule, heads=2)  # type: ignore[arg-type]
    core.path = "fused"
    fused = longer(core, T=1000)
    core.path = "plain"
    exact = longer(core, T=1000, dtype=torch.float64)
    plain = longer(core, T=1000)

    def error(of: dict[str, Tensor]) -> float:
        return max(((of[name] - g).norm() / g.norm()).item() for name, g in exact.items())

    assert error(fused) < 1e-4
    assert error(fused) < 10 * error(plain)  # it loses no more than rounding does anyway


def test_what_a_step_keeps_grows_with_the_width_not_with_its_square() -> None:
    def kept(D: int, T: int) -> int:
        core = MnmCore(F, D, heads=2)
        stepper: Any = core.record(core.initial_state(4), T).stepper
        return sum(array.nbytes for array in stepper.steps.saved)

    per_step = [(kept(D, 20) - kept(D, 10)) / 10 for D in (64, 128, 256)]
    assert per_step[2] - per_step[1] == 2 * (per_step[1] - per_step[0])
    # environments, bytes, D: sixty vectors a step, for two heads and three layers
    assert per_step[2] < 4 * 4 * 256 * 60


def test_gated_writes_keep_fast_weights_as_rarely_as_half_of_them_is_forgotten() -> None:
    core = MnmCore(F, D, write_rule="gated-delta")
    assert core.retention is not None
    core.retention.weight.data.zero_()  # alpha is 0.98 at every step
    stepper: Any = core.record(core.initial_state(2), 100).stepper
    for x in torch.randn(100, 2, F):
        stepper.step(x, torch.zeros(2, dtype=torch.bool))
    kept = stepper.steps.saved.kept.any(axis=(2, 3, 4))
    assert [np.flatnonzero(row).tolist() for row in kept.T] == [[34, 69]] * 2  # 0.98^35 < 1/2


@pytest.mark.parametrize("changed", ["parameters", "inputs"])
def test_a_recording_runs_again_what_has_changed(
    core: RecurrentCore[Any],
    changed: str,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("mnm_rl.cores.implementations._logged", set())
    inputs, state, starts = sequence(core, torch.float64)
    core.path = "fused"
    recording = core.record(state, T)
    for x, start in zip(inputs, starts, strict=True):
        recording.stepper.step(x, start)
    if changed == "parameters":
        for parameter in core.parameters():
            parameter.data.mul_(1.1)  # not seen by PyTorch's version counters
    else:
        inputs = inputs + 0.1
    outputs, _, meta_loss = core(inputs, state, starts)
    with caplog.at_level("INFO", "mnm_rl"):
        again, loss_again = recording.replay(inputs, starts)
        recording.replay(inputs, starts)
    assert torch.equal(again, outputs)
    assert torch.equal(loss_again, meta_loss)
    assert [record.message for record in caplog.records if changed in record.message] == [
        f"the steps of a rollout are run again for its gradient, since the core's {changed} "
        "changed after it"
    ]


def test_what_a_stepper_gives_is_a_value(core: RecurrentCore[Any]) -> None:
    inputs, state, starts = sequence(core, torch.float32)
    core.path = "fused"
    stepper = core.stepper(state)
    before = (stepper.step(inputs[0], starts[0]), *stepper.state())
    copies = [tensor.clone() for tensor in before]
    stepper.step(inputs[1], starts[1])
    assert all(torch.equal(tensor, copy) for tensor, copy in zip(before, copies, strict=True))
    rows = torch.tensor([1, 3])
    assert all(
        torch.equal(some, every[rows])
        for some, every in zip(stepper.state(rows), stepper.state(), strict=True)
    )


def test_a_stepper_is_a_recording_that_keeps_nothing(core: RecurrentCore[Any]) -> None:
    """The same outputs and states to the bit, in room that does not grow."""
    _, state, _ = sequence(core, torch.float32)
    core.path = "fused"
    steps = 3 * ROOM + 2
    stepper: Any = core.stepper(state)
    recording: Any = core.record(state, steps).stepper
    assert nbytes(stepper) < nbytes(recording) / 2
    x = torch.empty(B, F)  # an environment may use its array again
    for t in range(steps):
        x.normal_()
        start = torch.tensor([t % (11 + b) == 5 for b in range(B)])
        before = stepper.state()
        assert torch.equal(stepper.step(x, start), recording.step(x, start))
        assert all(map(torch.equal, stepper.state(), recording.state()))
        if t % 9 == 0 or t % ROOM in (0, 1, ROOM - 1):
            x.fill_(torch.nan)
            torch.testing.assert_close(tuple(stepper.state_after(t)), tuple(before))


def nbytes(stepper: Any) -> int:
    """Of what a stepper writes on its way."""
    return sum(array.nbytes for array in stepper.steps.saved)


@pytest.mark.parametrize("poison", [1.0, float("nan")])
def test_a_batch_leaves_nothing_behind_for_a_smaller_one(
    core: RecurrentCore[Any], poison: float
) -> None:
    """Batches of 5 and of 7 are padded to the same shape."""
    core.double()
    core.path = "fused"
    inputs = torch.randn(T, 5, F, dtype=torch.float64)

    def gradients(inputs: Tensor) -> Any:
        core.zero_grad()
        starts = torch.zeros(inputs.shape[:2], dtype=torch.bool)
        outputs, _, meta_loss = core(inputs, core.initial_state(inputs.shape[1]), starts)
        (outputs.sum() + meta_loss.sum()).backward()
        return [p.grad for p in core.parameters() if p.grad is not None]

    before = gradients(inputs)
    for _ in range(3):
        gradients(poison * torch.randn(T, 7, F, dtype=torch.float64))
    torch.testing.assert_close(gradients(inputs), before, rtol=1e-9, atol=1e-12)


def test_results_changed_before_the_backward_pass_are_noticed(core: RecurrentCore[Any]) -> None:
    core.path = "fused"
    outputs, state, _ = core(
        torch.randn(T, B, F), core.initial_state(B), torch.zeros(T, B, dtype=torch.bool)
    )
    with torch.no_grad():
        state[0].zero_()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        outputs.sum().backward()


def test_a_late_backward_pass_is_not_disturbed_by_what_ran_since(core: RecurrentCore[Any]) -> None:
    """The memory of a recording is used again only when nobody can go back through it any more."""
    inputs, state, starts = sequence(core, torch.float64)
    core.path = "fused"
    parameters = [p for p in core.parameters() if p.requires_grad]

    def gradients(late: bool) -> Any:
        recording = core.record(state, T)
        for x, start in zip(inputs, starts, strict=True):
            recording.stepper.step(x, start)
        outputs, meta_loss = recording.replay(inputs, starts)
        loss = outputs.pow(2).sum() + meta_loss.sum()
        del recording, outputs, meta_loss
        if late:
            for _ in range(3):
                core(inputs.flip(0), state, starts)[0].sum().backward()
        return torch.autograd.grad(loss, parameters, allow_unused=True)

    for late, at_once in zip(gradients(late=True), gradients(late=False), strict=True):
        assert late is at_once is None or torch.equal(late, at_once)


def test_two_threads_give_what_one_gives(core: RecurrentCore[Any]) -> None:
    inputs, state, starts = sequence(core, torch.float32)
    core.path = "fused"
    results = []
    for threads in (1, 2):
        torch.set_num_threads(threads)
        try:
            results.append(core(inputs, state, starts))
        finally:
            torch.set_num_threads(1)
    assert torch.equal(results[0][0], results[1][0])
    assert all(torch.equal(a, b) for a, b in zip(results[0][1], results[1][1], strict=True))


def test_gradients_can_be_taken_twice_from_one_pass(core: RecurrentCore[Any]) -> None:
    inputs, state, starts = sequence(core, torch.float64)
    core.path = "fused"
    loss = core(inputs, state, starts)[0].pow(2).sum()
    parameters = [p for p in core.parameters() if p.requires_grad]
    once, twice = (
        torch.autograd.grad(loss, parameters, retain_graph=True, allow_unused=True)
        for _ in range(2)
    )
    assert all(a is b is None or torch.equal(a, b) for a, b in zip(once, twice, strict=True))


def test_what_is_changed_before_the_backward_pass_is_noticed() -> None:
    core = LstmCore(F, D)
    outputs, _, _ = core(
        torch.randn(T, B, F), core.initial_state(B), torch.zeros(T, B, dtype=torch.bool)
    )
    with torch.no_grad():
        core.cell.weight_hh.mul_(2)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        outputs.sum().backward()


@pytest.mark.parametrize("path", ["fused", "plain"])
def test_inputs_that_do_not_fit_are_refused_on_either_path(
    core: RecurrentCore[Any], path: PathName
) -> None:
    core.path = path
    starts = torch.zeros(T, B, dtype=torch.bool)
    for wrong in (
        torch.randn(T, B, F - 1),
        torch.randn(T, B, F + 1),
        torch.randn(T, B, F, dtype=torch.float64),
    ):
        with pytest.raises((ValueError, RuntimeError)):
            core(wrong, core.initial_state(B), starts)
    state = core.initial_state(B)
    with pytest.raises((ValueError, RuntimeError)):
        core(torch.randn(T, B, F), type(state)(*(tensor.double() for tensor in state)), starts)


def test_the_path_can_be_chosen_and_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    core = MnmCore(F, D)
    assert "path=fused" in repr(core)
    core.path = "plain"
    assert "path=plain: asked for" in repr(core)
    core.path = "auto"
    assert "float32 and float64" in repr(core.to(torch.bfloat16))
    core.path = "fused"
    with pytest.raises(RuntimeError, match="float32 and float64"):
        core(torch.randn(T, B, F), core.initial_state(B), torch.zeros(T, B, dtype=torch.bool))
    assert "replay" in repr(MnmCore(F, D, replay=2))
    assert "no fused path" in repr(RnnCore(F, D))
    monkeypatch.setattr("mnm_rl.kernels.numba_problem", lambda: "Numba cannot be used here")
    assert "Numba cannot be used here" in repr(LstmCore(F, D))


def test_a_subclass_runs_its_own_equations_and_nobody_elses_kernel() -> None:
    class Doubled(LstmCore):
        def step(self, x: Tensor, state: Any) -> Any:
            output, state, meta_loss = super().step(x, state)
            return 2 * output, state, meta_loss

    core = Doubled(F, D)
    inputs, starts = torch.randn(T, B, F), torch.zeros(T, B, dtype=torch.bool)
    expected = LstmCore(F, D)
    expected.load_state_dict(core.state_dict())
    torch.testing.assert_close(
        core(inputs, core.initial_state(B), starts)[0],
        2 * expected(inputs, core.initial_state(B), starts)[0],
    )
    assert "there is no fused path for Doubled" in repr(core)


def test_without_numba_everything_runs_in_plain_pytorch() -> None:
    code = """
import sys
sys.modules["numba"] = None  # as if it were not installed
import torch
from mnm_rl import RecurrentA2C
model = RecurrentA2C("MnmPolicy", "CartPole-v1", policy_kwargs={"hidden_size": 8}).learn(20)
print(model.policy.core.why_plain())
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "Numba cannot be used here" in done.stdout


def test_tanh_of_the_kernels() -> None:
    x = np.linspace(-20, 20, 400_001, dtype=np.float32)
    y = x.copy()
    simd.tanh_(y)
    assert np.abs(y - np.tanh(x.astype(np.float64))).max() < 5e-7
    special = np.array([np.nan, np.inf, -np.inf, 0], dtype=np.float32)
    simd.tanh_(special)
    np.testing.assert_allclose(special, [np.nan, 1, -1, 0], atol=5e-7)


@given(K=st.integers(1, 40), N=st.integers(1, 9), S=st.integers(1, 11))
def test_matrix_product_of_the_kernels(K: int, N: int, S: int) -> None:
    random = np.random.default_rng(0)
    y, x, M = (random.normal(size=size) for size in ((S, 16 * N), (S, K), (K, 16 * N)))
    expected = y + x @ M
    simd.add_product(y, x, M)
    np.testing.assert_allclose(y, expected, rtol=1e-12, atol=1e-12)


def test_a_network_that_diverges_shows_it() -> None:
    core = MnmCore(F, D)
    inputs = torch.randn(T, B, F)
    inputs[3, 1] = torch.nan
    outputs, _, meta_loss = core(inputs, core.initial_state(B), torch.zeros(T, B, dtype=torch.bool))
    assert outputs[3:, 1].isnan().all()
    assert meta_loss[3:, 1].isnan().all()
    assert outputs[:, 0].isfinite().all()

"""The adjoint of a write and a read, and the memory that is differentiated with it: what autograd
gives, in constant memory."""

import gc
import weakref
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks

from mnm_rl import MnmCore, NeuralMemory
from mnm_rl.cores.mnm import VARIANTS, VariantName
from mnm_rl.memory import PlainMemory, ReversibleMemory, RunningMemory
from mnm_rl.memory.adjoint import write_and_read, write_and_read_backward
from mnm_rl.memory.rules import WRITE_RULES, of_one_layer

RULES_AND_LAYERS = [
    (rule, layers) for rule in WRITE_RULES for layers in ((1,) if of_one_layer(rule) else (1, 3))
]
T, B, D, F = 12, 4, 5, 3


def random_step(memory: NeuralMemory, heads: int, reads: int, B: int = B) -> list[Tensor]:
    """Keys, values, beta and read keys, and the fast weights before, as leaves."""
    D = memory.size
    shapes = [(B, heads, D), (B, heads, D), (B,), (B, reads, D), (B, memory.layers, D, D)]
    return [torch.randn(shape, dtype=torch.float64).requires_grad_() for shape in shapes]


def gate(memory: NeuralMemory, B: int = B) -> list[Tensor]:
    """A share alpha that stays, if the rule has one."""
    return [torch.rand(B, dtype=torch.float64).requires_grad_()] if memory.rule.gated else []


@pytest.mark.parametrize(("rule", "layers"), RULES_AND_LAYERS)
@pytest.mark.parametrize("heads", [1, 3])
@pytest.mark.parametrize("bounded", [True, False])
@pytest.mark.parametrize("scale", [0.3, 3.0])
def test_the_adjoint_is_what_autograd_gives(
    rule: Any, layers: int, heads: int, bounded: bool, scale: float
) -> None:
    memory = NeuralMemory(D, layers, rule, bounded=bounded, init="pytorch").double()
    keys, values, beta, read_keys, theta_before = (
        x.detach() for x in random_step(memory, heads, reads=2)
    )
    theta_before *= scale  # activations of a norm below and above one
    prepared = (*memory.prepare_write(keys, values, beta), read_keys, *gate(memory), theta_before)
    given = [x.detach().requires_grad_() for x in prepared]
    theta, read, kept = write_and_read(memory.rule, given[-1].unbind(1), *given[:-1])
    G, g_read = torch.randn_like(theta_before), torch.randn_like(read)
    expected = torch.autograd.grad([torch.stack(theta, 1), read], given, [G, g_read])

    for known in (None, theta_before.unbind(1)):
        with torch.no_grad():
            before, G_before, gradients = write_and_read_backward(
                memory.rule, theta, G.unbind(1), g_read, kept, known
            )
        found = [g for g in gradients if g is not None]
        torch.testing.assert_close(torch.stack(before, 1), theta_before)
        torch.testing.assert_close(
            (*found, torch.stack(G_before, 1)), expected, rtol=1e-9, atol=1e-12
        )


@pytest.mark.parametrize(("rule", "layers"), RULES_AND_LAYERS)
@pytest.mark.parametrize("bounded", [True, False])
def test_a_reversible_write_and_read_passes_gradcheck(
    rule: Any, layers: int, bounded: bool
) -> None:
    memory = NeuralMemory(3, layers, rule, bounded=bounded).double()
    starts = torch.tensor([False, True])

    alpha = gate(memory, B=2)

    def write_reset_write(
        keys: Tensor, values: Tensor, beta: Tensor, read_keys: Tensor, theta: Tensor, *rest: Tensor
    ) -> Any:
        running, share = ReversibleMemory(memory, theta), rest[: len(alpha)]
        first = running.write_and_read(keys, values, beta, read_keys, *share)
        running.reset(starts)
        return first, running.write_and_read(values, keys, beta, read_keys, *share), running.theta()

    step = random_step(memory, heads=2, reads=1, B=2)
    assert torch.autograd.gradcheck(write_reset_write, (*step, *alpha, *memory.parameters()))


def sequence(core: MnmCore, dtype: torch.dtype, T: int = T) -> tuple[Tensor, Any, Tensor]:
    """Inputs, a state in the middle of an episode, and episode starts of which some are in the
    middle."""
    core.to(dtype)
    inputs, starts = torch.randn(T, B, F, dtype=dtype), torch.rand(T, B) < 0.2
    starts[0] = torch.arange(B) % 2 == 0
    with torch.no_grad():
        state = core.scan(inputs, core.initial_state(B), starts, PlainMemory)[1]
    return inputs, state, starts


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize(("rule", "layers"), RULES_AND_LAYERS)
@pytest.mark.parametrize("heads", [1, 4])
@pytest.mark.parametrize("replay", [0, 2])
@pytest.mark.parametrize("variant", VARIANTS)
def test_a_reversible_sequence_equals_the_plain_one(
    rule: Any, layers: int, heads: int, replay: int, dtype: torch.dtype, variant: VariantName
) -> None:
    core = MnmCore(F, D, rule, layers, heads, replay, feedback_inputs="key_value", variant=variant)
    inputs, first, starts = sequence(core, dtype)

    def everything(running_memory: type[RunningMemory]) -> dict[str, Tensor | None]:
        """Results, and the gradients of arbitrary functions of them: of all, of all but the last
        state, of an early output."""
        x, state = (
            inputs.clone().requires_grad_(),
            type(first)(*(tensor.clone().requires_grad_() for tensor in first)),
        )
        outputs, last, meta_loss = core.scan(x, state, starts, running_memory)
        generator = torch.Generator().manual_seed(0)
        results = {"outputs": outputs, "meta_loss": meta_loss} | {
            f"last {name}": t for name, t in last._asdict().items()
        }
        leaves = (
            {"inputs": x}
            | {f"first {name}": t for name, t in state._asdict().items()}
            | dict(core.named_parameters())
        )
        terms = [
            (r * torch.randn(r.shape, generator=generator, dtype=dtype)).sum()
            for r in results.values()
        ]
        losses = {
            "all": sum(terms),
            "all but the last state": sum(terms[:2]),
            "an early output": outputs[3].sum(),
        }
        gradients: dict[str, Tensor | None] = {}
        for what, loss in losses.items():
            found = torch.autograd.grad(
                loss, list(leaves.values()), retain_graph=True, allow_unused=True
            )  # type: ignore[arg-type]
            gradients |= {
                f"of {what} with respect to {name}": g
                for name, g in zip(leaves, found, strict=True)
            }
        return results | gradients

    plain, reversible = everything(PlainMemory), everything(ReversibleMemory)
    for name, expected in plain.items():
        actual = reversible[name]
        # no path, or one that only a mask cuts
        if expected is None or actual is None or not expected.any():
            assert all(tensor is None or not tensor.any() for tensor in (expected, actual)), name
        else:
            tolerance = 1e-4 if dtype == torch.float32 else 1e-9
            assert (actual - expected).abs().max() <= tolerance * expected.abs().max(), name


def test_a_fixed_initial_memory_and_a_constant_state_are_no_obstacle() -> None:
    core = MnmCore(F, D, learn_initial_memory=False)
    inputs, state, starts = sequence(core, torch.float64)
    gradients = []
    for running_memory in (PlainMemory, ReversibleMemory):
        outputs, _, meta_loss = core.scan(inputs, state, starts, running_memory)
        gradients.append(
            torch.autograd.grad(outputs.sum() + meta_loss.sum(), list(core.parameters()))
        )
    torch.testing.assert_close(gradients[1], gradients[0])


def test_a_second_backward_pass_gives_the_same_gradients_wherever_the_first_one_ended() -> None:
    core = MnmCore(F, D)
    inputs, state, starts = sequence(core, torch.float64)
    x = [step.requires_grad_() for step in inputs.unbind(0)]
    outputs, _, _ = core.scan(torch.stack(x), state, starts, ReversibleMemory)

    def gradient(of: int) -> Tensor:
        return torch.autograd.grad(outputs[of].sum(), x[3], retain_graph=True)[0]

    first = [gradient(of) for of in (T - 1, 7, 3)]
    again = [gradient(of) for of in (3, 7, T - 1)]
    assert all(torch.equal(a, b) for a, b in zip(first, reversed(again), strict=True))


def test_a_tensor_that_is_changed_before_the_backward_pass_is_noticed() -> None:
    memory = NeuralMemory(D, bounded=False).double()  # keys as they are
    keys, values, beta, read_keys, theta = (
        x.detach() for x in random_step(memory, heads=1, reads=1)
    )
    running = ReversibleMemory(memory, theta)
    read = running.write_and_read(keys, values.requires_grad_(), beta, read_keys)
    keys += 1
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        read.sum().backward()


def test_undoing_many_writes_does_not_drift() -> None:
    core = MnmCore(F, 16, "g", heads=2)
    inputs, starts = torch.randn(200, B, F), torch.zeros(200, B, dtype=torch.bool)

    def gradients(dtype: torch.dtype, running_memory: type[RunningMemory]) -> tuple[Tensor, ...]:
        core.to(dtype)
        outputs, _, meta_loss = core.scan(
            inputs.to(dtype), core.initial_state(B), starts, running_memory
        )
        return torch.autograd.grad(
            outputs.pow(2).mean() + meta_loss.mean(), list(core.parameters())
        )

    exact = gradients(torch.float64, PlainMemory)
    for g, g_exact in zip(gradients(torch.float32, ReversibleMemory), exact, strict=True):
        assert (g - g_exact).norm() < 1e-4 * g_exact.norm()


def test_undoing_a_thousand_gated_writes_does_not_drift() -> None:
    """Whether a step leaves half of the fast weights, as gates begin with, all of them, or now and
    then nothing."""
    T, heads = 1_000, 2
    memory, starts = NeuralMemory(D, 1, "gated-delta"), torch.zeros(T, B, dtype=torch.bool)
    starts[[300, 301, 777], [1, 2, 1]] = True
    alpha = torch.tensor([0.5, 0.98, 1.0, 1.0]).repeat(T, 1)
    alpha[::100, 3] = 1e-30
    writes = torch.randn(2, T, B, heads, D)
    beta = torch.rand(T, B)

    def gradients(dtype: torch.dtype, running_memory: type[RunningMemory]) -> tuple[Tensor, ...]:
        keys, values = writes.to(dtype)
        leaves = [x.to(dtype).requires_grad_() for x in (keys, values, beta, alpha)]
        theta = torch.stack(memory.to(dtype).initial_memory(B), dim=1).detach().requires_grad_()
        running, read = running_memory(memory, theta), []
        for t in range(T):
            if starts[t].any():
                running.reset(starts[t])
            k, v, b, a = (x[t] for x in leaves)
            read.append(running.write_and_read(k, v, b, v, a))
        return torch.autograd.grad(
            torch.stack(read).square().mean(), [*leaves, theta, memory.theta_0]
        )

    exact = gradients(torch.float64, PlainMemory)
    for g, g_exact in zip(gradients(torch.float32, ReversibleMemory), exact, strict=True):
        assert (g - g_exact).norm() < 1e-5 * g_exact.norm()


def test_gated_writes_keep_fast_weights_as_rarely_as_half_of_them_is_forgotten() -> None:
    memory = NeuralMemory(D, 1, "gated-delta").double()
    keys, values, beta, read_keys, theta = random_step(memory, heads=1, reads=1)
    running = ReversibleMemory(memory, theta)
    for _ in range(100):
        running.write_and_read(
            keys, values, beta, read_keys, torch.full((B,), 0.98, dtype=torch.float64)
        )
    assert [*running._tape.known] == [34, 69]  # 0.98^35 < 1/2 < 0.98^34


def kept_bytes(D: int, T: int, running_memory: type[RunningMemory]) -> int:
    """What autograd and the running memory keep of a sequence with a reset, each storage counted
    once."""
    core, storages = MnmCore(F, D, memory_layers=3, memory_size=D), {}

    def count(tensor: Tensor) -> Tensor:
        storages[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage()
        return tensor

    def tensors(x: Any) -> Iterator[Tensor]:
        if isinstance(x, Tensor):
            yield x
        elif isinstance(x, list | tuple):
            for part in x:
                yield from tensors(part)

    class Watched(running_memory):  # type: ignore[misc, valid-type]
        def theta(self) -> Tensor:
            for tensor in tensors(self._tape.steps if isinstance(self, ReversibleMemory) else ()):
                count(tensor)
            return super().theta()  # type: ignore[no-any-return]

    starts = torch.arange(T).view(T, 1).expand(T, B) == T // 2
    with saved_tensors_hooks(count, lambda tensor: tensor):
        results = core.scan(torch.randn(T, B, F), core.initial_state(B), starts, Watched)
    assert results[0].requires_grad
    return sum(storage.nbytes() for storage in storages.values())


def test_what_is_kept_of_a_step_grows_with_the_width_and_not_with_its_square() -> None:
    def per_step(D: int, running_memory: type[RunningMemory]) -> float:
        return (kept_bytes(D, 16, running_memory) - kept_bytes(D, 8, running_memory)) / 8

    assert per_step(64, ReversibleMemory) < 2.1 * per_step(32, ReversibleMemory)
    assert per_step(64, PlainMemory) > 2.1 * per_step(32, PlainMemory)
    assert per_step(64, ReversibleMemory) < 4 * B * 64 * 64  # less than one layer of fast weights


def test_nothing_is_kept_without_gradient() -> None:
    memory = NeuralMemory(D).double()
    keys, values, beta, read_keys, theta = (
        x.detach() for x in random_step(memory, heads=1, reads=1)
    )
    running, plain = ReversibleMemory(memory, theta), PlainMemory(memory, theta)
    with torch.no_grad():
        for _ in range(3):
            running.write_and_read(keys, values, beta, read_keys)
            plain.write_and_read(keys, values, beta, read_keys)
    assert not running._tape.steps
    keys.requires_grad_()
    of_both = [r.write_and_read(keys, values, beta, read_keys).sum() for r in (running, plain)]
    torch.testing.assert_close(*(torch.autograd.grad(loss, keys) for loss in of_both))


def test_the_tape_goes_with_the_sequence() -> None:
    core = MnmCore(F, D)
    tapes = []

    class Watched(ReversibleMemory):
        def __init__(self, memory: NeuralMemory, theta: Tensor) -> None:
            super().__init__(memory, theta)
            tapes.append(weakref.ref(self._tape))

    for _ in range(3):
        outputs, state, meta_loss = core.scan(
            torch.randn(T, B, F),
            core.initial_state(B),
            torch.zeros(T, B, dtype=torch.bool),
            Watched,
        )
        (outputs.sum() + meta_loss.sum()).backward()
        del outputs, state, meta_loss
    gc.collect()
    assert [tape() for tape in tapes] == [None] * 3

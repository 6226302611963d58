"""The neural memory: its write rules against autograd, and the properties that the mathematics
promises."""

from typing import Any, get_args

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from mnm_rl import MnmCore, NeuralMemory
from mnm_rl.memory import WRITE_RULES, WriteRuleName, recall_loss
from mnm_rl.memory.function import activations, undo, write
from mnm_rl.memory.rules import GradientRule, of_one_layer

RULES = tuple(WRITE_RULES)
B, D = 3, 5


def random_write(heads: int, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    keys, values = torch.randn(2, B, heads, D, generator=generator, dtype=torch.float64)
    return keys, values, torch.rand(B, generator=generator, dtype=torch.float64)


def memory(rule: str, layers: int = 3, **kwargs: object) -> NeuralMemory:
    return NeuralMemory(D, 1 if of_one_layer(rule) else layers, rule, **kwargs).double()  # type: ignore[arg-type]


def test_every_rule_can_be_named() -> None:
    assert get_args(WriteRuleName) == tuple(WRITE_RULES)


@given(heads=st.sampled_from([1, 4]), layers=st.sampled_from([1, 2, 3]), seed=st.integers(0, 1000))
def test_write_g_is_a_gradient_step_on_the_recall_loss(heads: int, layers: int, seed: int) -> None:
    keys, values, beta = random_write(heads, seed)
    net = memory("g", layers, bounded=False)
    theta = tuple(W.clone().requires_grad_() for W in net.initial_memory(B))
    # environments are independent: the sum's gradient is each one's own
    loss = recall_loss(net.read(theta, keys), values).sum()
    expected = [
        W - beta.view(-1, 1, 1) * gradient
        for W, gradient in zip(theta, torch.autograd.grad(loss, theta), strict=True)
    ]
    torch.testing.assert_close(
        net.write(theta, keys, values, beta), tuple(expected), rtol=1e-9, atol=1e-12
    )


@given(heads=st.sampled_from([1, 4]), layers=st.sampled_from([1, 3]), seed=st.integers(0, 1000))
def test_write_p_is_the_perceptron_rule_of_every_layer(heads: int, layers: int, seed: int) -> None:
    keys, values, beta = random_write(heads, seed)
    net = memory("p", layers, bounded=False)
    theta = net.initial_memory(B)
    written = net.write(theta, keys, values, beta)
    feedback = net.rule.get_submodule("feedback")
    Q, q = feedback.weight.view(layers, D, D), feedback.bias.view(layers, D)
    for b in range(B):
        update = [torch.zeros(D, D, dtype=torch.float64) for _ in range(layers)]
        for h in range(heads):
            z = keys[b, h]
            for l in range(layers):
                above = theta[l][b] @ z
                above = torch.tanh(above) if l < layers - 1 else above
                update[l] += torch.outer(above - (Q[l] @ values[b, h] + q[l]), z)
                z = above
        for l in range(layers):
            torch.testing.assert_close(
                written[l][b], theta[l][b] - beta[b] * 2 / (heads * D) * update[l]
            )


@given(
    rule=st.sampled_from(RULES),
    layers=st.integers(1, 3),
    heads=st.integers(1, 4),
    log_scale=st.floats(-4, 4),
    seed=st.integers(0, 1000),
)
def test_a_bounded_write_never_goes_past_its_target(
    rule: str, layers: int, heads: int, log_scale: float, seed: int
) -> None:
    """Whatever the size of the fast weights, of keys and of values."""
    keys, values, beta = random_write(heads, seed)
    net = memory(rule, layers)
    theta = tuple(10**log_scale * W for W in net.initial_memory(B))
    keys, targets, beta = net.prepare_write(10**-log_scale * keys, 10**log_scale * values, beta)
    z = activations(theta, keys)
    deltas = net.rule.deltas(theta, z, targets)
    step_sizes = net.rule.step_sizes(beta, z, deltas)
    s = step_sizes.view(B, -1, 1, 1).unbind(1)
    # to first order, at most the share beta of the error is removed, by all layers together
    if rule == "g":
        squares = [
            (s_l * (d.mT @ x)).square().sum(dim=(1, 2)) / step_sizes[:, 0]
            for s_l, d, x in zip(s, deltas, z, strict=False)
        ]
        assert (sum(squares) <= beta * deltas[-1].square().sum(dim=(1, 2)) * (1 + 1e-9)).all()
        return
    for s_l, delta, x in zip(s, deltas, z, strict=False):
        left = delta - s_l * (x @ x.mT) @ delta
        assert (left.square().sum(dim=(1, 2)) <= delta.square().sum(dim=(1, 2)) * (1 + 1e-9)).all()
        assert (torch.linalg.matrix_norm(s_l * (x @ x.mT), 2) <= beta * (1 + 1e-9)).all()


@given(
    rule=st.sampled_from(RULES),
    size=st.integers(1, 30),
    log_scale=st.floats(-4, 4),
    seed=st.integers(0, 1000),
)
def test_beta_is_the_share_of_its_error_that_a_bounded_write_of_one_layer_removes(
    rule: str, size: int, log_scale: float, seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    keys, values = 10**log_scale * torch.randn(
        2, B, 1, size, generator=generator, dtype=torch.float64
    )
    beta = torch.rand(B, generator=generator, dtype=torch.float64)
    net = NeuralMemory(size, 1, rule).double()  # type: ignore[arg-type]
    before = net.initial_memory(B)
    after = net.write(before, keys, values, beta)
    missed, misses = (net.read(theta, keys) - values for theta in (before, after))
    torch.testing.assert_close(misses, (1 - beta.view(-1, 1, 1)) * missed)


@pytest.mark.parametrize("heads", [1, 4])
@pytest.mark.parametrize("rule", RULES)
@torch.no_grad()
def test_bounded_fast_weights_do_not_grow_with_the_number_of_writes(rule: str, heads: int) -> None:
    """Whatever the feedback maps of rule p ask hidden layers for."""
    net = memory(rule)
    if rule == "p":
        torch.nn.init.normal_(net.rule.get_submodule("feedback").weight, std=1)
    theta, largest = net.initial_memory(B), []
    for writes in (200, 1600):
        for i in range(writes):
            keys, values, _ = random_write(heads, seed=i % 3)
            theta = net.write(theta, keys, values.tanh(), torch.ones(B, dtype=torch.float64))
        largest.append(max(W.abs().max().item() for W in theta))
    assert largest[1] < 3 * largest[0]


@given(layers=st.integers(1, 3), seed=st.integers(0, 1000))
def test_a_bounded_gradient_write_removes_the_share_beta_to_first_order(
    layers: int, seed: int
) -> None:
    """The smaller the share, the nearer; where no activation is smaller than a key."""
    keys, values, _ = random_write(heads=1, seed=seed)
    net = memory("g", layers)
    theta = tuple(2 * W for W in net.initial_memory(B))
    beta = torch.full((B,), 1e-5, dtype=torch.float64)
    after, before = (
        net.read(at, keys) - values for at in (net.write(theta, keys, values, beta), theta)
    )
    removed = 1 - after.square().sum(dim=(1, 2)).sqrt() / before.square().sum(dim=(1, 2)).sqrt()
    torch.testing.assert_close(removed, beta, rtol=1e-3, atol=0)


@pytest.mark.parametrize("rule", ["g", "p"])
def test_without_writes_the_memory_stays_as_it_was(rule: str) -> None:
    net = memory(rule, writes=False)
    theta = net.initial_memory(B)
    torch.testing.assert_close(net.write(theta, *random_write(2)), theta, rtol=0, atol=0)


@given(heads=st.sampled_from([1, 4]), seed=st.integers(0, 1000))
def test_write_delta_corrects_what_the_normalized_key_reads(heads: int, seed: int) -> None:
    keys, values, beta = random_write(heads, seed)
    net = memory("delta")
    (W,) = net.initial_memory(B)
    (written,) = net.write((W,), keys, values, beta)
    for b in range(B):
        update = torch.zeros(D, D, dtype=torch.float64)
        for h in range(heads):
            k = keys[b, h] / keys[b, h].norm()
            update += torch.outer(values[b, h] - W[b] @ k, k)
        torch.testing.assert_close(written[b], W[b] + beta[b] / heads * update)


def test_a_whole_delta_write_replaces_its_value_and_spares_those_of_orthogonal_keys() -> None:
    keys = 3 * torch.eye(D, dtype=torch.float64).expand(B, D, D)
    _, value, _ = random_write(heads=1)
    net = memory("delta")
    theta = net.initial_memory(B)
    written = net.write(theta, keys[:, :1], value, torch.ones(B, dtype=torch.float64))
    torch.testing.assert_close(
        net.read(written, keys), torch.cat([value, net.read(theta, keys[:, 1:])], dim=1)
    )


@given(heads=st.sampled_from([1, 4]), seed=st.integers(0, 1000))
def test_a_gate_leaves_its_share_of_what_a_delta_write_would_have_left(
    heads: int, seed: int
) -> None:
    keys, values, beta = random_write(heads, seed)
    net, alpha = memory("gated-delta"), torch.rand(B, dtype=torch.float64)
    (W,) = net.initial_memory(B)
    (gated,), (whole,) = (
        net.write((W,), keys, values, beta, alpha),
        net.write((W,), keys, values, beta),
    )
    for b in range(B):
        k = torch.nn.functional.normalize(keys[b], dim=-1)
        U = W[b] - beta[b] / heads * (k @ W[b].mT - values[b]).mT @ k
        torch.testing.assert_close(whole[b], U)
        torch.testing.assert_close(gated[b], alpha[b] * U)


@pytest.mark.parametrize("rule", RULES)
def test_a_write_can_be_undone(rule: str) -> None:
    keys, values, beta = random_write(heads=3)
    net = memory(rule)
    before = net.initial_memory(B)
    keys, targets, beta = net.prepare_write(keys, values, beta)
    z = activations(before, keys)
    deltas = net.rule.deltas(before, z, targets)
    factors = z, deltas, net.rule.step_sizes(beta, z, deltas)
    after = write(before, *factors)
    assert all((new != old).any() for new, old in zip(after, before, strict=True))
    torch.testing.assert_close(undo(after, *factors), before, rtol=1e-14, atol=1e-14)
    alpha = torch.full((B,), 0.1, dtype=torch.float64)
    torch.testing.assert_close(
        undo(write(before, *factors, alpha), *factors, alpha), before, rtol=1e-13, atol=1e-13
    )


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("feedback_inputs", ["value", "key_value"])
def test_gradients_through_a_write_and_a_read_are_right_to_second_order(
    rule: str, feedback_inputs: str
) -> None:
    net = memory(rule, feedback_inputs=feedback_inputs)
    keys, values, beta = (x.requires_grad_() for x in random_write(heads=2))
    theta = tuple(W.clone().detach().requires_grad_() for W in net.initial_memory(B))

    def write_and_read(keys: Tensor, values: Tensor, beta: Tensor, *theta: Tensor) -> Tensor:
        return net.read(net.write(theta, keys, values, beta), keys)

    assert torch.autograd.gradcheck(write_and_read, (keys, values, beta, *theta))
    assert torch.autograd.gradgradcheck(write_and_read, (keys, values, beta, *theta))


@pytest.mark.parametrize("rule", RULES)
def test_every_slow_weight_receives_gradient_from_what_was_written(rule: str) -> None:
    net = memory(rule)
    keys, values, beta = random_write(heads=1)
    recall_loss(
        net.read(net.write(net.initial_memory(B), keys, values, beta), keys), values
    ).sum().backward()
    for name, parameter in net.named_parameters():
        assert parameter.grad is not None
        assert parameter.grad.abs().sum() > 0, name


@pytest.mark.parametrize("rule", RULES)
@given(order=st.permutations(range(4)))
def test_writing_does_not_depend_on_the_order_of_the_heads(rule: str, order: list[int]) -> None:
    net = memory(rule)
    keys, values, beta = random_write(heads=4)
    theta = net.initial_memory(B)
    torch.testing.assert_close(
        net.write(theta, keys, values, beta),
        net.write(theta, keys[:, order], values[:, order], beta),
    )


@pytest.mark.parametrize("rule", RULES)
def test_a_write_of_strength_zero_changes_nothing(rule: str) -> None:
    net = memory(rule)
    keys, values, beta = random_write(heads=2)
    theta = net.initial_memory(B)
    torch.testing.assert_close(net.write(theta, keys, values, 0 * beta), theta, rtol=0, atol=0)


def test_an_empty_key_reads_nothing() -> None:
    net = memory("g")
    assert not net.read(net.initial_memory(B), torch.zeros(B, 1, D, dtype=torch.float64)).any()


@given(seed=st.integers(0, 1000))
def test_repeated_gradient_writes_make_a_value_recallable(seed: int) -> None:
    keys, values, _ = random_write(heads=1, seed=seed)
    net = memory("g")
    theta = net.initial_memory(B)
    before = recall_loss(net.read(theta, keys), values)
    for _ in range(50):
        theta = net.write(theta, keys, values, torch.full((B,), 0.5, dtype=torch.float64))
    assert (recall_loss(net.read(theta, keys), values) < 0.5 * before).all()


@pytest.mark.parametrize("rule", RULES)
def test_writing_needs_no_autograd(rule: str) -> None:
    net = memory(rule)
    keys, values, beta = random_write(heads=1)
    expected = net.write(net.initial_memory(B), keys, values, beta)
    with torch.no_grad():
        torch.testing.assert_close(net.write(net.initial_memory(B), keys, values, beta), expected)


def test_a_fixed_initial_memory_is_saved_but_not_trained() -> None:
    net = memory("p", learn_initial_memory=False)
    assert "theta_0" in net.state_dict()
    assert "theta_0" not in dict(net.named_parameters())


def test_a_memory_saved_by_version_0_1_0_can_be_loaded() -> None:
    saved = memory("p", feedback_inputs="key_value")
    old = {
        name.replace("rule.feedback", "feedback"): tensor
        for name, tensor in saved.state_dict().items()
    }
    assert set(old) == {"theta_0", "feedback.weight", "feedback.bias"}
    loaded = memory("p", feedback_inputs="key_value", init="pytorch")
    torch.nn.ModuleDict({"memory": loaded}).load_state_dict(
        {f"memory.{name}": tensor for name, tensor in old.items()}
    )
    for name, tensor in saved.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], tensor), name


@pytest.mark.parametrize("rule", ["delta", "gated-delta"])
def test_the_delta_rules_are_for_one_layer(rule: WriteRuleName) -> None:
    with pytest.raises(ValueError, match="memory_layers=1, got 3"):
        MnmCore(4, D, write_rule=rule, memory_layers=3)
    assert MnmCore(4, D, write_rule=rule).memory.layers == 1


def test_a_gated_core_begins_by_keeping_nearly_everything() -> None:
    core = MnmCore(4, 64, write_rule="gated-delta")
    assert core.retention is not None
    alpha = torch.sigmoid(
        core.retention(torch.tanh(core.interaction(torch.rand(100, 64) * 2 - 1))[:, :64])
    )
    assert alpha.mean().item() == pytest.approx(0.98, abs=0.01)
    assert alpha.min() > 0.9
    assert core.why_not("fused") is None
    assert core.why_not("reversible") is None
    assert MnmCore(4, 64, write_rule="delta").retention is None
    core = MnmCore(4, 64, write_rule="gated-delta", writes=False)
    inputs, starts = torch.randn(5, B, 4), torch.zeros(5, B, dtype=torch.bool)
    first = core.initial_state(B)
    assert torch.equal(core(inputs, first, starts)[1].theta, first.theta)


class Halved(GradientRule):
    """A third rule: half a gradient step."""

    def step_sizes(self, beta: Tensor, z: list[Tensor], deltas: list[Tensor]) -> Tensor:
        return super().step_sizes(beta, z, deltas) / 2


class HalvedBothWays(Halved):
    """The same, with its adjoint."""

    def step_sizes(self, beta: Tensor, z: list[Tensor], deltas: list[Tensor]) -> Tensor:
        return super().step_sizes(beta, z, deltas)

    def step_sizes_backward(self, *args: Any) -> Tensor:
        *others, g_step_sizes = args
        return super().step_sizes_backward(*others, g_step_sizes / 2)


@pytest.mark.parametrize("bounded", [True, False])
def test_a_rule_of_ones_own_runs_where_its_gradient_is_right(
    bounded: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In plain PyTorch; with its adjoint, reversible too; never by the kernels of another rule."""
    monkeypatch.setitem(WRITE_RULES, "halved", Halved)
    monkeypatch.setitem(WRITE_RULES, "both", HalvedBothWays)
    variant: Any = "bounded" if bounded else "paper"
    rules: Any = ("halved", "both")
    core, both = (MnmCore(4, D, write_rule=rule, variant=variant).double() for rule in rules)
    both.load_state_dict(core.state_dict())
    assert "path=plain: its Halved is none of the library's" in repr(core)
    assert (
        core.why_not("reversible") == "Halved has step_sizes of its own, and no step_sizes_backward"
    )
    assert "path=reversible: its HalvedBothWays is none of the library's" in repr(both)
    inputs, starts = torch.randn(5, B, 4, dtype=torch.float64), torch.zeros(5, B, dtype=torch.bool)
    gradients = [
        torch.autograd.grad(
            c(inputs, c.initial_state(B), starts)[0].pow(2).sum(),
            list(c.parameters()),
            allow_unused=True,
        )
        for c in (core, both)
    ]
    torch.testing.assert_close(*gradients)
    core.path = "fused"
    with pytest.raises(RuntimeError, match="Halved"):
        core(torch.randn(1, B, 4), core.initial_state(B), torch.zeros(1, B, dtype=torch.bool))


@pytest.mark.parametrize(
    "wrong", [{"write_rule": "q"}, {"feedback_inputs": "keys"}, {"layers": 0}, {"size": 0}]
)
def test_wrong_arguments_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        NeuralMemory(**({"size": D} | wrong))  # type: ignore[arg-type]

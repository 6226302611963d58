"""Every recurrent core: one call for a step and for a sequence, resets, and environments that do
not touch each other."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from mnm_rl import (
    MinGruCore,
    MnmCore,
    NtmCore,
    PlasticCore,
    RecurrentCore,
    SaluCore,
)
from mnm_rl.cores import ntm
from mnm_rl.cores.implementations import PathName
from mnm_rl.cores.salu import Past
from mnm_rl.memory import recall_loss
from tests.cores import all_cores

F, D, T, B = 4, 6, 7, 3

REPLAY = "mnm-p with heads, replay and key feedback"
VECTOR_GATE = "mnm-p with a gate of its own for every number that is read"
CORES: dict[str, Callable[[], RecurrentCore[Any]]] = all_cores(F, D) | {
    "mnm-g-paper": lambda: MnmCore(F, D, write_rule="g", variant="paper"),
    "mnm-p-paper": lambda: MnmCore(F, D, write_rule="p", variant="paper"),
    VECTOR_GATE: lambda: MnmCore(F, D, read_gate="vector"),
    REPLAY: lambda: MnmCore(F, D, heads=4, replay=3, feedback_inputs="key_value", memory_size=5),
    "mnm-g of one layer, fixed start": lambda: MnmCore(
        F, D, write_rule="g", memory_layers=1, learn_initial_memory=False
    ),
    "mnm-gated-delta, two heads, replay": lambda: MnmCore(
        F, D, write_rule="gated-delta", heads=2, replay=2
    ),
    "mnm-g of a memory of its own width": lambda: MnmCore(
        F, D, write_rule="g", heads=2, memory_size=9
    ),
    "decay": lambda: PlasticCore(F, D, rule="decay"),
    "oja": lambda: PlasticCore(F, D, rule="oja"),
    "modulated": lambda: PlasticCore(F, D, rule="modulated"),
    "retroactive": lambda: PlasticCore(F, D, rule="retroactive"),
    "salu of three slots": lambda: SaluCore(F, D, slots=3),
    "ntm of five slots": lambda: NtmCore(F, D, slots=5, width=3),
}
WITH_KERNELS = (
    *("mnm-g", "mnm-p", "mnm-delta", "mnm-g-paper", "mnm-p-paper"),
    *("mnm-g of one layer, fixed start", "mnm-g of a memory of its own width"),
    *("plastic", "decay", "oja", "modulated", "retroactive", "lstm", "gru"),
    *("ntm", "ntm of five slots"),
)


PATHS = [
    (name, path)
    for name in CORES
    for path in ("plain", "fused")
    if path == "plain" or name in WITH_KERNELS
]


def make(name: str, path: PathName) -> RecurrentCore[Any]:
    core = CORES[name]().double()
    core.path = path
    return core


@pytest.fixture(params=PATHS, ids=", ".join)
def core(request: pytest.FixtureRequest) -> RecurrentCore[Any]:
    return make(*request.param)


def sequence(seed: int = 0, starts: float = 0.3) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    inputs = torch.randn(T, B, F, generator=generator, dtype=torch.float64)
    return inputs, torch.rand(T, B, generator=generator) < starts


def used_state(core: RecurrentCore[Any]) -> Any:
    """A state in the middle of an episode."""
    inputs, starts = sequence(seed=99)
    with torch.no_grad():
        return core(inputs, core.initial_state(B), torch.zeros_like(starts))[1]


def test_shapes(core: RecurrentCore[Any]) -> None:
    inputs, starts = sequence()
    outputs, state, meta_loss = core(inputs, core.initial_state(B), starts)
    assert outputs.shape == (T, B, core.output_size)
    assert meta_loss.shape == (T, B)
    assert all(
        new.shape == old.shape and len(new) == B
        for new, old in zip(state, core.initial_state(B), strict=True)
    )


@given(seed=st.integers(0, 1000))
@pytest.mark.parametrize(("name", "path"), PATHS)
def test_a_sequence_equals_its_single_steps(name: str, path: PathName, seed: int) -> None:
    core = make(name, path)
    inputs, starts = sequence(seed)
    state = used_state(core)
    outputs, last, meta_loss = core(inputs, state, starts)
    for t in range(T):
        output, state, loss = core(inputs[t : t + 1], state, starts[t : t + 1])
        torch.testing.assert_close(output[0], outputs[t])
        torch.testing.assert_close(loss[0], meta_loss[t])
    torch.testing.assert_close(state, last)


def test_a_reset_forgets_everything_before_it(core: RecurrentCore[Any]) -> None:
    inputs, starts = sequence(starts=0)
    starts[3] = True
    outputs, state, meta_loss = core(inputs, used_state(core), starts)
    fresh, fresh_state, fresh_loss = core(
        inputs[3:], core.initial_state(B), torch.zeros_like(starts[3:])
    )
    torch.testing.assert_close(outputs[3:], fresh)
    torch.testing.assert_close(meta_loss[3:], fresh_loss)
    torch.testing.assert_close(state, fresh_state)


def test_no_gradient_crosses_a_reset(core: RecurrentCore[Any]) -> None:
    inputs, starts = sequence(starts=0)
    starts[3, 0] = True
    inputs.requires_grad_()
    outputs, _, meta_loss = core(inputs, core.initial_state(B), starts)
    (outputs[3:].sum() + meta_loss[3:].sum()).backward()
    assert inputs.grad is not None
    assert not inputs.grad[:3, 0].any()
    assert inputs.grad[:3, 1].any()


def test_environments_are_bit_identical_whatever_happens_in_another(
    core: RecurrentCore[Any],
) -> None:
    inputs, starts = sequence(starts=0)
    state = used_state(core)
    outputs, last, meta_loss = core(inputs, state, starts)
    inputs, starts = inputs.clone(), starts.clone()
    inputs[:, 1] += 1
    starts[2, 1] = True
    changed, changed_last, changed_loss = core(inputs, state, starts)
    others = [0, 2]
    assert torch.equal(changed[:, others], outputs[:, others])
    assert torch.equal(changed_loss[:, others], meta_loss[:, others])
    assert all(
        torch.equal(new[others], old[others]) for new, old in zip(changed_last, last, strict=True)
    )
    assert not torch.equal(changed[:, 1], outputs[:, 1])


def test_every_parameter_learns(core: RecurrentCore[Any]) -> None:
    inputs, starts = sequence()
    outputs, _, meta_loss = core(inputs, core.initial_state(B), starts)
    (outputs.pow(2).sum() + meta_loss.sum()).backward()
    for name, parameter in core.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0, name


@pytest.mark.parametrize("rule", ["g", "p"])
def test_gradients_of_a_whole_sequence_are_right(rule: str) -> None:
    core = MnmCore(2, 3, write_rule=rule, heads=2, replay=2).double()  # type: ignore[arg-type]
    inputs = torch.randn(4, 2, 2, dtype=torch.float64, requires_grad=True)
    starts = torch.tensor([[True, True], [False, False], [False, True], [False, False]])

    def loss(inputs: Tensor, *parameters: Tensor) -> Tensor:
        outputs, _, meta_loss = core(inputs, core.initial_state(2), starts)
        return outputs.sum() + meta_loss.sum()

    assert torch.autograd.gradcheck(loss, (inputs, *core.parameters()))


def mnm_steps(core: MnmCore, inputs: Tensor) -> list[Any]:
    states = [core.initial_state(B)]
    for x in inputs:
        states.append(core(x.unsqueeze(0), states[-1], torch.zeros(1, B, dtype=torch.bool))[1])
    return states


def test_the_meta_loss_is_the_recall_of_the_last_write_and_of_the_replayed_ones() -> None:
    core = MnmCore(F, D, heads=2, replay=3).double()
    inputs, starts = sequence(starts=0)
    _, _, meta_loss = core(inputs, core.initial_state(B), starts)
    states = mnm_steps(core, inputs)
    # what step t wrote
    pairs = [(state.replay_keys[:, -1], state.replay_values[:, -1]) for state in states]
    for t in range(T):
        theta = states[t + 1].theta.unbind(1)
        recent = pairs[max(1, t + 1 - 3) : t + 2]  # this write and the last three before it
        expected = torch.stack(
            [recall_loss(core.memory.read(theta, k), v) for k, v in recent]
        ).mean(dim=0)
        torch.testing.assert_close(meta_loss[t], expected)


def test_the_read_is_the_mean_over_heads_and_does_not_depend_on_their_order() -> None:
    core = MnmCore(F, D, heads=3).double()
    inputs, starts = sequence()
    outputs, _, meta_loss = core(inputs, core.initial_state(B), starts)
    weight, bias = core.interaction.weight.data, core.interaction.bias.data
    order = [2, 0, 1]
    weight[D:] = weight[D:].view(3, 3 * D, D)[order].reshape(9 * D, D)
    bias[D:] = bias[D:].view(3, 3 * D)[order].flatten()
    permuted, _, permuted_loss = core(inputs, core.initial_state(B), starts)
    torch.testing.assert_close(permuted, outputs)
    torch.testing.assert_close(permuted_loss, meta_loss)


@pytest.mark.parametrize("rule", ["hebb", "decay", "oja", "modulated", "retroactive"])
def test_plastic_rules_neuron_by_neuron(rule: str) -> None:
    core = PlasticCore(F, D, rule=rule).double()  # type: ignore[arg-type]
    core.w.data.normal_()
    core.alpha.data.normal_()
    if rule != "modulated":
        core.eta.data.fill_(0.7)
    inputs, _ = sequence(starts=0)
    state = core.initial_state(B)
    for t in range(T):
        _, new, _ = core(inputs[t : t + 1], state, torch.zeros(1, B, dtype=torch.bool))
        for b in range(B):
            h, Hebb = state.h[b], state.hebb[b]
            h_new = torch.tanh(core.input(inputs[t, b]) + (core.w + core.alpha * Hebb) @ h)
            P = torch.outer(h_new, h)
            if rule == "hebb":
                expected = (Hebb + core.eta * P).clip(-1, 1)
            elif rule == "decay":
                expected = (1 - core.eta) * Hebb + core.eta * P
            elif rule == "oja":
                expected = Hebb + core.eta * (P - torch.diag(h_new**2) @ Hebb)
            else:
                m = core.fan_out(torch.tanh(core.modulator(h_new)))
                change = P if rule == "modulated" else state.eligibility[b]
                expected = (Hebb + torch.diag(m) @ change).clip(-1, 1)
            torch.testing.assert_close(new.h[b], h_new)
            torch.testing.assert_close(new.hebb[b], expected)
            if rule == "retroactive":
                trace = (1 - core.eta) * state.eligibility[b] + core.eta * P
                torch.testing.assert_close(new.eligibility[b], trace)
        state = new


@given(seed=st.integers(0, 1000))
def test_a_whole_sequence_of_a_mingru_is_its_equation_and_its_gradient_step_by_step(
    seed: int,
) -> None:
    core = MinGruCore(F, D).double()
    (W_z, W_h), (b_z, b_h) = core.input.weight.chunk(2), core.input.bias.chunk(2)
    inputs, starts = sequence(seed)
    state = used_state(core)
    outputs, _, _ = core(inputs, state, starts)
    h, expected = state.h, []
    for x, start in zip(inputs, starts, strict=True):
        z = torch.sigmoid(x @ W_z.mT + b_z)
        h = (1 - z) * torch.where(start.unsqueeze(1), 0, h) + z * (x @ W_h.mT + b_h)
        expected.append(h)
    torch.testing.assert_close(outputs, torch.stack(expected))
    gradients = (
        torch.autograd.grad(x.square().sum(), [*core.parameters()])
        for x in (outputs, torch.stack(expected))
    )
    torch.testing.assert_close(*gradients)


@pytest.mark.parametrize("slots", [3, 100])
def test_a_look_up_attends_to_the_last_steps_of_this_episode_and_to_nothing_else(
    slots: int,
) -> None:
    core = SaluCore(F, D, slots=slots).double()
    inputs, starts = sequence()
    outputs, _, _ = core(inputs, core.initial_state(B), starts)
    for b in range(B):
        h = c = r = torch.zeros(D, dtype=torch.float64)
        pairs: list[Any] = []
        for t in range(T):
            if starts[t, b]:
                h, c, r, pairs = torch.zeros_like(h), torch.zeros_like(c), torch.zeros_like(r), []
            h, c = core.controller(torch.cat([inputs[t, b], r]), (h, c))
            key, value, query = torch.tanh(core.interaction(h)).chunk(3)
            r = torch.zeros_like(r)
            if pairs:
                weights = torch.stack([query @ k / D**0.5 for k, _ in pairs]).softmax(dim=0)
                r = weights @ torch.stack([v for _, v in pairs])
            pairs = [*pairs, (key, value)][-slots:]
            torch.testing.assert_close(outputs[t, b], core.output(torch.cat([h, r])))


@pytest.mark.parametrize("slots", [3, 50, 200])
def test_a_long_past_is_the_same_step_by_step_and_with_its_gradient(slots: int) -> None:
    core = SaluCore(F, D, slots=slots).double()
    inputs, starts = (
        torch.randn(5 * Past.BLOCK // 2, B, F, dtype=torch.float64),
        torch.zeros(5 * Past.BLOCK // 2, B, dtype=torch.bool),
    )
    starts[40, 1] = starts[71] = True
    with torch.no_grad():
        state = core(inputs[:20], core.initial_state(B), starts[:20])[1]
    outputs, last, _ = core(inputs, state, starts)
    gradients = torch.autograd.grad(outputs.square().sum(), [*core.parameters()])

    recording, now, singly = core.record(state, len(inputs)), state, []
    for x, start in zip(inputs, starts, strict=True):
        output, now, _ = core(x.unsqueeze(0), now, start.unsqueeze(0))
        singly.append(output[0])
        torch.testing.assert_close(recording.stepper.step(x, start), output[0])
        torch.testing.assert_close(
            recording.stepper.state(torch.tensor([2, 0])),
            type(now)(*(part[[2, 0]] for part in now)),
        )
    torch.testing.assert_close(torch.stack(singly), outputs)
    torch.testing.assert_close(now, last)
    torch.testing.assert_close(
        torch.autograd.grad(torch.stack(singly).square().sum(), [*core.parameters()]), gradients
    )
    torch.testing.assert_close(recording.replay(inputs, starts)[0], outputs)


def test_how_far_back_others_look_changes_no_bit_of_what_is_read() -> None:
    core = SaluCore(F, D, slots=100)
    inputs, starts = torch.randn(90, B, F), torch.zeros(90, B, dtype=torch.bool)
    starts[50] = True
    all_anew = core(inputs, core.initial_state(B), starts)[0]
    starts[50, 1] = False
    others_anew = core(inputs, core.initial_state(B), starts)[0]
    assert torch.equal(all_anew[:, [0, 2]], others_anew[:, [0, 2]])
    assert not torch.equal(all_anew[:, 1], others_anew[:, 1])


def heads(
    S: int,
    W: int,
    key: Tensor | None = None,
    gate: float = 0.5,
    shift: int | None = None,
    **given: float,
) -> ntm.Heads:
    """What two heads are told, the same to both where it is given, else at random."""
    numbers = {"strength": torch.rand(B, 2, 1) * 5, "sharpening": 1 + torch.rand(B, 2, 1) * 3}
    return ntm.Heads(
        key=torch.randn(B, 2, W) if key is None else key.unsqueeze(1).expand(B, 2, W),
        gate=torch.full((B, 2, 1), float(gate)),
        shift=torch.rand(B, 2, 3).softmax(dim=2)
        if shift is None
        else torch.eye(3)[ntm.SHIFTS.index(shift)].expand(B, 2, 3),
        **(
            numbers | {name: torch.full((B, 2, 1), float(number)) for name, number in given.items()}
        ),
    )


def test_a_turing_machine_addresses_by_the_equations_of_its_paper() -> None:
    S, W = 5, 3
    memory, before, told = torch.randn(B, S, W), torch.rand(B, 2, S).softmax(dim=2), heads(S, W)
    weights = ntm.address(memory, before, told)
    torch.testing.assert_close(weights.sum(dim=2), torch.ones(B, 2))
    for b in range(B):
        for n in range(2):
            key, beta, g, s, gamma = (part[b, n] for part in told)
            content = (beta * torch.cosine_similarity(memory[b], key.unsqueeze(0))).softmax(dim=0)
            gated = g * content + (1 - g) * before[b, n]
            moved = torch.stack(
                [s @ gated[[(i - shift) % S for shift in ntm.SHIFTS]] for i in range(S)]
            )
            torch.testing.assert_close(
                weights[b, n], moved**gamma / (moved**gamma).sum(), rtol=1e-3, atol=1e-4
            )


@pytest.mark.parametrize("sharpening", [1.0, 5.0, 100.0])
def test_the_weights_of_a_head_sum_to_one_however_sharp_it_is(sharpening: float) -> None:
    weights = ntm.address(
        torch.randn(B, 128, 3),
        torch.ones(B, 2, 128) / 128,
        heads(128, 3, strength=0.1, sharpening=sharpening),
    )
    torch.testing.assert_close(weights.sum(dim=2), torch.ones(B, 2))


def test_a_sharp_write_can_be_read_by_its_content_and_by_its_place() -> None:
    S, W = 6, 4
    memory, at = torch.full((B, S, W), ntm.EMPTY), torch.eye(S)[2].expand(B, S)
    other, written = torch.randn(2, B, W)
    memory = ntm.write(memory, torch.eye(S)[5].expand(B, S), torch.ones(B, W), other)
    memory = ntm.write(memory, at, torch.ones(B, W), torch.randn(B, W))
    memory = ntm.write(memory, at, torch.ones(B, W), written)  # over what was there
    torch.testing.assert_close(memory[:, 5], other)

    anywhere = torch.ones(B, 2, S) / S
    by_content = ntm.address(
        memory, anywhere, heads(S, W, key=written, gate=1, shift=0, strength=100)
    )
    torch.testing.assert_close(torch.bmm(by_content, memory), written.unsqueeze(1).expand(B, 2, W))
    next_to_it = ntm.address(memory, torch.eye(S)[1].expand(B, 2, S), heads(S, W, gate=0, shift=1))
    torch.testing.assert_close(torch.bmm(next_to_it, memory), written.unsqueeze(1).expand(B, 2, W))


@pytest.mark.parametrize(
    ("make", "named"),
    [
        (lambda: MnmCore(F, D, heads=0), "heads"),
        (lambda: MnmCore(F, D, replay=-1), "replay"),
        (lambda: PlasticCore(F, D, rule="hebbian"), "hebbian"),  # type: ignore[arg-type]
        (lambda: PlasticCore(F, 0), "hidden_size"),
        (lambda: SaluCore(F, D, slots=0), "slots"),
        (lambda: NtmCore(F, D, width=0), "width=0"),
    ],
)
def test_wrong_arguments_are_refused(make: Callable[[], object], named: str) -> None:
    with pytest.raises(ValueError, match=named):
        make()

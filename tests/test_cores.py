"""Every recurrent core: one call for a step and for a sequence, resets, and environments that do not touch each other."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from mnm_rl import LstmCore, MnmCore, PlasticCore, RecurrentCore, RnnCore
from mnm_rl.cores.implementations import PathName
from mnm_rl.memory import recall_loss

F, D, T, B = 4, 6, 7, 3

REPLAY = "mnm-p with heads, replay and key feedback"
CORES: dict[str, Callable[[], RecurrentCore[Any]]] = {
    "mnm-g": lambda: MnmCore(F, D, write_rule="g"),
    "mnm-p": lambda: MnmCore(F, D, write_rule="p"),
    REPLAY: lambda: MnmCore(F, D, heads=4, replay=3, feedback_inputs="key_value"),
    "mnm-g of one layer, fixed start": lambda: MnmCore(F, D, write_rule="g", memory_layers=1, learn_initial_memory=False),
    "hebb": lambda: PlasticCore(F, D, rule="hebb"),
    "decay": lambda: PlasticCore(F, D, rule="decay"),
    "oja": lambda: PlasticCore(F, D, rule="oja"),
    "modulated": lambda: PlasticCore(F, D, rule="modulated"),
    "retroactive": lambda: PlasticCore(F, D, rule="retroactive"),
    "lstm": lambda: LstmCore(F, D),
    "rnn": lambda: RnnCore(F, D),
}


PATHS = [(name, path) for name in CORES for path in ("plain", "fused") if path == "plain" or name not in ("rnn", REPLAY)]


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
    assert all(new.shape == old.shape and len(new) == B for new, old in zip(state, core.initial_state(B), strict=True))


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
    fresh, fresh_state, fresh_loss = core(inputs[3:], core.initial_state(B), torch.zeros_like(starts[3:]))
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


def test_environments_are_bit_identical_whatever_happens_in_another(core: RecurrentCore[Any]) -> None:
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
    assert all(torch.equal(new[others], old[others]) for new, old in zip(changed_last, last, strict=True))
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
    pairs = [(state.replay_keys[:, -1], state.replay_values[:, -1]) for state in states]  # what step t wrote
    for t in range(T):
        theta = states[t + 1].theta.unbind(1)
        recent = pairs[max(1, t + 1 - 3) : t + 2]  # this write and the last three before it
        expected = torch.stack([recall_loss(core.memory.read(theta, k), v) for k, v in recent]).mean(dim=0)
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


@pytest.mark.parametrize(
    ("make", "named"),
    [
        (lambda: MnmCore(F, D, heads=0), "heads"),
        (lambda: MnmCore(F, D, replay=-1), "replay"),
        (lambda: PlasticCore(F, D, rule="hebbian"), "hebbian"),  # type: ignore[arg-type]
        (lambda: PlasticCore(F, 0), "hidden_size"),
    ],
)
def test_wrong_arguments_are_refused(make: Callable[[], object], named: str) -> None:
    with pytest.raises(ValueError, match=named):
        make()

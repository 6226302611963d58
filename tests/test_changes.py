"""Whatever changes a parameter, and however it does: the next step sees it, whichever path runs."""

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from mnm_rl import GruCore, LstmCore, MnmCore, PlasticCore, RecurrentA2C, RecurrentCore

CLOSE: dict[str, Any] = {"rtol": 1e-3, "atol": 1e-4}
"""What several steps in another order may differ by; a change that is missed differs by a tenth."""

CORES: dict[str, Callable[[], RecurrentCore[Any]]] = {
    "lstm": lambda: LstmCore(3, 5),
    "gru": lambda: GruCore(3, 5),
    "mnm-p": lambda: MnmCore(3, 5, write_rule="p"),
    "mnm-g, fixed initial memory": lambda: MnmCore(
        3, 5, write_rule="g", learn_initial_memory=False
    ),
    "plastic": lambda: PlasticCore(3, 5, rule="retroactive"),
}


def by_optimizer(optimizer_class: Any, **kwargs: Any) -> Callable[[Tensor, nn.Module], None]:
    def change(tensor: Tensor, module: nn.Module) -> None:
        if not tensor.requires_grad:
            tensor.mul_(1.3)
            return
        optimizer = optimizer_class([tensor], **kwargs)
        tensor.sum().backward()  # type: ignore[no-untyped-call]
        optimizer.step()

    return change


def loaded(tensor: Tensor, module: nn.Module) -> None:
    state = module.state_dict()
    module.load_state_dict(
        {
            name: 1.3 * part if part.data_ptr() == tensor.data_ptr() else part
            for name, part in state.items()
        }
    )


def one_number(tensor: Tensor, module: nn.Module) -> None:
    tensor.data.view(-1)[-1] += 0.5


def swapped(tensor: Tensor, module: nn.Module) -> None:
    tensor.data.copy_(tensor.data.flatten().flip(0).view_as(tensor).clone())


def in_numpy(tensor: Tensor, module: nn.Module) -> None:
    array = tensor.detach().numpy()
    array += 0.5


def another_tensor(tensor: Tensor, module: nn.Module) -> None:
    tensor.data = tensor.data * 1.3 + 0.1


def in_place(tensor: Tensor, module: nn.Module) -> None:
    with torch.no_grad():
        tensor.mul_(1.3).add_(0.1)


def another_parameter(tensor: Tensor, module: nn.Module) -> None:
    for part in module.modules():
        for name, parameter in [
            *part.named_parameters(recurse=False),
            *part.named_buffers(recurse=False),
        ]:
            if parameter is tensor:
                setattr(
                    part,
                    name,
                    nn.Parameter(tensor.detach() + 0.3)
                    if name in part._parameters
                    else tensor + 0.3,
                )


CHANGES: dict[str, Callable[[Tensor, nn.Module], None]] = {
    "under no_grad": in_place,
    "SGD": by_optimizer(torch.optim.SGD, lr=0.3),
    "Adam, fused": by_optimizer(torch.optim.Adam, lr=0.3, fused=True),
    "RMSprop, foreach": by_optimizer(torch.optim.RMSprop, lr=0.03, foreach=True),
    "load_state_dict": loaded,
    "one number, by .data": one_number,
    "the same numbers in another order, by .data": swapped,
    "another tensor as .data": another_tensor,
    "NumPy": in_numpy,
    "another parameter": another_parameter,
}


def tensors(core: nn.Module) -> list[Tensor]:
    return [*core.parameters(), *core.buffers()]


@pytest.mark.parametrize("name", CORES)
@pytest.mark.parametrize("how", CHANGES)
def test_the_next_step_sees_a_change(name: str, how: str) -> None:
    """Of each tensor in turn: the step that predict makes, that of a rollout, and the gradient."""
    core = CORES[name]()
    assert core.why_plain() is None
    for tensor in tensors(core):  # so that each has a say
        tensor.data += 0.3 * torch.rand_like(tensor)
    x, starts = torch.rand(6, 2, 3), torch.zeros(6, 2, dtype=torch.bool)
    starts[0] = starts[4, 1] = True
    for k in range(len(tensors(core))):
        state = core.initial_state(2)
        recording = core.record(state, 6)
        steppers = recording.stepper, core.stepper(state)
        for t in range(6):
            if t == 3:
                CHANGES[how](tensors(core)[k], core)
                for stepper in steppers:
                    stepper.look()
            plain = copy.deepcopy(core)
            plain.path = "plain"
            with torch.no_grad():
                expected, after, _ = plain(x[t : t + 1], state, starts[t : t + 1])
                outputs, again, _ = core(x[t : t + 1], state, starts[t : t + 1])
            torch.testing.assert_close(outputs, expected, **CLOSE)
            torch.testing.assert_close(tuple(again), tuple(after), **CLOSE)
            for stepper in steppers:
                torch.testing.assert_close(stepper.step(x[t], starts[t]), expected[0], **CLOSE)
                torch.testing.assert_close(tuple(stepper.state()), tuple(after), **CLOSE)
                before = tuple(stepper.state_after(t))
                torch.testing.assert_close(before, tuple(state), **CLOSE)
            state = after
        replayed = recording.replay(x, starts)[0]
        first = recording.stepper.initial_state
        torch.testing.assert_close(replayed, plain(x, first, starts)[0], **CLOSE)


@pytest.mark.parametrize("policy", ["LstmPolicy", "MnmPolicy", "MlpLstmPolicy"])
@pytest.mark.parametrize("how", CHANGES)
def test_the_next_predict_sees_a_change(policy: str, how: str) -> None:
    width = "lstm_hidden_size" if policy == "MlpLstmPolicy" else "hidden_size"
    model = RecurrentA2C(policy, "CartPole-v1", policy_kwargs={width: 5}, seed=0, device="cpu")
    obs = np.full(4, 0.5, np.float32)
    for k in range(len(tensors(model.policy.actor_core))):
        _, state = model.predict(obs)
        CHANGES[how](tensors(model.policy.actor_core)[k], model.policy)
        plain = copy.deepcopy(model)
        plain.policy.core.path = "plain"
        for _ in range(2):
            _, expected = plain.predict(obs, state)
            _, state = model.predict(obs, state)
            torch.testing.assert_close(
                [*map(torch.as_tensor, state)], [*map(torch.as_tensor, expected)], **CLOSE
            )  # type: ignore[arg-type]


def test_a_step_sees_what_else_changes_in_a_core() -> None:
    core = MnmCore(3, 5)
    x, starts, state = (
        torch.rand(1, 2, 3),
        torch.zeros(1, 2, dtype=torch.bool),
        core.initial_state(2),
    )
    with torch.no_grad():
        core(x, state, starts)
        core.memory.writes = False
        _, after, _ = core(x, state, starts)
        assert torch.equal(after.theta, state.theta)
        core.double()
        assert core(x.double(), core.initial_state(2), starts)[0].dtype == torch.float64


def test_steps_leave_nothing_behind_for_one_another() -> None:
    """Also not where one diverged, or had other environments."""
    for core in (make() for make in CORES.values()):
        starts = torch.zeros(1, 2, dtype=torch.bool)
        with torch.no_grad():
            fresh = copy.deepcopy(core)(torch.ones(1, 2, 3), core.initial_state(2), starts)
            core(torch.full((1, 2, 3), torch.nan), core.initial_state(2), starts)
            core(torch.ones(1, 3, 3), core.initial_state(3), torch.zeros(1, 3, dtype=torch.bool))
            core(torch.full((1, 2, 3), torch.inf), core.initial_state(2), starts)
            again = core(torch.ones(1, 2, 3), core.initial_state(2), starts)
            kept = again[0].clone()
            core(torch.rand(1, 2, 3), again[1], starts)
        torch.testing.assert_close(again, fresh)
        assert torch.equal(again[0], kept)

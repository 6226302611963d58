"""What PyTorch records of a core or a policy, by tracing or export, computes the same as they do,
whatever its inputs."""

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces
from torch import Tensor, nn
from torch.fx.experimental.proxy_tensor import make_fx

from mnm_rl import (
    GruCore,
    LstmCore,
    MnmCore,
    NtmCore,
    PlasticCore,
    RecurrentPPO,
    SaluCore,
)
from mnm_rl.cores.composite import ActorAndCritic, Layers
from tests.cores import all_cores
from tests.counting import Random
from tests.policies import ROUNDING

F = 3
CORES: dict[str, Callable[[], Any]] = all_cores(F, 6) | {
    "mnm-p, two heads, replay": lambda: MnmCore(F, 6, write_rule="p", heads=2, replay=2),
    "retroactive": lambda: PlasticCore(F, 6, rule="retroactive"),
    "salu": lambda: SaluCore(F, 6, slots=40),
    "ntm": lambda: NtmCore(F, 6, slots=4, width=3),
    "two layers": lambda: Layers([LstmCore(F, 6), GruCore(6, 6)]),
    "actor and critic": lambda: ActorAndCritic(GruCore(F, 6), LstmCore(F, 6), own_inputs=False),
}


class Flat(nn.Module):
    """A core whose state is so many more arguments and results, as an exported module's must be."""

    def __init__(self, core: Any) -> None:
        super().__init__()
        self.core, self.kind = core, type(core.initial_state(1))

    def forward(self, inputs: Tensor, episode_starts: Tensor, *state: Tensor) -> tuple[Tensor, ...]:
        outputs, after, meta_loss = self.core(inputs, self.kind(*state), episode_starts)
        return outputs, *after, meta_loss


def arguments(core: Any, T: int, some_start: bool, B: int = 2) -> tuple[Tensor, ...]:
    """Inputs, episode starts, and a state that some steps have led to."""
    with torch.no_grad():
        no_start = torch.zeros(3, B, dtype=torch.bool)
        state = core(torch.randn(3, B, F), core.initial_state(B), no_start)[1]
    starts = torch.rand(T, B) < 0.5 if some_start else torch.zeros(T, B, dtype=torch.bool)
    return torch.randn(T, B, F), starts, *(part.clone() for part in state)


@pytest.fixture(autouse=True)
def _distributions_are_checked(monkeypatch: Any) -> None:
    """As at the start of a process: ``torch.compile`` ends it."""
    monkeypatch.setattr(torch.distributions.Distribution, "_validate_args", True)


def traced(module: nn.Module, example: tuple[Tensor, ...]) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", torch.jit.TracerWarning)  # of shapes, which stay
        warnings.simplefilter("ignore", DeprecationWarning)
        return torch.jit.trace(module, example, check_trace=False)


def exported(module: nn.Module, example: tuple[Tensor, ...]) -> Any:
    return torch.export.export(module, example).module()


def strictly_exported(module: nn.Module, example: tuple[Tensor, ...]) -> Any:
    return torch.export.export(module, example, strict=True).module()


def compiled(module: nn.Module, example: tuple[Tensor, ...]) -> Any:
    torch.compiler.reset()
    return torch.compile(module, backend="eager")


def as_graph(module: nn.Module, example: tuple[Tensor, ...]) -> Any:
    return make_fx(module)(*example)


WAYS = [traced, exported, compiled, as_graph]
CASES = [
    (name, record, T)
    for name in CORES
    for record in WAYS
    for T in ((1,) if record is compiled else (1, 4))
]
CASES += [(name, strictly_exported, 1) for name in CORES]


@pytest.mark.parametrize(
    ("name", "record", "T"), CASES, ids=lambda value: getattr(value, "__name__", str(value))
)
def test_a_recorded_core_is_the_core(name: str, record: Any, T: int) -> None:
    """Also for episode starts where there were none in the example, and the other way round."""
    core = CORES[name]()
    module = Flat(core)
    with torch.set_grad_enabled(T == 1):
        again = record(module, arguments(core, T, some_start=T == 1))
    assert core.diagnostics == {}
    with torch.no_grad():
        for some_start in (False, True):
            example = arguments(core, T, some_start)
            torch.testing.assert_close(again(*example), module(*example), **ROUNDING)


@pytest.mark.parametrize("name", ["mnm-g", "lstm", "rnn", "salu"])
def test_a_traced_core_takes_any_number_of_environments(name: str) -> None:
    core = CORES[name]()
    with torch.no_grad():
        again = traced(Flat(core), arguments(core, 1, some_start=False))
        example = arguments(core, 1, some_start=True, B=5)
        torch.testing.assert_close(again(*example), Flat(core)(*example), **ROUNDING)


class Acting(nn.Module):
    """A policy whose likeliest action, value and log-probability are asked for, by its ``forward``.

    Strict export refuses Stable-Baselines3's distributions, which keep what they are given.
    """

    def __init__(self, policy: Any) -> None:
        super().__init__()
        self.policy, self.kind = policy, type(policy.initial_state(1))

    def forward(
        self, observation: Tensor, episode_starts: Tensor, *state: Tensor
    ) -> tuple[Tensor, ...]:
        actions, values, log_prob, after = self.policy(
            observation, self.kind(*state), episode_starts, deterministic=True
        )
        return actions, values, log_prob, *after


@pytest.mark.parametrize("record", WAYS, ids=lambda way: way.__name__)
@pytest.mark.parametrize(
    ("policy", "action_space", "kwargs"),
    [
        ("MnmPolicy", spaces.Discrete(3), {}),
        ("LstmPolicy", spaces.Box(-1, 1, (2,)), {"critic_core": "own"}),
        ("MlpLstmPolicy", spaces.MultiDiscrete([2, 3]), {}),
        ("GruPolicy", spaces.MultiBinary(2), {"core_layers": 2, "net_arch": [4]}),
    ],
    ids=lambda value: str(value),
)
def test_a_recorded_policy_is_the_policy(
    policy: str, action_space: Any, kwargs: dict[str, Any], record: Any
) -> None:
    kwargs = kwargs | {"lstm_hidden_size" if policy == "MlpLstmPolicy" else "hidden_size": 6}
    env = Random(spaces.Box(-1, 1, (F,), np.float32), action_space)
    model = RecurrentPPO(
        policy, env, n_steps=4, batch_size=4, policy_kwargs=kwargs, device="cpu"
    ).learn(4)
    module = Acting(model.policy).eval()

    def example(some_start: bool) -> tuple[Tensor, ...]:
        state = (torch.randn_like(part) for part in model.policy.initial_state(2))
        return torch.randn(2, F), torch.tensor([some_start, False]), *state

    again = record(module, example(some_start=False))
    with torch.no_grad():
        for some_start in (False, True):
            given = example(some_start)
            torch.testing.assert_close(again(*given), module(*given), **ROUNDING)

"""With the default initialization, what a core does reaches the loss from the first update."""

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

import mnm_rl
from mnm_rl import MnmCore, NtmCore, RecurrentCore, SaluCore
from mnm_rl.cores.mnm import VARIANTS, VariantName
from mnm_rl.initialization import Init

RULES = ["g", "p"]
T, B = 8, 16
NO_START = torch.zeros(1, B, dtype=torch.bool)


def diagnostics(core: RecurrentCore[Any], inputs: Tensor) -> dict[str, float]:
    core(
        inputs, core.initial_state(inputs.shape[1]), torch.zeros(inputs.shape[:2], dtype=torch.bool)
    )
    return {name.removeprefix("memory/"): value.item() for name, value in core.diagnostics.items()}


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("variant", VARIANTS)
@given(
    F=st.integers(4, 512),
    D=st.sampled_from([16, 24, 48, 100, 128]),
    M=st.sampled_from([None, 16, 150]),
    H=st.integers(1, 4),
    scale=st.floats(0.7, 1.4),
    seed=st.integers(0, 99),
)
def test_the_first_write_removes_more_than_a_tenth_of_its_error(
    variant: VariantName, rule: Any, F: int, D: int, M: int | None, H: int, scale: float, seed: int
) -> None:
    torch.manual_seed(seed)
    core = MnmCore(F, D, write_rule=rule, heads=H, memory_size=M, variant=variant)
    assert diagnostics(core, scale * torch.randn(1, 64, F))["error_removed"] > 0.1


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("variant", VARIANTS)
def test_keys_and_values_vary_with_the_inputs(rule: Any, variant: VariantName) -> None:
    found = diagnostics(MnmCore(16, 48, write_rule=rule, variant=variant), torch.randn(T, B, 16))
    assert found["key_rms"] > found["key_varies"] > 0.6 * found["key_rms"]
    assert found["value_rms"] > found["value_varies"] > 0.4
    assert found["read_varies"] > (0.003 if variant == "bounded" else 0.1)
    assert found["beta"] == pytest.approx(0.5, abs=0.1)


@pytest.mark.parametrize("rule", RULES)
@given(F=st.integers(4, 512), H=st.integers(1, 4), seed=st.integers(0, 99))
def test_a_policy_begins_as_the_lstm_inside_it_would(rule: Any, F: int, H: int, seed: int) -> None:
    """What is read is there, and small: it moves the outputs by a tenth of what the controller
    does, or less."""
    torch.manual_seed(seed)
    core, inputs, starts = (
        MnmCore(F, 100, rule, heads=H),
        torch.randn(T, B, F),
        torch.zeros(T, B, dtype=torch.bool),
    )
    state = core(inputs, core.initial_state(B), starts)[1]
    h, read = (
        (part @ W.T).norm()
        for part, W in zip(
            (state.h, state.read), core.output.weight.split([100, 32], 1), strict=True
        )
    )
    assert 0 < read < 0.1 * h


@pytest.mark.parametrize("rule", RULES)
def test_pytorchs_initialization_can_still_be_had_and_removes_next_to_nothing(rule: Any) -> None:
    found = diagnostics(
        MnmCore(16, 48, write_rule=rule, init="pytorch", variant="paper"), torch.randn(T, B, 16)
    )
    assert found["error_removed"] < 0.02
    assert found["key_varies"] < 0.1


@pytest.mark.parametrize(
    "name", [name for name in mnm_rl.__all__ if name.endswith("Core") and name != "RecurrentCore"]
)
def test_every_core_takes_the_same_names(name: str) -> None:
    core_class: Any = getattr(mnm_rl, name)

    def input_scale(init: Init) -> float:
        torch.manual_seed(0)
        core = core_class(64, 32, init=init)
        weight = next(
            p
            for name, p in core.named_parameters()
            if "weight_ih" in name or name == "input.weight"
        )
        return (weight[:, :64].std() * 64**0.5).item()  # of what inputs of unit scale become

    assert input_scale("scaled") == pytest.approx(2, rel=0.05)
    assert input_scale("pytorch") < 1.5
    with pytest.raises(ValueError, match="init must be 'scaled' or 'pytorch', got 'xavier'"):
        core_class(4, 8, init="xavier")


def test_a_first_look_up_finds_the_step_with_the_same_input() -> None:
    core = SaluCore(16, 100)
    inputs = torch.randn(T, B, 16)
    keys, values = core(inputs, core.initial_state(B), torch.zeros(T, B, dtype=torch.bool))[1][3:5]
    found = core(
        inputs[2:3],
        core.initial_state(B)._replace(keys=keys, values=values, kept=torch.full((B,), T)),
        NO_START,
    )[1].read
    distances = (found.unsqueeze(1) - values[:, -T:]).norm(dim=2)
    assert (distances.argmin(dim=1) == 2).float().mean() > 0.9


def test_a_turing_machine_begins_by_writing_to_one_slot_after_another() -> None:
    core = NtmCore(16, 100)
    state = core(torch.randn(T, B, 16), core.initial_state(B), torch.zeros(T, B, dtype=torch.bool))[
        1
    ]
    written = state.memory.norm(dim=2).mean(dim=0)  # [S]
    assert written[1 : T + 1].min() > 0.5
    assert written[T + 2 : -2].max() < 0.1


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("heads", [1, 3])
def test_the_memory_reports_the_same_on_every_path(rule: Any, heads: int) -> None:
    core, inputs = MnmCore(5, 20, write_rule=rule, heads=heads), torch.randn(T, B, 5)
    found = {}
    for core.path in ("plain", "reversible", "fused"):
        found[core.path] = diagnostics(core, inputs)
    assert found["fused"] == pytest.approx(found["plain"], rel=1e-3)
    assert found["reversible"] == pytest.approx(found["plain"], rel=1e-3)

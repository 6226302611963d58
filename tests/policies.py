"""Variants of every policy, for the tests, and a rollout with one."""

from functools import partial
from typing import Any, TypeVar

from mnm_rl import RecurrentA2C, RecurrentPPO
from mnm_rl.algorithms.on_policy import RecurrentOnPolicyAlgorithm
from mnm_rl.algorithms.recurrent_policy import POLICIES as REGISTERED

Algorithm = TypeVar("Algorithm", bound=RecurrentOnPolicyAlgorithm)

VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    "mnm-g": ("MnmPolicy", {"write_rule": "g"}),
    "mnm-p": ("MnmPolicy", {"write_rule": "p"}),
    "mnm-p, two heads, replay": ("MnmPolicy", {"write_rule": "p", "replay": 2, "heads": 2}),
    "plastic": ("PlasticPolicy", {}),
    "retroactive": ("PlasticPolicy", {"rule": "retroactive"}),
    "mnm-g, another for the critic": ("MnmPolicy", {"write_rule": "g", "critic_core": "own"}),
    "two layers of gru, critic without memory": (
        "GruPolicy",
        {"core_layers": 2, "critic_core": "none"},
    ),
    "salu": ("SaluPolicy", {"slots": 4}),
    "ntm": ("NtmPolicy", {"slots": 6, "width": 5}),
}
"""Of the policies whose cores have more than one form, or a smaller one."""

SB3_CONTRIB = ("MlpLstmPolicy", "CnnLstmPolicy", "MultiInputLstmPolicy")
"""Those with the arguments of sb3-contrib, which have tests of their own."""

POLICIES = VARIANTS | {
    name.removesuffix("Policy").lower(): (name, {})
    for name, policy in REGISTERED.items()
    if hasattr(policy, "core_class")
    and name not in ("MnmPolicy", "PlasticPolicy", "SaluPolicy", "NtmPolicy", *SB3_CONTRIB)
}

ROUNDING: dict[str, Any] = {"rtol": 1e-4, "atol": 1e-6}
"""What the same computation may differ by: how a library rounds a matrix product or a convolution
may depend on the processor, the number of threads, and where in memory the arguments are."""


def small(
    algorithm: type[Algorithm],
    name: str,
    env: Any,
    policy_kwargs: dict[str, Any] | None = None,
    **kwargs: Any,
) -> Algorithm:
    """A small model; PPO with an update that is quick, too."""
    policy, core = POLICIES[name]
    defaults: dict[str, Any] = {"seed": 0, "device": "cpu"}
    if algorithm is RecurrentPPO:
        defaults |= {"n_steps": 5, "batch_size": 5, "n_epochs": 2, "learning_rate": 7e-4}
    return algorithm(
        policy,
        env,
        policy_kwargs={"hidden_size": 8} | core | (policy_kwargs or {}),
        **defaults | kwargs,
    )


a2c = partial(small, RecurrentA2C)
ppo = partial(small, RecurrentPPO)


def roll_out(model: RecurrentOnPolicyAlgorithm) -> None:
    """Collect the first rollout, without an update."""
    _, callback = model._setup_learn(0)
    assert model.env is not None
    model.collect_rollouts(model.env, callback, model.rollout_buffer, model.n_steps)

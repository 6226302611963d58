"""One training of ``studies.drop_in`` with the core of an agent:
python -m studies.drop_in_core TASK AGENT_AS_JSON SEED FILE."""

import json
import sys
from inspect import signature
from pathlib import Path
from typing import Any, cast

import torch

from agents import AGENTS
from mnm_rl import RecurrentPPO
from mnm_rl.algorithms.policies import POLICIES as CLASSES
from mnm_rl.algorithms.policies import RecurrentActorCriticPolicy
from studies.drop_in import AGENTS as POLICIES
from studies.drop_in import OURS, run


def policy(candidate: dict[str, Any]) -> tuple[Any, str, dict[str, Any]]:
    """The algorithm, the policy and its arguments: the core as the candidate has it, the rest as
    the benchmark has it."""
    kind = AGENTS[candidate["agent"]]
    agent = kind(**{name: value for name, value in candidate.items() if name != "agent"})
    of_core = signature(
        cast(type[RecurrentActorCriticPolicy], CLASSES[kind.policy]).core_class
    ).parameters
    core = {name: value for name, value in agent.arguments().items() if name in of_core}
    return RecurrentPPO, kind.policy, core | OURS


def main(task: str, candidate: str, seed: str, out: str) -> None:
    torch.set_num_threads(1)
    POLICIES["candidate"] = policy(json.loads(candidate))
    Path(out).write_text(json.dumps(run(task, "candidate", int(seed))["curve"]))


if __name__ == "__main__":
    main(*sys.argv[1:])

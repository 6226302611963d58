"""One training of ``studies.drop_in`` with the core of an agent:
python -m studies.drop_in_core TASK AGENT_AS_JSON SEED FILE."""

import json
import sys
from pathlib import Path
from typing import Any

import torch

from agents import AGENTS
from mnm_rl import RecurrentPPO
from studies.drop_in import AGENTS as POLICIES
from studies.drop_in import OURS, run


def policy(candidate: dict[str, Any]) -> tuple[Any, str, dict[str, Any]]:
    """The algorithm, the policy and its arguments: the core as the candidate has it, the rest as
    the benchmark has it."""
    kind = AGENTS[candidate["agent"]]
    changes = {name: value for name, value in candidate.items() if name != "agent"}
    core = kind.defaults().changed(**changes).core
    return RecurrentPPO, kind.policy, core.arguments() | OURS


def main(task: str, candidate: str, seed: str, out: str) -> None:
    torch.set_num_threads(1)
    POLICIES["candidate"] = policy(json.loads(candidate))
    Path(out).write_text(json.dumps(run(task, "candidate", int(seed))["curve"]))


if __name__ == "__main__":
    main(*sys.argv[1:])

"""The commands of RL Zoo with this library's algorithms: python -m examples.rl_zoo train --algo
mnm_ppo --env CartPole-v1 ...

pip install rl_zoo3
"""

import sys

import rl_zoo3
import rl_zoo3.enjoy
import rl_zoo3.exp_manager
import rl_zoo3.hyperparams_opt
import rl_zoo3.train
from rl_zoo3.cli import main

from mnm_rl import RecurrentA2C, RecurrentPPO


def register() -> None:
    """Make ``mnm_ppo`` and ``mnm_a2c`` known as algorithms, tuned with RL Zoo's search spaces for
    PPO and A2C."""
    ours = {"mnm_ppo": (RecurrentPPO, "ppo"), "mnm_a2c": (RecurrentA2C, "a2c")}
    for name, (algorithm, like) in ours.items():
        rl_zoo3.ALGOS[name] = algorithm
        for table in (
            rl_zoo3.hyperparams_opt.HYPERPARAMS_SAMPLER,
            rl_zoo3.hyperparams_opt.HYPERPARAMS_CONVERTER,
        ):
            table[name] = table[like]


if __name__ == "__main__":
    register()
    sys.argv[0] = "rl_zoo"
    main()

"""A neural memory without reinforcement learning: write down eight key-value pairs, one a step, then look one up.

python -m examples.recall
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mnm_rl import MnmCore

PAIRS, VALUES, KEY_SIZE = 8, 4, 8


def batch(n: int) -> tuple[Tensor, Tensor]:
    """n sequences ``[PAIRS + 1, n, F]`` of random keys with their values, then one of the keys again; and its value ``[n]``."""
    keys = F.normalize(torch.randn(PAIRS, n, KEY_SIZE), dim=-1)
    values = torch.randint(VALUES, (PAIRS, n))
    asked = torch.randint(PAIRS, (n,))
    pairs = torch.cat([keys, F.one_hot(values, VALUES)], dim=-1)
    question = torch.cat([keys[asked, torch.arange(n)], torch.zeros(n, VALUES)], dim=-1)
    return torch.cat([pairs, question[None]]), values[asked, torch.arange(n)]


def main(steps: int = 2000, n: int = 64) -> float:
    torch.manual_seed(0)
    core = MnmCore(KEY_SIZE + VALUES, hidden_size=64, write_rule="p")
    head = nn.Linear(64, VALUES)
    optimizer = torch.optim.Adam([*core.parameters(), *head.parameters()], lr=2e-3)
    episode_starts = torch.zeros(PAIRS + 1, n, dtype=torch.bool)
    episode_starts[0] = True
    right = 0.0
    for step in range(1, steps + 1):
        inputs, answers = batch(n)
        outputs, _, meta_loss = core(inputs, core.initial_state(n), episode_starts)
        logits = head(outputs[-1])
        loss = F.cross_entropy(logits, answers) + meta_loss.mean()
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(core.parameters(), 1.0)
        optimizer.step()
        right += (logits.argmax(dim=1) == answers).float().mean().item() / 200
        if step % 200 == 0:
            print(f"step {step:5}: {right:.0%} right (guessing: {1 / VALUES:.0%})", flush=True)
            right, last = 0.0, right
    return last


if __name__ == "__main__":
    main()

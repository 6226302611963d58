"""A neural memory without reinforcement learning: write down four key-value pairs, one a step, then look each of them up.

python -m examples.recall
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mnm_rl import MnmCore

PAIRS, KEYS, VALUES = 4, 8, 4


def batch(n: int) -> tuple[Tensor, Tensor]:
    """n sequences ``[2 PAIRS, n, KEYS + VALUES]`` of pairs, then of their keys in another order; and the answers ``[PAIRS, n]``."""
    keys = F.one_hot(torch.rand(KEYS, n).argsort(dim=0)[:PAIRS], KEYS)
    values = torch.randint(VALUES, (PAIRS, n))
    order = torch.rand(PAIRS, n).argsort(dim=0)
    pairs = torch.cat([keys, F.one_hot(values, VALUES)], dim=-1)
    questions = torch.cat([keys.take_along_dim(order[..., None], 0), torch.zeros(PAIRS, n, VALUES)], dim=-1)
    return torch.cat([pairs, questions]), values.take_along_dim(order, 0)


def main(steps: int = 1500, n: int = 64) -> float:
    torch.manual_seed(0)
    core, head = MnmCore(KEYS + VALUES, hidden_size=48, write_rule="p"), nn.Linear(48, VALUES)
    optimizer = torch.optim.Adam([*core.parameters(), *head.parameters()], lr=1e-2)
    no_starts = torch.zeros(2 * PAIRS, n, dtype=torch.bool)  # nothing begins anew in the middle of a sequence
    right: list[float] = []
    for step in range(1, steps + 1):
        inputs, answers = batch(n)
        outputs, _, meta_loss = core(inputs, core.initial_state(n), no_starts)
        logits = head(outputs[PAIRS:])
        loss = F.cross_entropy(logits.flatten(0, 1), answers.flatten()) + meta_loss.mean()
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(core.parameters(), 1.0)
        optimizer.step()
        right.append((logits.argmax(dim=-1) == answers).float().mean().item())
        if step % (steps // 10) == 0:
            print(f"update {step:5}: {sum(right[-100:]) / len(right[-100:]):.0%} right", flush=True)
    return sum(right[-100:]) / len(right[-100:])


if __name__ == "__main__":
    main()

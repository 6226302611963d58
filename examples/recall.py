"""A neural memory without reinforcement learning: write down eight key-value pairs, one a step,
then look each of them up.

python -m examples.recall
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mnm_rl import MnmCore, RecurrentCore

VALUES = 4


def batch(pairs: int, n: int) -> tuple[Tensor, Tensor]:
    """n sequences ``[2 pairs, n, keys + VALUES]`` of pairs, then of their keys in another order;
    and the answers ``[pairs, n]``."""
    keys = F.one_hot(torch.rand(2 * pairs, n).argsort(dim=0)[:pairs], 2 * pairs)  # of twice as many
    values = torch.randint(VALUES, (pairs, n))
    order = torch.rand(pairs, n).argsort(dim=0)
    shown = torch.cat([keys, F.one_hot(values, VALUES)], dim=-1)
    again = keys.take_along_dim(order[..., None], 0)
    asked = torch.cat([again, torch.zeros(pairs, n, VALUES)], dim=-1)
    return torch.cat([shown, asked]), values.take_along_dim(order, 0)


def train(
    core: RecurrentCore[Any], pairs: int, updates: int, n: int = 64, meta_coef: float = 1.0
) -> list[float]:
    """Train a core of input width ``2 pairs + VALUES``; returns the share of right answers at every
    update, on new sequences."""
    head = nn.Linear(core.output_size, VALUES)
    optimizer = torch.optim.Adam([*core.parameters(), *head.parameters()], lr=3e-3)
    no_starts = torch.zeros(2 * pairs, n, dtype=torch.bool)
    right: list[float] = []
    for update in range(1, updates + 1):
        inputs, answers = batch(pairs, n)
        outputs, _, meta_loss = core(inputs, core.initial_state(n), no_starts)
        logits = head(outputs[pairs:])
        loss = F.cross_entropy(logits.flatten(0, 1), answers.flatten())
        optimizer.zero_grad()
        (loss + meta_coef * meta_loss.mean()).backward()
        nn.utils.clip_grad_norm_(core.parameters(), 1.0)
        optimizer.step()
        right.append((logits.argmax(dim=-1) == answers).float().mean().item())
        if update % (updates // 10) == 0:
            print(f"update {update:5}: {sum(right[-10:]) / len(right[-10:]):.0%} right", flush=True)
    return right


def main(updates: int = 300, pairs: int = 8) -> float:
    torch.manual_seed(0)
    right = train(MnmCore(2 * pairs + VALUES, hidden_size=48, write_rule="p"), pairs, updates)
    return sum(right[-10:]) / len(right[-10:])


if __name__ == "__main__":
    main()

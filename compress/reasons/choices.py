"""Where a lattice leaves an answer a choice, and the loss of what was chosen there.

Nearly all of an answer's tokens are copied, which is easy; what it says is decided at the few where
several may follow. Knows no grammar and no model.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from models.reasons.lattice import Lattice

Choice = tuple[int, Sequence[int]]  # index into an answer, the tokens that may stand there


def choices_of(answers: Lattice, answer: Sequence[int]) -> list[Choice]:
    """Of an answer, as far as it is one of the lattice's."""
    found: list[Choice] = []
    node = 0
    for place, token in enumerate(answer):
        allowed = dict(answers.nodes[node])
        if token not in allowed:
            break
        if len(allowed) > 1:
            found.append((place, list(allowed)))
        node = allowed[token]
    return found


def choice_loss(
    states: Tensor, weight: Tensor, targets: Tensor, choices: Sequence[Choice]
) -> Tensor:
    """Mean cross-entropy over the allowed tokens alone, a scalar; 0 without choices.

    states: (N, hidden) before the tokens targets (N,); choices index N.
    """
    if not choices:
        return states.sum() * 0
    rows = torch.tensor([row for row, _ in choices])
    width = max(len(allowed) for _, allowed in choices)
    padded = torch.tensor([[*allowed, *[-1] * (width - len(allowed))] for _, allowed in choices])
    logits = (weight[padded.clamp(min=0)] @ states[rows].unsqueeze(2)).squeeze(2)
    logits = logits.masked_fill(padded < 0, -torch.inf)
    chosen = logits.masked_fill(padded != targets[rows].unsqueeze(1), -torch.inf)
    return (logits.logsumexp(1) - chosen.logsumexp(1)).mean()

"""How well a model writes: its loss on held-out answers, and the form of what it writes.

Knows neither data nor what a valid answer is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TypeVar

import torch

from compress.decoders.sequences import SequenceBatch, answer_states
from kernels.linear_cross_entropy import linear_cross_entropy
from models.decoder import Decoder

Answer = TypeVar("Answer")


@torch.no_grad()
def validation_loss(decoder: Decoder, batches: Iterable[SequenceBatch]) -> float:
    """Mean negative log-likelihood of all answers' tokens, in nats; nan without any."""
    total, tokens = 0.0, 0
    for batch in batches:
        count = len(batch.targets)
        if count:
            states = answer_states(decoder, batch)
            loss = linear_cross_entropy(states, decoder.output_embedding, batch.targets)
            total, tokens = total + count * float(loss), tokens + count
    return total / tokens if tokens else float("nan")


def format_validity(answers: Sequence[Answer], is_valid: Callable[[Answer], bool]) -> float:
    """Share of the answers that are valid, 0 to 1; nan without any."""
    return sum(map(is_valid, answers)) / len(answers) if answers else float("nan")

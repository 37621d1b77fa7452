"""Packs prompts with their answers and runs a decoder over them. Knows nothing of losses.

Linear layers see only real tokens; attention sees padded rows, causal in each.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from models.decoder import Decoder


@dataclass(frozen=True, slots=True)
class SequenceBatch:
    """B prompts of which each is followed by its answer, up to L tokens, in one row of T."""

    token_ids: Tensor  # (T,) the last token of every answer is left out: it predicts nothing
    positions: Tensor  # (T,)
    slots: Tensor  # (T,) places in the padded (B * L) grid
    rows: Tensor  # (N,) index into T of the token before every answer token
    targets: Tensor  # (N,) the answers' tokens
    lengths: Tensor  # (B,)

    @classmethod
    def pack(
        cls, prompts: Sequence[Sequence[int]], answers: Sequence[Sequence[int]]
    ) -> SequenceBatch:
        """No prompt may be empty; an answer may."""
        whole = [[*prompt, *answer[:-1]] for prompt, answer in zip(prompts, answers, strict=True)]
        lengths = np.array([len(ids) for ids in whole])
        starts = lengths.cumsum() - lengths
        positions = np.arange(lengths.sum()) - np.repeat(starts, lengths)
        rows = [
            start + len(prompt) - 1 + np.arange(len(answer))
            for start, prompt, answer in zip(starts, prompts, answers, strict=True)
        ]
        return cls(
            token_ids=_tensor(np.concatenate(whole)),
            positions=_tensor(positions),
            slots=_tensor(np.repeat(np.arange(len(whole)), lengths) * lengths.max() + positions),
            rows=_tensor(np.concatenate(rows)),
            targets=_tensor([token for answer in answers for token in answer]),
            lengths=_tensor(lengths),
        )

    @property
    def shape(self) -> tuple[int, int]:
        """Sequences and the longest one's tokens."""
        return len(self.lengths), int(self.lengths.max())

    def grid(self, x: Tensor) -> Tensor:
        """(T, heads, head_dim) to (B, L, heads, head_dim), zeros behind the end."""
        count, length = self.shape
        padded = x.new_zeros(count * length, *x.shape[1:]).index_copy(0, self.slots, x)
        return padded.view(count, length, *x.shape[1:])


def _tensor(values: object) -> Tensor:
    return torch.as_tensor(values, dtype=torch.int64)


class CausalAttention:
    """A token sees its own sequence up to itself."""

    def __init__(self, batch: SequenceBatch) -> None:
        self._batch = batch

    def __call__(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        groups = q.shape[1] // k.shape[1]
        queries, keys, values = (
            self._batch.grid(x).transpose(1, 2)
            for x in (q, k.repeat_interleave(groups, 1), v.repeat_interleave(groups, 1))
        )
        mixed = F.scaled_dot_product_attention(queries, keys, values, is_causal=True)
        return mixed.transpose(1, 2).flatten(0, 1)[self._batch.slots]


def answer_states(decoder: Decoder, batch: SequenceBatch) -> Tensor:
    """Normalised hidden states (N, hidden) from which the answers' tokens are predicted."""
    attention = CausalAttention(batch)
    states = decoder(batch.token_ids, batch.positions, attention, rows=batch.rows)
    return decoder.model.norm(states)  # type: ignore[no-any-return]

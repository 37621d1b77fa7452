"""Slates as batches an encoder reads: joined pairs, or each text once. Knows nothing of losses.

Batches are plain numpy, so that worker processes can make them and hand them over.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from tokenizers import Tokenizer
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from compress.data.sampling import Draw
from compress.data.worlds import Texts
from compress.encoders.pair_encoder import Ids, PairEncoder, TextBatch, by_length
from models.errors import ModelDirectoryError

LONGEST = 254  # of either text of a pair, so that both and their special tokens fit 512 positions


@dataclass(frozen=True, slots=True)
class SpecialTokens:
    """What stands before the first text and after each."""

    first: int
    last: int

    @classmethod
    def of(cls, tokenizer: Tokenizer) -> SpecialTokens:
        """A BERT tokenizer's [CLS] and [SEP]."""
        first, last = tokenizer.token_to_id("[CLS]"), tokenizer.token_to_id("[SEP]")
        if first is None or last is None:
            raise ModelDirectoryError("the tokenizer lacks [CLS] or [SEP]; name a BERT encoder's")
        return cls(first, last)

    def open(self, ids: Ids) -> Ids:
        """A text that stands alone or first in a pair."""
        return np.concatenate(([self.first], ids[:LONGEST], [self.last]))

    def close(self, ids: Ids) -> Ids:
        """A text that stands second."""
        return np.concatenate((ids[:LONGEST], [self.last]))


@dataclass(frozen=True, slots=True)
class Chunks:
    """Rows of like length together; `order` says where each row of the chunks belongs."""

    batches: Sequence[tuple[npt.NDArray[np.int64], ...]]
    order: npt.NDArray[np.int64]

    @classmethod
    def pack(cls, firsts: Sequence[Ids], seconds: Sequence[Ids] | None, size: int) -> Chunks:
        """`size` rows a chunk at most."""
        lengths = np.array([len(ids) for ids in firsts])
        if seconds is not None:
            lengths += np.array([len(ids) for ids in seconds])
        parts = by_length(lengths, size)
        batches = []
        for part in parts:
            second = None if seconds is None else [seconds[index] for index in part]
            packed = TextBatch.pack([firsts[index] for index in part], second)
            batches.append(
                (packed.token_ids.numpy(), packed.boundaries.numpy(), packed.lengths.numpy())
            )
        return cls(batches, np.concatenate(parts))

    def on(self, device: torch.device) -> list[TextBatch]:
        """The chunks as tensors."""
        return [TextBatch(*map(torch.from_numpy, batch)).to(device) for batch in self.batches]

    def restore(self, rows: Tensor) -> Tensor:
        """Rows in chunk order, back in the caller's."""
        return rows[torch.from_numpy(np.argsort(self.order)).to(rows.device)]


def dropped(ids: Ids, dropout: float, random: np.random.Generator) -> Ids:
    """A random share of the tokens left out."""
    return ids[random.random(len(ids)) >= dropout] if dropout else ids


def joint_chunks(
    drawn: Draw,
    texts: tuple[Texts, Texts],
    special: SpecialTokens,
    size: int,
    dropout: float,
    random: np.random.Generator,
) -> Chunks:
    """Every pair of the slates, row by row; the member comes first whoever is ranked."""
    sides = drawn.rows, drawn.chosen
    member_rows, posting_rows = sides if drawn.jobs_are_candidates else sides[::-1]
    members = {
        i: special.open(dropped(texts[0][i], dropout, random)) for i in np.unique(member_rows)
    }
    postings = {
        i: special.close(dropped(texts[1][i], dropout, random)) for i in np.unique(posting_rows)
    }
    shape = drawn.chosen.shape
    pairs = drawn.rows[:, None].repeat(shape[1], 1).ravel(), drawn.chosen.ravel()
    first, second = pairs if drawn.jobs_are_candidates else pairs[::-1]
    return Chunks.pack([members[i] for i in first], [postings[i] for i in second], size)


def tower_chunks(
    texts: tuple[Texts, Texts],
    special: SpecialTokens,
    size: int,
    dropout: float,
    random: np.random.Generator,
) -> Chunks:
    """Every member, then every posting of a world."""
    sides = [side[i] for side in texts for i in range(len(side))]
    return Chunks.pack([special.open(dropped(ids, dropout, random)) for ids in sides], None, size)


def joint_logits(
    model: PairEncoder, chunks: Chunks, device: torch.device, dtype: torch.dtype, dropout: float
) -> Tensor:
    """(pairs,) in the order given to `pack`."""
    return _read(model.pairs, chunks, device, dtype, dropout)


def tower_vectors(
    model: PairEncoder, chunks: Chunks, device: torch.device, dtype: torch.dtype, dropout: float
) -> Tensor:
    """(texts, hidden) in the order given to `pack`."""
    return _read(model.towers, chunks, device, dtype, dropout)


def _read(
    part: Callable[[TextBatch, torch.dtype, float], Tensor],
    chunks: Chunks,
    device: torch.device,
    dtype: torch.dtype,
    dropout: float,
) -> Tensor:
    """Chunk after chunk. On a CPU, whose machine has memory for one chunk's activations and not for
    a step's, a pass is done again for its gradient.
    """
    recompute = device.type == "cpu" and torch.is_grad_enabled()
    rows = [
        checkpoint(part, batch, dtype, dropout, use_reentrant=False)
        if recompute
        else part(batch, dtype, dropout)
        for batch in chunks.on(device)
    ]
    return chunks.restore(torch.cat(rows))


def tower_logits(model: PairEncoder, drawn: Draw, vectors: Tensor) -> Tensor:
    """(S, C) of a world's vectors, members before postings."""
    members, postings = vectors.chunk(2)
    sides = torch.from_numpy(drawn.rows)[:, None], torch.from_numpy(drawn.chosen)
    first, second = (side.to(vectors.device) for side in sides)
    if not drawn.jobs_are_candidates:
        first, second = second, first
    first, second = torch.broadcast_tensors(first, second)  # type: ignore[no-untyped-call]
    return model.compare(members[first], postings[second])

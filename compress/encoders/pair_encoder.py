"""Scores (member, posting) pairs with an encoder: read together, or each by itself.

Knows nothing of slates, data files or training.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from compress.encoders.encoder import Encoder

Ids = npt.NDArray[np.integer]
COSINE_GAIN, COSINE_SHIFT = 10.0, -4.0  # of an untrained head: near what cosines of MiniLM ask for
PADDING_STEP = 8


@dataclass(frozen=True, slots=True)
class TextBatch:
    """N texts, or N joined pairs, right-padded; order of the caller."""

    token_ids: Tensor  # (N, L)
    boundaries: Tensor  # (N,) where the second text starts; the length where there is none
    lengths: Tensor  # (N,)

    @classmethod
    def pack(cls, firsts: Sequence[Ids], seconds: Sequence[Ids] | None = None) -> TextBatch:
        """Token ids with their special tokens; `seconds` follow `firsts` in the same row."""
        parts = [firsts] if seconds is None else [firsts, seconds]
        sizes = np.array([[len(ids) for ids in part] for part in parts])
        lengths = sizes.sum(0)
        width = -(-int(lengths.max()) // PADDING_STEP) * PADDING_STEP
        rows = np.zeros((len(firsts), width), dtype=np.int32)
        flat = np.concatenate([ids for row in zip(*parts, strict=True) for ids in row])
        rows[np.arange(width) < lengths[:, None]] = flat
        return cls(*(torch.from_numpy(values) for values in (rows, sizes[0], lengths)))

    def to(self, device: torch.device) -> TextBatch:
        """Copied to `device`, not waited for."""
        tensors = (self.token_ids, self.boundaries, self.lengths)
        return TextBatch(*(tensor.to(device, non_blocking=True) for tensor in tensors))


class PairEncoder(nn.Module):
    """logit = gain cos(m, p) + shift + MLP(m p, |m - p|, both), of mean-pooled texts m and p.

    `joint` reads both texts in one pass, so that every word sees the other text (cross-encoder);
    otherwise each text is one vector whoever it is compared with (two towers).
    """

    def __init__(self, encoder: Encoder, joint: bool) -> None:
        super().__init__()
        self.encoder, self.joint = encoder, joint
        size = encoder.config.hidden_size
        self.cosine = nn.Parameter(torch.tensor([COSINE_GAIN, COSINE_SHIFT]))
        self.hidden = nn.Linear((3 if joint else 2) * size, size)
        self.out = nn.Linear(size, 1, bias=False)
        nn.init.zeros_(self.out.weight)

    def towers(self, batch: TextBatch, dtype: torch.dtype, dropout: float = 0.0) -> Tensor:
        """(N, hidden) fp32: each text's mean vector, of length 1."""
        x = self._encode(batch, dtype, dropout)
        return F.normalize(_means(x, torch.zeros_like(batch.lengths), batch.lengths), dim=-1)

    def states(self, batch: TextBatch, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """(N, L, hidden) states of every token, and (N, 1) fp32 lengths of their texts' means."""
        x = self._encode(batch, dtype, 0.0)
        means = _means(x, torch.zeros_like(batch.lengths), batch.lengths)
        return x, means.norm(dim=-1, keepdim=True)

    def pairs(self, batch: TextBatch, dtype: torch.dtype, dropout: float = 0.0) -> Tensor:
        """(N,) fp32 logits of joined pairs."""
        x = self._encode(batch, dtype, dropout)
        members = _means(x, torch.zeros_like(batch.lengths), batch.boundaries)
        postings = _means(x, batch.boundaries, batch.lengths)
        whole = x[:, 0].float()
        return self.compare(F.normalize(members, dim=-1), F.normalize(postings, dim=-1), whole)

    def compare(self, members: Tensor, postings: Tensor, whole: Tensor | None = None) -> Tensor:
        """Logits (...) of unit vectors (..., hidden); `whole` is the joint pass's first token."""
        size = members.shape[-1] ** 0.5
        products, gaps = members * postings, (members - postings).abs()
        features = [products * size, gaps * size**0.5, *([] if whole is None else [whole])]
        gain, shift = self.cosine
        inner = F.gelu(self.hidden(torch.cat(features, dim=-1)))
        return gain * products.sum(-1) + shift + self.out(inner).squeeze(-1)  # type: ignore[no-any-return]

    def _encode(self, batch: TextBatch, dtype: torch.dtype, dropout: float) -> Tensor:
        places = torch.arange(batch.token_ids.shape[1], device=batch.token_ids.device)
        types = (places >= batch.boundaries[:, None]) & (places < batch.lengths[:, None])
        ids, types = batch.token_ids.long(), types.long()
        return self.encoder(ids, batch.lengths, types, dtype, dropout)  # type: ignore[no-any-return]


def _means(x: Tensor, starts: Tensor, stops: Tensor) -> Tensor:
    places = torch.arange(x.shape[1], device=x.device)
    inside = (places >= starts[:, None]) & (places < stops[:, None])
    sums = (inside.to(x.dtype)[:, None] @ x).squeeze(1).float()
    return sums / (stops - starts)[:, None]


def by_length(lengths: npt.NDArray[np.int64], size: int) -> list[npt.NDArray[np.int64]]:
    """Indices of at most `size` rows of like length, so that little of a batch is padding."""
    order = np.argsort(lengths, kind="stable")
    return [order[start : start + size] for start in range(0, len(order), size)]

"""Packs slates for training and runs a decoder over them, context once, candidates isolated.

Linear layers see only real tokens; attention sees padded rows. Knows nothing of losses.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from compress.decoders.wiring import layers_of, norms_of
from models.decoder import Decoder, DecoderLayer

Ids = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class SlateBatch:
    """S contexts of up to P tokens, then S*C candidates of up to L tokens, in one row of T."""

    token_ids: Tensor  # (T,) contexts first, then candidates in slate order
    positions: Tensor  # (T,)
    context_slots: Tensor  # (context tokens,) places in the padded (S * P) grid
    candidate_slots: Tensor  # (candidate tokens,) places in the padded (S * C * L) grid
    answers: Tensor  # (S * C,) index into T of every candidate's last token
    visible: Tensor  # (S, P) bool: real context tokens
    shape: tuple[int, int, int, int]  # S, C, P, L

    @classmethod
    def pack(cls, contexts: Sequence[Ids], slates: Sequence[Sequence[Ids]]) -> SlateBatch:
        """Every slate must hold the same number of candidates."""
        candidates = [ids for slate in slates for ids in slate]
        count = len(slates[0])
        assert all(len(slate) == count for slate in slates)
        context_lengths = np.array([len(ids) for ids in contexts])
        lengths = np.array([len(ids) for ids in candidates])
        padded_context, padded = int(context_lengths.max()), int(lengths.max())
        context_positions, candidate_positions = _ramps(context_lengths), _ramps(lengths)
        offsets = np.repeat(np.repeat(context_lengths, count), lengths)
        context_rows = np.repeat(np.arange(len(contexts)), context_lengths)
        candidate_rows = np.repeat(np.arange(len(candidates)), lengths)
        return cls(
            token_ids=_tensor(np.concatenate([*contexts, *candidates])),
            positions=_tensor(np.concatenate((context_positions, candidate_positions + offsets))),
            context_slots=_tensor(context_rows * padded_context + context_positions),
            candidate_slots=_tensor(candidate_rows * padded + candidate_positions),
            answers=_tensor(context_lengths.sum() + lengths.cumsum() - 1),
            visible=torch.arange(padded_context) < _tensor(context_lengths)[:, None],
            shape=(len(contexts), count, padded_context, padded),
        )


def _ramps(lengths: Ids) -> Ids:
    """(3, 2) -> 0 1 2 0 1."""
    starts = lengths.cumsum() - lengths
    return np.arange(lengths.sum()) - np.repeat(starts, lengths)


def _tensor(values: object) -> Tensor:
    return torch.as_tensor(values, dtype=torch.int64)


class SlateAttention:
    """Causal in the context; a candidate token sees its slate's context and its own past."""

    def __init__(self, batch: SlateBatch) -> None:
        self._batch = batch
        _, _, _, length = batch.shape
        self._hidden_own = torch.ones(length, length, dtype=torch.bool).triu(1)
        self._hidden_context = ~batch.visible[:, None, None, None, :]

    def __call__(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        groups = q.shape[1] // k.shape[1]
        k, v = k.repeat_interleave(groups, 1), v.repeat_interleave(groups, 1)
        (cq, q), (ck, k), (cv, v) = (self._grids(x) for x in (q, k, v))
        cq, heads_ck, heads_cv = (x.transpose(1, 2) for x in (cq, ck, cv))
        context = F.scaled_dot_product_attention(cq, heads_ck, heads_cv, is_causal=True)
        mixed = self._mix(q, k, v, ck, cv, self._hidden_own)
        near = context.transpose(1, 2).flatten(0, 1)[self._batch.context_slots]
        return torch.cat((near, mixed.flatten(0, 2)[self._batch.candidate_slots]))

    def answers(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """As the call, for the answer tokens alone: q (S * C, heads, head_dim), like the result."""
        groups = q.shape[1] // k.shape[1]
        (ck, k), (cv, v) = (self._grids(x.repeat_interleave(groups, 1)) for x in (k, v))
        slates, count, _, length = self._batch.shape
        answers = self._batch.answers - len(self._batch.context_slots)
        last = self._batch.candidate_slots[answers] % length
        hidden = torch.arange(length) > last.view(slates, count, 1, 1, 1)
        mixed = self._mix(q.view(slates, count, 1, *q.shape[1:]), k, v, ck, cv, hidden)
        return mixed.flatten(0, 2)

    def _mix(
        self, q: Tensor, k: Tensor, v: Tensor, ck: Tensor, cv: Tensor, hidden_own: Tensor
    ) -> Tensor:
        """q: (S, C, rows, heads, d); k, v: (S, C, L, heads, d); ck, cv: (S, P, heads, d)."""
        slates, count, rows, heads, size = q.shape
        scaled = (q * size**-0.5).transpose(2, 3)  # (S, C, heads, rows, d)
        flat = scaled.transpose(1, 2).flatten(2, 3)  # (S, heads, C * rows, d)
        remote = flat @ ck.permute(0, 2, 3, 1)
        remote = remote.view(slates, heads, count, rows, -1).transpose(1, 2)
        own = scaled @ k.permute(0, 1, 3, 4, 2)
        remote = remote.masked_fill(self._hidden_context, -torch.inf)
        own = own.masked_fill(hidden_own, -torch.inf)
        weights = torch.cat((remote, own), dim=-1).softmax(-1)  # (S, C, heads, rows, P + L)
        far, near = weights[..., : -k.shape[2]], weights[..., -k.shape[2] :]
        from_context = far.transpose(1, 2).flatten(2, 3) @ cv.transpose(1, 2)
        from_context = from_context.view(slates, heads, count, rows, size).transpose(1, 2)
        mixed: Tensor = from_context + near @ v.transpose(2, 3)
        return mixed.transpose(2, 3)

    def _grids(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(T, heads, d) to contexts (S, P, heads, d) and candidates (S, C, L, heads, d), padded."""
        slates, count, context, length = self._batch.shape
        boundary = len(self._batch.context_slots)
        near = x.new_zeros(slates * context, *x.shape[1:])
        near = near.index_copy(0, self._batch.context_slots, x[:boundary])
        far = x.new_zeros(slates * count * length, *x.shape[1:])
        far = far.index_copy(0, self._batch.candidate_slots, x[boundary:])
        tail = x.shape[1:]
        return near.view(slates, context, *tail), far.view(slates, count, length, *tail)


def score_slates(decoder: Decoder, batch: SlateBatch, labels: tuple[int, int]) -> Tensor:
    """Raw logits (S, C): logit(yes) - logit(no) at every candidate's last token."""
    return answer_logits(decoder, batch, answer_states(decoder, batch), labels)


def answer_logits(
    decoder: Decoder, batch: SlateBatch, answers: Tensor, labels: tuple[int, int]
) -> Tensor:
    """Raw logits (S, C) of what `answer_states` gave."""
    yes, no = decoder.output_embedding[list(labels)]
    raw_logits: Tensor = answers @ (yes - no)
    return raw_logits.view(batch.shape[:2])


def answer_states(decoder: Decoder, batch: SlateBatch) -> Tensor:
    """Normalised hidden states (S * C, hidden) of every candidate's last token."""
    for states in layer_states(decoder, batch):
        last = states
    return last


def layer_states(decoder: Decoder, batch: SlateBatch) -> Iterator[Tensor]:
    """Hidden states (T, hidden) behind every layer; behind the last one those of answer_states."""
    attention = SlateAttention(batch)
    x = decoder.model.embed_tokens(batch.token_ids)
    *earlier, last = layers_of(decoder)
    for index, block in enumerate(earlier):
        x = block(x, index, batch.positions, decoder.rotary, attention)
        yield x
    yield decoder.model.norm(_last_layer(decoder, last, x, batch, attention))


def _last_layer(
    decoder: Decoder, block: DecoderLayer, x: Tensor, batch: SlateBatch, attention: SlateAttention
) -> Tensor:
    """The last layer at the answer tokens alone: nobody reads what it computes elsewhere."""
    heads, rotary = block.self_attn, decoder.rotary
    split = (-1, heads.head_dim)
    n, answers = block.input_layernorm(x), batch.answers
    query_norm, key_norm = norms_of(heads)
    q = query_norm(heads.q_proj(n[answers]).unflatten(-1, split))
    k = key_norm(heads.k_proj(n).unflatten(-1, split))
    q, k = rotary(q, batch.positions[answers]), rotary(k, batch.positions)
    mixed = attention.answers(q, k, heads.v_proj(n).unflatten(-1, split))
    x = x[answers] + heads.o_proj(mixed.flatten(1))
    return x + block.mlp(block.post_attention_layernorm(x))  # type: ignore[no-any-return]

"""Training's packed pass against a plain causal pass over each context and candidate."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from compress.decoders.slates import SlateBatch, score_slates
from models.decoder import Decoder

LABELS = (3, 5)


def _causal(layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    groups = q.shape[1] // k.shape[1]
    k, v = k.repeat_interleave(groups, 1), v.repeat_interleave(groups, 1)
    scores = torch.einsum("ihd,jhd->hij", q, k) / q.shape[-1] ** 0.5
    hidden = torch.ones(len(q), len(q), dtype=torch.bool).triu(1)
    return torch.einsum("hij,jhd->ihd", scores.masked_fill(hidden, -torch.inf).softmax(-1), v)


def _alone(decoder: Decoder, ids: list[int]) -> float:
    hidden = decoder(torch.tensor(ids), torch.arange(len(ids)), _causal)[-1]
    yes, no = decoder.output_embedding[list(LABELS)]
    return float(decoder.model.norm(hidden) @ (yes - no))


@settings(max_examples=15, deadline=None)
@given(st.integers(1, 3), st.integers(1, 4), st.integers(0, 2**31))
def test_every_candidate_scores_as_if_alone(
    tiny_decoder: Decoder, slates: int, count: int, seed: int
) -> None:
    random = np.random.default_rng(seed)
    vocabulary = tiny_decoder.config.vocab_size
    contexts = [random.integers(vocabulary, size=random.integers(1, 9)) for _ in range(slates)]
    candidates = [
        [random.integers(vocabulary, size=random.integers(1, 7)) for _ in range(count)]
        for _ in range(slates)
    ]
    packed = score_slates(tiny_decoder, SlateBatch.pack(contexts, candidates), LABELS)
    for row, (context, slate) in enumerate(zip(contexts, candidates, strict=True)):
        for column, candidate in enumerate(slate):
            expected = _alone(tiny_decoder, [*context.tolist(), *candidate.tolist()])
            assert packed[row, column].item() == pytest.approx(expected, abs=1e-4)


def test_slates_of_unequal_width_are_refused() -> None:
    ids = np.array([1])
    with pytest.raises(AssertionError):
        SlateBatch.pack([ids, ids], [[ids], [ids, ids]])

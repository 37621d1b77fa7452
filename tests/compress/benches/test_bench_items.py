"""Rows of texts beside vectors: the same slates, fewer tokens, quality where there are grades."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from compress.benches.bench_items import graded_rows, random_pairs, random_rows
from compress.data.requests import Request
from compress.items.stored_candidates import StoredItems
from models.benches.shapes import TINY_SLATE
from models.checkpoint import ModelDirectory
from tests.models.catalogues import JOBS, PROMPT, small_catalogue


def test_random_pairs_share_context_and_ends() -> None:
    pairs = list(random_pairs(TINY_SLATE, 3))
    vocab_size = TINY_SLATE.config.vocab_size
    rows = []
    for text, stored in pairs:
        assert text.block_hashes == stored.block_hashes == pairs[0][0].block_hashes
        for whole, ids in zip(text.candidates, stored.candidates, strict=True):
            assert (ids[0], ids[-1]) == (whole[0], whole[-1])
            rows.append(ids[1])
    assert rows == list(range(vocab_size, vocab_size + 3 * TINY_SLATE.candidates))


def test_random_weights_have_rates_and_no_quality() -> None:
    text, stored = random_rows(TINY_SLATE, 5, "float32")
    assert (text.candidates, stored.candidates) == ("text", "stored")
    assert stored.tokens == 3 < text.tokens
    assert text.slates == stored.slates == 2
    assert text.ndcg_10 is None
    assert 0 < stored.items_p20 <= stored.items_per_s <= stored.items_p80


def test_graded_slates_have_both(tmp_path: Path, tiny_directory: ModelDirectory) -> None:
    texts = tuple(JOBS.values())
    requests = [
        Request(str(number), f"Member {number}", texts, grades, False, False)
        for number, grades in enumerate([(4, 0, 0), (0, 4, 1), (0, 0, 3), (3, 0, 0), (0, 2, 0)])
    ]
    catalogue = small_catalogue(tmp_path, tiny_directory)
    stored = StoredItems(catalogue, {text: name for name, text in JOBS.items()})
    assert stored.prompt == PROMPT
    text, vectors = graded_rows(tiny_directory, requests, stored, "float32")
    assert text.kendall_tau == 1.0
    assert vectors.kendall_tau is not None
    assert vectors.kendall_tau < 1.0
    for row in (text, vectors):
        assert row.gauc is not None
        assert row.ndcg_10_low is not None
        assert 0 <= row.ndcg_10_low <= (row.ndcg_10 or 0) <= 1
    assert replace(vectors, tokens=text.tokens) != text
    template = len(tiny_directory.prompt.frame_candidate((), PROMPT).ids)
    assert vectors.tokens == pytest.approx(template + 2)

"""The student's words: which become tokens, and what their vectors say."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer

from compress.data.tokenizer import MARKERS
from compress.encoders.encoder import load_encoder
from compress.encoders.pair_encoder import PairEncoder
from compress.encoders.pair_teacher import encoder_tokenizer
from compress.students.word_table import principal_parts, token_vectors, word_tokenizer
from tests.compress.small_encoders import write_encoder

TEXTS = ["Weld, steel; phlebotomist.", "Drive trucks: phlebotomist (phlebotomist)"]


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_encoder(tmp_path_factory.mktemp("encoder"))


@pytest.fixture(scope="module")
def source(encoder: Path) -> Tokenizer:
    return encoder_tokenizer(encoder)


def test_a_word_of_the_trade_becomes_one_token(source: Tokenizer) -> None:
    assert len(source.encode("phlebotomist", add_special_tokens=False).tokens) > 1
    ours = word_tokenizer(source, TEXTS, common_words=0, minimum_count=3)
    assert ours.encode("Phlebotomist").tokens == ["phlebotomist"]
    rarer = word_tokenizer(source, TEXTS, common_words=0, minimum_count=4)
    assert len(rarer.encode("Phlebotomist").tokens) > 1


def test_words_are_kept_when_used_or_common(source: Tokenizer) -> None:
    few = word_tokenizer(source, TEXTS, common_words=0, minimum_count=9).get_vocab()
    many = word_tokenizer(source, TEXTS, common_words=1000, minimum_count=9).get_vocab()
    assert "weld" in few
    assert "nurse" not in few
    assert {"weld", "nurse"} <= many.keys()


def test_markers_come_first_and_text_cannot_spell_them(source: Tokenizer) -> None:
    ours = word_tokenizer(source, TEXTS, 0, 3)
    assert [ours.token_to_id(marker) for marker in MARKERS] == list(range(len(MARKERS)))
    assert ours.encode("<match>weld").ids[0] == MARKERS.index("<match>")
    ours.encode_special_tokens = True
    assert MARKERS.index("<match>") not in ours.encode("<match>weld").ids


def test_silent_punctuation_costs_nothing(source: Tokenizer) -> None:
    ours = word_tokenizer(source, TEXTS, 0, 3)
    assert (
        ours.encode("(Weld), steel; drive: trucks").ids
        == ours.encode("weld steel drive trucks").ids
    )
    assert len(ours.encode("weld. steel").ids) == 3


def test_a_vector_is_what_the_encoder_says_of_the_token_alone(
    encoder: Path, source: Tokenizer
) -> None:
    towers = PairEncoder(load_encoder(encoder), joint=False)
    tokens = ["weld", "##ing", "phlebotomist", "steel"]
    read = token_vectors(towers, source, tokens, torch.device("cpu"), torch.float32, batch=2)
    again = token_vectors(towers, source, tokens[2:3], torch.device("cpu"), torch.float32)
    torch.testing.assert_close(read[2:3], again, atol=1e-5, rtol=1e-4)
    assert read.norm(dim=1) == pytest.approx(np.ones(4), abs=1e-5)
    assert (read[0] - read[1]).abs().max() > 1e-3


def test_principal_parts_keep_weighted_distances() -> None:
    generator = torch.Generator().manual_seed(0)
    vectors = torch.randn(40, 6, generator=generator) * torch.tensor([9.0, 5, 2, 1, 0.5, 0.1])
    weights = np.random.default_rng(0).random(40) + 0.1
    parts = principal_parts(vectors, weights, 6)(vectors)
    share = torch.from_numpy(weights / weights.sum()).float()[:, None]
    assert float((share * parts).sum(0).abs().max()) < 1e-4
    assert float((share * parts.square()).sum()) == pytest.approx(6, rel=1e-4)
    spread = (share * parts.square()).sum(0)
    assert (spread.diff() <= 1e-5).all()
    ratio = torch.cdist(parts, parts) / torch.cdist(vectors, vectors)
    kept = ratio[~torch.eye(40, dtype=torch.bool)]
    assert kept.max() / kept.min() == pytest.approx(1, rel=1e-2)

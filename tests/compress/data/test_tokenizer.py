"""The word tokenizer: case, spacing, and markers that text cannot forge."""

from __future__ import annotations

from pathlib import Path

import pytest
from tokenizers import Tokenizer

from compress.data.tokenizer import MARKERS, save_tokenizer
from tests.full_disk import no_file_above


def test_case_and_place_in_a_sentence_do_not_change_a_word(word_tokenizer: Tokenizer) -> None:
    first, later = (word_tokenizer.encode(text).ids for text in ("Weld", "steel weld"))
    assert later == word_tokenizer.encode("STEEL").ids + first


def test_markers_take_the_first_ids(word_tokenizer: Tokenizer) -> None:
    assert [word_tokenizer.token_to_id(marker) for marker in MARKERS] == list(range(len(MARKERS)))


def test_text_cannot_forge_a_marker(word_tokenizer: Tokenizer) -> None:
    tokenizer = Tokenizer.from_str(word_tokenizer.to_str())
    tokenizer.encode_special_tokens = True
    for text in (*MARKERS, "a<match>b", "<MATCH>"):
        assert not set(tokenizer.encode(text).ids) & set(range(len(MARKERS)))


def test_any_unicode_can_be_encoded(word_tokenizer: Tokenizer) -> None:
    assert len(word_tokenizer.encode("学 naïve 🦀").ids) > 3


def test_a_file_is_that_of_the_library_or_none(tmp_path: Path, word_tokenizer: Tokenizer) -> None:
    word_tokenizer.save(str(tmp_path / "own"))
    save_tokenizer(word_tokenizer, tmp_path / "made" / "ours")
    assert (tmp_path / "made" / "ours").read_bytes() == (tmp_path / "own").read_bytes()
    with no_file_above(1000), pytest.raises(OSError, match="File too large"):
        save_tokenizer(word_tokenizer, tmp_path / "full" / "ours")
    assert not list((tmp_path / "full").iterdir())

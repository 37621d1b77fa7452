"""Where tokens lie among another tokenizer's: every one among those that spell it."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers

from compress.data.token_places import token_places
from compress.students.word_table import word_tokenizer

PIECES = ["[UNK]", "[CLS]", "[SEP]", "weld", "##ing", "##er", "steel", "a", "b", "##b", ",", "."]


def _encoder() -> Tokenizer:
    tokenizer = Tokenizer(
        models.WordPiece({piece: i for i, piece in enumerate(PIECES)}, unk_token="[UNK]")
    )
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    return tokenizer


ENCODER = _encoder()
STUDENT = word_tokenizer(ENCODER, ["welding welding steel"], 0, 2)  # which knows "welding" whole


def test_a_word_of_pieces_lies_from_its_first_to_its_last() -> None:
    ours, theirs = (
        t.encode("Steel, welding.", add_special_tokens=False) for t in (STUDENT, ENCODER)
    )
    assert ours.tokens == ["steel", "welding", "."]
    assert theirs.tokens == ["steel", ",", "weld", "##ing", "."]
    assert token_places([ours], [theirs]).tolist() == [[0, 0], [2, 3], [4, 4]]


@given(st.lists(st.text("weldingrst ,.abWx", max_size=30), min_size=1, max_size=4))
def test_every_token_lies_where_its_letters_lie(texts: list[str]) -> None:
    sides = [t.encode_batch(texts, add_special_tokens=False) for t in (STUDENT, ENCODER)]
    if not all(len(e.ids) for side in sides for e in side):
        return
    places = iter(token_places(*sides).tolist())
    for ours, theirs in zip(*sides, strict=True):
        for start, stop in ours.offsets:
            first, last = next(places)
            assert 0 <= first <= last < len(theirs.ids)
            assert theirs.offsets[first][0] <= start
            assert theirs.offsets[last][1] >= stop

"""At each place where a text may be cut, tokens before it are those of the whole text."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from tokenizers import Tokenizer

from models.text_cut import beginning, can_be_cut
from tests.models.tokenizers import cuttable, uncuttable

PIECES = [
    *"abz09AZ ;,.:()'\"_-<>“”`~|\t\n\r",
    "'s",
    "'re",
    "<yes>",
    "<y",
    "two words",
    "  ",
    "1234",
]
PIECES += [
    "\0",
    "\x1f",
    "\N{NO-BREAK SPACE}",
    "\u200b",
    "\u0301",
    "\u0338",
    "\u0345",
    "中",
    "ﬁ",
    "İ",
]
PIECES += ["ü", "Å", "한", "ᄀ", "ᅡ", "٣", "½", "😀", "ſ", "\u2028", "nurse", "x" * 20]
TEXTS = st.one_of(
    st.lists(st.sampled_from(PIECES), max_size=40).map("".join),
    st.text(st.characters(exclude_categories=["Cs"]), max_size=60),
)
CUTTABLE = cuttable()
UNCUTTABLE = uncuttable()


def places(text: str) -> list[str]:
    """Every part of the text that ends at a cut."""
    parts = (beginning(text, at, at + 2) for at in range(len(text)))
    return [part for part in parts if part is not None]


def ids_and_places(tokenizer: Tokenizer, text: str) -> list[tuple[int, tuple[int, int]]]:
    encoding = tokenizer.encode(text, add_special_tokens=False)
    return list(zip(encoding.ids, encoding.offsets, strict=True))


@pytest.mark.parametrize("name", CUTTABLE)
@given(text=TEXTS)
@example("a <yes> b “ c” d;e 12 34,5 it's; they're. _x_ ü a")
def test_tokens_before_a_cut_are_the_first_of_the_whole_text(name: str, text: str) -> None:
    tokenizer = CUTTABLE[name]
    tokenizer.encode_special_tokens = True
    assert can_be_cut(tokenizer)
    whole = ids_and_places(tokenizer, text)
    for part in places(text):
        found = ids_and_places(tokenizer, part)
        assert found == whole[: len(found)]


@pytest.mark.parametrize("name", UNCUTTABLE)
def test_a_tokenizer_not_known_to_be_safe_is_not_cut(name: str) -> None:
    assert not can_be_cut(UNCUTTABLE[name])


def test_a_cut_follows_the_least_and_precedes_the_most() -> None:
    assert beginning("ab cd ef", 0, 8) == "ab"
    assert beginning("ab cd ef", 2, 8) == "ab cd"
    assert beginning("ab cd ef", 2, 5) is None
    assert beginning("ab cd ef", 5, 8) is None


@pytest.mark.parametrize("text", ["it's", "a_b", "; ;", "中 中", "aé", "a\tb", "ab"])
def test_words_and_marks_that_may_go_together_stay_so(text: str) -> None:
    assert places(text) == []

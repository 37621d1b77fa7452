"""What tokens say of texts, facts and words."""

from __future__ import annotations

import pytest
from tokenizers import Tokenizer

from compress.decoders.fact_layout import TokenMarks
from compress.reasons.marks import token_marks
from compress.reasons.reasoner import cased_tokenizer

FACTS = ["Weld copper", "Weld steel", "Weld pipes", "welding", "welders"]
TEXTS = ["Headline: Weld. Tools: Pen. Experience: welding; welders, copper steel pipes."]


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return cased_tokenizer((TEXTS + FACTS) * 5, 700)


@pytest.fixture(scope="module")
def marks(tokenizer: Tokenizer) -> TokenMarks:
    return token_marks(tokenizer, FACTS)


def test_tokens_that_begin_alike_share_a_stem(tokenizer: Tokenizer, marks: TokenMarks) -> None:
    lower, upper, longer, other = (
        int(marks.stems[tokenizer.encode(word).ids[0]])
        for word in ("copper", "Copper", "coppers", "steel")
    )
    assert lower == longer != other
    assert tokenizer.encode("Copper").ids != tokenizer.encode("copper").ids or lower == upper


def test_what_stands_in_fewer_facts_is_rarer(tokenizer: Tokenizer, marks: TokenMarks) -> None:
    common, rare, field = (
        float(marks.rarity[tokenizer.encode(word).ids[0]]) for word in ("Weld", "copper", "Tools")
    )
    assert 0 < common < rare
    assert field == 0

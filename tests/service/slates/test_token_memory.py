"""A text is tokenized once while it is remembered, and each scope for itself."""

from __future__ import annotations

from collections.abc import Sequence

from models.prompt import EncodedCandidate
from service.slates.token_memory import (
    BYTES_OF_CHARACTER,
    BYTES_OF_ENTRY,
    BYTES_OF_TOKEN,
    TokenMemory,
)

ENTRY = BYTES_OF_ENTRY + BYTES_OF_CHARACTER + BYTES_OF_TOKEN  # a character that is one token


class Tokenizer:
    """One token a text; notes what it was asked."""

    def __init__(self) -> None:
        self.asked: list[list[str]] = []

    def __call__(self, texts: Sequence[str]) -> list[EncodedCandidate]:
        self.asked.append(list(texts))
        return [EncodedCandidate((ord(text),), truncated=False) for text in texts]


def ids(encoded: Sequence[EncodedCandidate]) -> str:
    return "".join(chr(one.ids[0]) for one in encoded)


def test_only_what_is_not_known_is_tokenized_and_all_keep_their_places() -> None:
    memory, tokenize = TokenMemory(10 * ENTRY), Tokenizer()
    assert ids(memory.encode("", ["a", "b", "a"], tokenize)) == "aba"
    assert ids(memory.encode("", ["c", "a", "b"], tokenize)) == "cab"
    assert ids(memory.encode("", ["b"], tokenize)) == "b"
    assert tokenize.asked == [["a", "b"], ["c"]]


def test_one_scope_knows_nothing_of_another() -> None:
    memory, tokenize = TokenMemory(10 * ENTRY), Tokenizer()
    memory.encode("", ["a"], tokenize)
    memory.encode("tenant:ada", ["a"], tokenize)
    assert tokenize.asked == [["a"], ["a"]]


def test_the_least_recently_used_is_forgotten_above_the_budget() -> None:
    memory, tokenize = TokenMemory(2 * ENTRY), Tokenizer()
    for text in "abac":  # "b" goes for "c"
        memory.encode("", [text], tokenize)
    tokenize.asked.clear()
    assert ids(memory.encode("", ["a", "c", "b"], tokenize)) == "acb"
    assert tokenize.asked == [["b"]]


def test_without_a_budget_nothing_is_remembered() -> None:
    memory, tokenize = TokenMemory(0), Tokenizer()
    for _ in range(2):
        assert ids(memory.encode("", ["a", "b"], tokenize)) == "ab"
    assert tokenize.asked == [["a", "b"]] * 2

"""First tokens of long texts are those of the whole text, and little more than they is read."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from tokenizers import Encoding, Tokenizer

from models.errors import PromptError
from models.text_tokenizer import CHARACTERS, GROWTH, TextTokenizer
from tests.models.test_text_cut import TEXTS
from tests.models.tokenizers import cuttable, uncuttable

UNSAFE = ("no splits", "metaspace", "stripped", "across a cut")
KNOWN = cuttable() | {name: uncuttable()[name] for name in UNSAFE}
LONG = st.lists(TEXTS, max_size=8).map("".join)


@dataclass(frozen=True)
class Pair:
    """A tokenizer of texts and the one that it reads."""

    texts: TextTokenizer
    peer: Tokenizer


@pytest.fixture(scope="module")
def paths(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("tokenizers")
    found = {name: folder / f"{number}.json" for number, name in enumerate(KNOWN)}
    for name, path in found.items():
        KNOWN[name].save(str(path))
    return found


@pytest.fixture(scope="module")
def pairs(paths: dict[str, Path]) -> dict[str, Pair]:
    found = {
        name: Pair(TextTokenizer(path), Tokenizer.from_file(str(path)))
        for name, path in paths.items()
    }
    for pair in found.values():
        pair.peer.encode_special_tokens = True
    return found


class Spy:
    """Encodes as a tokenizer does, in batches only, and notes how many characters of what."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self.lengths: list[int] = []

    def encode_batch(self, texts: list[str], add_special_tokens: bool) -> list[Encoding]:
        self.lengths.extend(map(len, texts))
        return self._tokenizer.encode_batch(texts, add_special_tokens=add_special_tokens)

    encode_batch_fast = encode_batch


def old_read(tokenizer: Tokenizer, text: str, room: int) -> tuple[list[int], str]:
    """All ids, and the part that `room` of them stand for, found from the whole text."""
    encoding = tokenizer.encode(text, add_special_tokens=False)
    read = text if len(encoding.ids) <= room else text[: encoding.offsets[room - 1][1]]
    return encoding.ids, read


@pytest.mark.parametrize("name", KNOWN)
@given(texts=st.lists(LONG, max_size=3), room=st.integers(1, 6))
@example(["a" + " " * 60 + "b", "a b" * 20, "\0" * 50 + "a;b" * 9, "long two words more"], 1)
def test_the_first_of_a_long_text_are_those_of_the_whole(
    name: str, pairs: dict[str, Pair], texts: list[str], room: int
) -> None:
    tokenizer, peer = pairs[name].texts, pairs[name].peer
    first = tokenizer.first_ids(texts, room)
    assert len(first) == len(texts)
    for text, ids in zip(texts, first, strict=True):
        whole, read = old_read(peer, text, room)
        assert ids[:room] == whole[:room]
        assert (len(ids) > room) == (len(whole) > room)
        assert tokenizer.first_part(text, room) == read
        assert tokenizer.count(text) == len(whole)
        assert tokenizer.ids([text]) == [whole]


@pytest.mark.parametrize("text", ["b;" * 9000, "word " * 4000, ("x" * 150 + " ") * 2000])
@pytest.mark.parametrize("name", ["demo", "demo_reason"])
def test_little_more_is_encoded_than_can_be_read(
    name: str, text: str, pairs: dict[str, Pair], monkeypatch: pytest.MonkeyPatch
) -> None:
    tokenizer, room = pairs[name].texts, 10
    needed = len(old_read(pairs[name].peer, text, room + 1)[1])
    spy = Spy(pairs[name].peer)
    monkeypatch.setattr(tokenizer, "_tokenizer", spy)
    tokenizer.first_ids([text], room)
    tokenizer.first_part(text, room)
    assert room < max(spy.lengths) <= GROWTH * max(CHARACTERS * room, needed) + 200


@pytest.mark.parametrize("words", [65_615, 65_616, 65_617])
def test_the_first_cut_is_found_wherever_it_stands(
    words: int, pairs: dict[str, Pair], monkeypatch: pytest.MonkeyPatch
) -> None:
    text, tokenizer, spy = (
        "é" * words + "a" + ";b" * 300,
        pairs["demo"].texts,
        Spy(pairs["demo"].peer),
    )
    monkeypatch.setattr(tokenizer, "_tokenizer", spy)
    tokenizer.first_ids([text], 10)
    assert spy.lengths[0] == words + 1


def test_a_text_that_cannot_be_cut_is_encoded_once(
    pairs: dict[str, Pair], monkeypatch: pytest.MonkeyPatch
) -> None:
    text = "中" * 500
    tokenizer, spy = pairs["demo"].texts, Spy(pairs["demo"].peer)
    monkeypatch.setattr(tokenizer, "_tokenizer", spy)
    assert len(tokenizer.first_ids([text, "a"], 3)[0]) > 3
    assert spy.lengths == [500, 1]


def test_a_lone_surrogate_behind_what_is_read_is_refused(pairs: dict[str, Pair]) -> None:
    tokenizer, text = pairs["demo"].texts, "a b " * 1000 + "\ud800"
    for ask in (
        lambda: tokenizer.first_ids(["a", text], 3),
        lambda: tokenizer.first_part(text, 3),
        lambda: tokenizer.count(text),
        lambda: tokenizer.ids([text]),
    ):
        with pytest.raises(PromptError, match="valid Unicode"):
            ask()

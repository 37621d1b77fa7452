"""Tokenizes texts, and of long ones no more than what can be read. Knows no templates.

A batch, even of one text, is encoded without the interpreter's lock, and of what comes back nothing
is asked that makes an object for each token of a long text: other threads would stand still.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from tokenizers import Encoding, Tokenizer

from models.errors import ModelDirectoryError, PromptError
from models.text_cut import beginning, can_be_cut

CHARACTERS = 8  # tried for each token that may be read; few texts take more
GROWTH = 4  # of what is tried where that held too few tokens

_Encode = Callable[[list[str]], list[Encoding]]


class TextTokenizer:
    """Thread-safe. Methods raise PromptError for what is no Unicode.

    No text turns into a special token.
    """

    def __init__(self, path: Path) -> None:
        self._tokenizer = load_tokenizer(path)
        self._tokenizer.encode_special_tokens = True
        self._can_be_cut = can_be_cut(self._tokenizer)

    @property
    def largest_token(self) -> int:
        """The largest id that text may be turned into."""
        return max(self._tokenizer.get_vocab(with_added_tokens=True).values())

    def ids(self, texts: Sequence[str]) -> list[list[int]]:
        """All token ids of each text."""
        return [encoding.ids for encoding in self._encode_fast(_checked(texts))]

    def first_ids(self, texts: Sequence[str], room: int) -> list[list[int]]:
        """The ids of each text that has no more than `room`, else more than `room` of its first."""
        found = self._first(_checked(texts), room, self._encode_fast)
        return [encoding.ids for encoding in found]

    def count(self, text: str) -> int:
        """How many tokens the text has."""
        return len(self._encode_fast(_checked([text]))[0])

    def first_part(self, text: str, room: int) -> str:
        """The part of the text that its first `room` tokens stand for."""
        (encoding,) = self._first(_checked([text]), room, self._encode_with_places)
        if len(encoding) <= room:
            return text
        place = encoding.token_to_chars(room - 1)
        assert place is not None, "a token of a text has its place there"
        return text[: place[1]]

    def _first(self, texts: list[str], room: int, encode: _Encode) -> list[Encoding]:
        """Of the beginning of each text that holds more than `room` tokens, or of the whole."""
        found: dict[int, Encoding] = {}
        left, tried = list(range(len(texts))), CHARACTERS * room
        while left:
            parts = [self._part(texts[index], tried) for index in left]
            found.update(zip(left, encode(parts), strict=True))
            left = [
                index
                for index, part in zip(left, parts, strict=True)
                if len(found[index]) <= room and len(part) < len(texts[index])
            ]
            tried *= GROWTH
        return [found[index] for index in range(len(texts))]

    def _part(self, text: str, tried: int) -> str:
        """The shortest of `tried` characters or more, up to a cut."""
        if self._can_be_cut:
            for least, most in _windows(tried, len(text)):
                if part := beginning(text, least, most):
                    return part
        return text

    def _encode_fast(self, texts: list[str]) -> list[Encoding]:
        return self._tokenizer.encode_batch_fast(texts, add_special_tokens=False)

    def _encode_with_places(self, texts: list[str]) -> list[Encoding]:
        return self._tokenizer.encode_batch(texts, add_special_tokens=False)


def load_tokenizer(path: Path) -> Tokenizer:
    """Raises ModelDirectoryError."""
    try:
        tokenizer = Tokenizer.from_file(str(path))
    except Exception as error:  # tokenizers raises nothing narrower
        raise ModelDirectoryError(f"{path}: cannot be read ({error}); export it again") from error
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


def _windows(start: int, end: int) -> Iterator[tuple[int, int]]:
    """Ranges that are searched one after the other, so that none holds the lock for long."""
    step = 1 << 16
    for least in range(start, end, step):
        yield least, min(least + step + 1, end)


def _checked(texts: Sequence[str]) -> list[str]:
    try:
        for text in texts:
            text.encode()
    except UnicodeEncodeError as error:
        raise PromptError("text holds a lone surrogate; send valid Unicode") from error
    return list(texts)

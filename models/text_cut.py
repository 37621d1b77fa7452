"""Says where a long text may be cut so that its first tokens stay those of the whole text.

Cuts lie between an ASCII letter or digit and an ASCII space or punctuation mark. Every step of a
tokenizer must be known to treat what stands before such a place as if the text ended there: Unicode
composes nothing across it, and none of the patterns below matches across it. Knows no limits.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

from tokenizers import Tokenizer

# Without the apostrophe, which continues words ("it's"), and the underscore, which is part of them.
_PLACE = re.compile(r"[A-Za-z0-9](?=[ -&(-/:-@\[-^`{-~])")
_LOCAL_NORMALIZERS = frozenset(
    ["BertNormalizer", "Lowercase", "NFC", "NFD", "NFKC", "NFKD", "StripAccents"]
)
_MARKS = re.compile(r"\[[^\w\s\\^\-\[\]&]+\]")  # a class of single marks, each standing for itself
_WORDS = r"[^\r\n\p{L}\p{N}]?\p{L}+"
_REST = r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_SPLITS = frozenset(
    rf"(?i:'s|'t|'re|'ve|'m|'ll|'d)|{_WORDS}|{numbers}|{_REST}"
    for numbers in (r"\p{N}", r"\p{N}{1,3}")
)


def can_be_cut(tokenizer: Tokenizer) -> bool:
    """Whether tokens of what stands before a cut are known to be the first of the whole text.

    The tokenizer must encode special tokens as text.
    """
    return (
        _added_tokens_end_at_cuts(tokenizer)
        and not getattr(tokenizer.model, "dropout", None)
        and all(map(_is_local, _steps(tokenizer.normalizer, "normalizers")))
        and _splits(list(_steps(tokenizer.pre_tokenizer, "pretokenizers")))
    )


def beginning(text: str, least: int, most: int) -> str | None:
    """The text up to its first cut behind `least` and before `most` characters, if it has one."""
    place = _PLACE.search(text, least, most)
    return place and text[: place.end()]


def _added_tokens_end_at_cuts(tokenizer: Tokenizer) -> bool:
    """Whether none that text may turn into reaches across a cut, or is hidden by one that does.

    White space taken in around a token reaches no cut, before which a letter or digit stands.
    """
    known: dict[bool, set[str]] = {True: set(), False: set()}
    for token in tokenizer.get_added_tokens_decoder().values():
        content, normalizer = token.content, tokenizer.normalizer
        known[token.special] |= {content, normalizer.normalize_str(content) if normalizer else ""}
    hiding = {mark for content in known[True] if _PLACE.search(content) for mark in content}
    return not any(_PLACE.search(content) or hiding & set(content) for content in known[False])


def _steps(part: Any, name: str) -> Iterator[dict[str, Any]]:
    if part is not None:
        yield from _flat(json.loads(part.__getstate__()), name)


def _flat(step: dict[str, Any], name: str) -> Iterator[dict[str, Any]]:
    if step["type"] == "Sequence":
        for inner in step[name]:
            yield from _flat(inner, name)
    else:
        yield step


def _is_local(step: dict[str, Any]) -> bool:
    if step["type"] == "Replace":
        pattern = step["pattern"].get("Regex", "")
        return step["content"] == " " and _MARKS.fullmatch(pattern) is not None
    return step["type"] in _LOCAL_NORMALIZERS


def _splits(steps: list[dict[str, Any]]) -> bool:
    """Whether some step splits at every cut, and those around it leave it alone."""
    kinds = list(map(_kind, steps))
    if "splits" not in kinds:
        return False
    first = kinds.index("splits")
    return set(kinds[:first]) <= {"digits"} and "unknown" not in kinds


def _kind(step: dict[str, Any]) -> str:
    match step:
        case {"type": "BertPreTokenizer"} | {"type": "ByteLevel", "use_regex": True}:
            return "splits"
        case {
            "type": "Split",
            "behavior": "Isolated",
            "invert": False,
            "pattern": {"Regex": regex},
        }:
            return "splits" if regex in _SPLITS else "unknown"
        case {"type": "ByteLevel"}:
            return "bytes"
        case {"type": "Digits"}:
            return "digits"
    return "unknown"

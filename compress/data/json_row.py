"""Reads one line of JSON lines, and refuses what JSON itself would let pass. Knows no fields."""

from __future__ import annotations

import json
from typing import Any


def json_row(line: str) -> dict[str, Any]:
    """The object that a line holds.

    Raises ValueError for what is none, for a key given twice, of which a reader would take the last
    value, and for text with half of a surrogate pair, which has no bytes in UTF-8.
    """
    row = json.loads(line, object_pairs_hook=_object)
    if not isinstance(row, dict):
        raise ValueError("a row is no object")
    if "\\u" in line:  # nothing else puts half a pair into a line that was decoded
        _refuse_half_pairs(row)
    return row


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    content = dict(pairs)
    if len(content) < len(pairs):
        names = [name for name, _ in pairs]
        again = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"{again!r} is given twice; keep one")
    return content


def _refuse_half_pairs(row: dict[str, Any]) -> None:
    for name, value in row.items():
        try:
            json.dumps([name, value], ensure_ascii=False).encode()
        except UnicodeEncodeError as error:
            raise ValueError(
                f"{name!r} holds a lone surrogate, {error.object[error.start]!r}"
            ) from error

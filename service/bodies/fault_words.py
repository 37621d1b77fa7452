"""Says what is wrong with a field and what to send instead. Knows pydantic's kinds of faults."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails

OBJECT = "is no object; send one in braces"
NUMBER = "is no whole number; send one"
_WORDS = {
    "missing": "is missing; send it",
    "string_type": "is no text; write it in quotes",
    "string_too_short": "is empty; send at least {min_length} character",
    "list_type": "is no list; send one in brackets",
    "model_type": OBJECT,
    "model_attributes_type": OBJECT,
    "dict_type": OBJECT,
    "document_type": "is neither text nor an object with text; send one of them",
    "too_short": "is empty; send at least {min_length}",
    "int_type": NUMBER,
    "int_parsing": NUMBER,
    "int_from_float": NUMBER,
    "bool_type": "is neither true nor false; send one of them",
    "bool_parsing": "is neither true nor false; send one of them",
    "greater_than_equal": "is too small; send at least {ge}",
    "literal_error": "is unknown; use {expected}",
}


def fault_words(detail: ErrorDetails) -> str:
    """Behind the field's name; pydantic's own words for a kind that is not among ours."""
    words = _WORDS.get(detail["type"])
    if words is None:
        return f"is refused: {detail['msg']}"  # never formatted: it may quote what was sent
    return words.format_map(detail.get("ctx", {}))

"""Lines of JSON lines: objects, each key once, in text that can be encoded."""

from __future__ import annotations

import pytest

from compress.data.json_row import json_row


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("[1]", "no object"),
        ('{"label": [1], "qid": 1, "label": [0]}', "'label' is given twice"),
        ('{"a": {"b": 1, "b": 2}}', "'b' is given twice"),
        (r'{"text": "x\ud800"}', r"'text' holds a lone surrogate, '\\ud800'"),
        (r'{"a": {"b": ["\udc00"]}}', "'a' holds a lone surrogate"),
        (r'{"\uD83D": 1}', "holds a lone surrogate"),
    ],
    ids=range(6),
)
def test_what_a_reader_would_take_for_something_else_is_refused(line: str, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        json_row(line)


def test_every_other_text_is_read_as_it_is() -> None:
    line = r'{"a": "\ud83d\ude00", "b": "\u00e9\\ud800", "c": [{"a": 1}, {"a": 2}]}'
    found = json_row(line)
    assert found == {"a": "\U0001f600", "b": "\u00e9\\ud800", "c": [{"a": 1}, {"a": 2}]}

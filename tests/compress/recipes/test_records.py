"""Records: a file that a power cut left damaged is named, with what to remove."""

from __future__ import annotations

from pathlib import Path

import pytest

from compress.recipes.records import Record, read_records
from compress.stages.stage import StageError

DAMAGED = ["", "{", "[]", "{}", '{"name": "x", "speed": 5}']


@pytest.mark.parametrize("content", [*DAMAGED, None])
def test_a_damaged_or_lost_record_says_what_to_remove(tmp_path: Path, content: str | None) -> None:
    path = tmp_path / "0-train.json"
    if content is not None:
        path.write_text(content)
    with pytest.raises(StageError, match=f"{path}: .* remove it, and {tmp_path / '0-train'} if"):
        Record.read(path)


@pytest.mark.parametrize("content", DAMAGED)
def test_what_was_measured_of_a_model_may_be_damaged_too(tmp_path: Path, content: str) -> None:
    path = tmp_path / ".measured.json"
    path.write_text(content)
    with pytest.raises(StageError, match=f"{path}: cannot be read"):
        read_records(path)

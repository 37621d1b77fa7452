"""Records: a file that a power cut left damaged is named, with what to remove."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from compress.data.requests import Request
from compress.recipes.records import Record, ranker_record, read_records, writer_record
from compress.stages.stage import StageError

WHOLE = '{"name": "x", "stage": "s", "digest": "d", "metrics": %s, "slices": {}, "curve": %s, '
WHOLE += '"parameters": 1, "size": 1, "speed": null, "seconds": 1.0, "losses": %s}'
DAMAGED = ["", "{", "[]", "{}", '{"name": "x", "speed": 5}']
NO_NUMBERS = [('"x"', "[]", "[]"), ("{}", "[]", '["a"]'), ('{"gauc": "b"}', "[]", "[]")]
NO_NUMBERS += [("{}", "[[0.5, null]]", "[]"), ("{}", "[3]", "[]"), ("{}", "[]", "[true]")]


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


@pytest.mark.parametrize("parts", NO_NUMBERS, ids=str)
def test_a_record_of_what_are_no_numbers_is_damaged(
    tmp_path: Path, parts: tuple[str, str, str]
) -> None:
    path = tmp_path / ".measured.json"
    path.write_text('{"stages": [' + WHOLE % ('{"gauc": 0.5}', "[[0.5, 0.5, 9]]", "[1.5]") + "]}")
    assert [record.name for record in read_records(path)] == ["x"]
    path.write_text('{"stages": [' + WHOLE % parts + "]}")
    with pytest.raises(StageError, match=f"{path}: cannot be read"):
        read_records(path)


@pytest.mark.parametrize("count", [1, 2])
def test_a_single_request_has_a_speed(tiny_model_dir: Path, count: int) -> None:
    request = Request("a", "Welder", ("Roofer", "Nurse"), (2, 0))
    speed = ranker_record("x", "s", tiny_model_dir, [request] * count, [{}] * count).speed
    assert speed
    # Of one slate, which is its own median.
    assert speed.items_per_s * speed.slate_ms / 1000 == pytest.approx(2)


def test_a_models_size_is_that_of_its_own_files(tiny_model_dir: Path, tmp_path: Path) -> None:
    directory = tmp_path / "model"
    shutil.copytree(tiny_model_dir, directory)
    alone = writer_record("x", "s", directory, {}).size
    (directory / "data").mkdir()
    (directory / "data" / "rows.gz").write_bytes(bytes(10_000))
    (directory / ".hidden").write_bytes(bytes(10_000))
    assert writer_record("x", "s", directory, {}).size == alone

"""A working folder belongs to one run at a time, and to none but the run that began it."""

from __future__ import annotations

from pathlib import Path

import pytest

from compress.stages.own_work import (
    ORIGIN_NAME,
    alone_in,
    named_digests,
    path_digest,
    refuse_others_work,
)
from compress.stages.stage import RecipeError, StageError


def test_one_run_at_a_time(tmp_path: Path) -> None:
    work = tmp_path / "out.work"
    with (
        alone_in(work),
        pytest.raises(RecipeError, match="another run is at work"),
        alone_in(work),
    ):
        pass
    with alone_in(work):
        pass


def test_the_run_that_began_it_goes_on_and_no_other(tmp_path: Path) -> None:
    (tmp_path / f"{ORIGIN_NAME}.writing").touch()  # killed at its very start
    for _ in range(2):
        refuse_others_work(["train", 7, {"rate": 0.1}], tmp_path)
        (tmp_path / "train.pt").touch()
    with pytest.raises(RecipeError, match="another recipe"):
        refuse_others_work(["train", 7, {"rate": 0.2}], tmp_path)


def test_a_folder_that_no_run_began_is_left_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("precious")
    with pytest.raises(RecipeError, match="holds files, but no run"):
        refuse_others_work(["train"], tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_a_damaged_beginning_is_named(tmp_path: Path) -> None:
    (tmp_path / ORIGIN_NAME).touch()
    with pytest.raises(StageError, match="damaged; remove"):
        refuse_others_work(["train"], tmp_path)


def test_what_options_name_is_part_of_where_weights_come_from(tmp_path: Path) -> None:
    teacher, data = tmp_path / "teacher", tmp_path / "data"
    for folder in (teacher / "deep", data):
        folder.mkdir(parents=True)
    (teacher / "deep" / "weights").write_text("one")
    (data / "examples.jsonl").write_text("{}")
    options = {"teachers": [{"path": str(teacher)}], "examples": "examples.jsonl", "end": "." * 999}
    before = named_digests(options, data)
    assert len(before) == 2
    (teacher / "deep" / "weights").write_text("two")
    after = named_digests(options, data)
    assert (after[0] != before[0], after[1] == before[1]) == (True, True)
    assert path_digest(data / "examples.jsonl") == after[1]

"""A working folder belongs to one run at a time, and to none but the run that began it."""

from __future__ import annotations

from pathlib import Path

import pytest

from compress.stages.own_work import (
    ORIGIN_NAME,
    alone_in,
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


def test_the_digest_of_a_place_is_of_all_files_below_it(tmp_path: Path) -> None:
    teacher = tmp_path / "teacher"
    (teacher / "deep").mkdir(parents=True)
    weights = teacher / "deep" / "weights"
    weights.write_text("one")
    before, file_before = path_digest(teacher), path_digest(weights)
    weights.write_text("two")
    assert path_digest(teacher) != before
    assert path_digest(weights) != file_before
    weights.write_text("one")
    assert (path_digest(teacher), path_digest(weights)) == (before, file_before)

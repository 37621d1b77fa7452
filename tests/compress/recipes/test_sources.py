"""What a run comes from: which paths count, and what changes between two stages is noticed."""

from __future__ import annotations

import gzip
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from compress.pipeline import main
from compress.recipes import records, run
from compress.recipes.recipe import Recipe, RecipeStage
from compress.recipes.run import Run
from compress.recipes.sources import stages_of
from compress.stages.own_work import path_digest
from tests.compress.small_recipe import stages, write_recipe


def test_only_what_a_stage_says_is_a_path_is_read_as_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    examples = tmp_path / "data" / "examples.jsonl"
    for folder in (examples.parent, tmp_path / "lexicon", tmp_path / "teacher"):
        folder.mkdir()
        (folder / "examples.jsonl").write_text(folder.name)
    monkeypatch.chdir(tmp_path)
    text = {"task": "text", "examples": "examples.jsonl", "phases": [{"steps": 1}]}
    teachers = [{"path": "lexicon"}, {"path": "teacher"}]
    taught = RecipeStage("distill", options=text | {"teachers": teachers})
    named = RecipeStage("calibrate", options={"name": "teacher", "version": "/"})
    _, distill, calibrate = stages_of(Recipe("data", 1, 1, (RecipeStage("lexicon"), taught, named)))
    # The lexicon is the stage, whatever folder has its name.
    assert distill[3] == [path_digest(tmp_path / "teacher"), path_digest(examples)]
    assert calibrate == ["calibrate", "calibrate", {"name": "teacher", "version": "/"}, []]


def _append(path: Path) -> None:
    with gzip.open(path, "at", encoding="utf-8") as file:
        file.write("\n")


def _before_stage(monkeypatch: pytest.MonkeyPatch, title: str, change: Callable[[], None]) -> None:
    make = Run._make

    def changed(self: Run, name: str, *rest: Any) -> None:
        if name == title:
            change()
        make(self, name, *rest)

    monkeypatch.setattr(Run, "_make", changed)


@pytest.mark.long
def test_data_that_change_between_two_stages_are_noticed_before_the_next_starts(
    tmp_path: Path,
    small_data: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    data, out, work = tmp_path / "data", tmp_path / "model", tmp_path / "model.work"
    shutil.copytree(small_data, data)
    recipe, table = write_recipe(tmp_path, data, stages(0.3, steps=2)), data / "tasks.csv.gz"
    whole = table.read_bytes()
    monkeypatch.setattr(sys, "argv", ["pipeline", str(recipe), "--out", str(out)])
    with monkeypatch.context() as patched:
        _before_stage(patched, "train", lambda: _append(table))
        assert main() == 1
    said = capsys.readouterr().err
    assert f"stage_failed: {table} changed since the run began" in said
    assert f"give the same command again, or remove {work} and begin anew" in said
    assert (work / "0-lexicon").is_dir()
    assert not (work / "1-train.state").exists()
    table.write_bytes(whole)
    assert main() == 0


def test_requests_that_change_while_a_stage_is_measured_leave_it_without_a_record(
    tmp_path: Path,
    small_data: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    data, out = tmp_path / "data", tmp_path / "model"
    shutil.copytree(small_data, data)
    recipe, measure = write_recipe(tmp_path, data, stages(0.3, steps=2)), records.ranker_record

    def late(*given: Any) -> Any:
        _append(data / "valid.jsonl.gz")
        return measure(*given)

    monkeypatch.setattr(run, "ranker_record", late)
    monkeypatch.setattr(sys, "argv", ["pipeline", str(recipe), "--out", str(out)])
    assert main() == 1
    assert "valid.jsonl.gz changed since the run began" in capsys.readouterr().err
    assert not (tmp_path / "model.work" / "0-lexicon").exists()
    assert not (tmp_path / "model.work" / "0-lexicon.json").exists()


def test_a_teacher_that_changes_between_two_stages_is_noticed(
    tmp_path: Path,
    small_data: Path,
    tiny_model_dir: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    teacher, out = tmp_path / "teacher", tmp_path / "model"
    shutil.copytree(tiny_model_dir, teacher)
    (teacher / "model_card.json").rename(teacher / "no_card")  # so that all of it is digested
    lexicon, *_ = stages(0.3, steps=2)
    phases = {"teachers": [{"path": str(teacher)}], "phases": [{"steps": 1}]}
    entries = [lexicon, {"stage": "distill", "options": phases}]
    recipe = write_recipe(tmp_path, small_data, entries)
    _before_stage(monkeypatch, "distill", lambda: (teacher / "more").touch())
    monkeypatch.setattr(sys, "argv", ["pipeline", str(recipe), "--out", str(out)])
    assert main() == 1
    assert f"{teacher} changed since the run began" in capsys.readouterr().err

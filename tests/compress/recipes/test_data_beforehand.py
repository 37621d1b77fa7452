"""What is wrong with the data that a later stage reads is said before the first one has trained."""

from __future__ import annotations

import gzip
import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from compress.data.requests import halves, load_requests
from compress.pipeline import main
from compress.recipes.beforehand import refuse_what_cannot_work
from compress.recipes.recipe import Recipe
from compress.stages.stage import RecipeError
from tests.compress.small_recipe import LEXICON, PRUNE, write_recipe

FIRST = {"stage": "lexicon", "options": LEXICON}
UNTAUGHT: dict[str, Any] = {"teachers": [], "phases": [{"steps": 1, "soft_share": 0.0}]}
RECORDED = UNTAUGHT | {"slates_of": "requests"}
EXAMPLES = UNTAUGHT | {"task": "text", "examples": "texts.jsonl.gz"}
Rows = list[dict[str, Any]]


@pytest.fixture
def data(small_data: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(small_data, tmp_path / "data"))


def _rows(path: Path) -> Rows:
    with gzip.open(path, "rt", encoding="utf-8") as file:
        return [json.loads(line) for line in file]


def _write(path: Path, rows: Rows) -> None:
    with gzip.open(path, "wt", encoding="utf-8") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)


def _short(rows: Rows) -> None:
    rows[2]["grade"].pop()


def _half_a_pair(rows: Rows) -> None:
    rows[2]["tenant"] = "\ud800"


def _refuse(data: Path, stage: str, options: dict[str, Any]) -> None:
    entries = [FIRST, {"stage": stage, "options": options}]
    refuse_what_cannot_work(Recipe.load(write_recipe(data.parent, data, entries)))


@pytest.mark.parametrize(
    ("stage", "options", "split"), [("calibrate", {}, "test"), ("distill", RECORDED, "train")]
)
@pytest.mark.parametrize(
    ("change", "said"),
    [
        (_short, "request 3 has 24 candidates, 0 of them no items, and 23 grades"),
        (_half_a_pair, "cannot be read near line 3 .*lone surrogate"),
    ],
)
def test_a_row_that_only_a_later_stage_reads_is_named(
    data: Path,
    stage: str,
    options: dict[str, Any],
    split: str,
    change: Callable[[Rows], None],
    said: str,
) -> None:
    path = data / f"{split}.jsonl.gz"
    rows = _rows(path)
    change(rows)
    _write(path, rows)
    with pytest.raises(RecipeError, match=f"^{stage}: .*{split}.jsonl.gz: {said}"):
        _refuse(data, stage, options)
    _refuse(data, "train", {})  # which does not read them


def _out(data: Path) -> Path:
    return data.with_name("model")


def _refuse_whole(data: Path, capsys: pytest.CaptureFixture[str], said: str) -> None:
    """The command that the arguments give is refused and leaves nothing begun."""
    assert main() == 1
    assert f"invalid_recipe: {said}" in capsys.readouterr().err
    assert not _out(data).with_name("model.work").exists()


@pytest.mark.parametrize("flag", [(), ("--dry-run",)])
@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("test.jsonl.gz", "calibrate: {}: cannot be read near line"),
        ("related.csv.gz", "lexicon: {}: cannot be read after line"),
    ],
)
def test_a_file_that_is_cut_off_leaves_nothing_begun(
    data: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    name: str,
    said: str,
    flag: tuple[str, ...],
) -> None:
    path = data / name
    path.write_bytes(path.read_bytes()[:-40])
    recipe = write_recipe(data.parent, data, [FIRST, {"stage": "calibrate"}])
    monkeypatch.setattr(sys, "argv", ["pipeline", str(recipe), "--out", str(_out(data)), *flag])
    _refuse_whole(data, capsys, said.format(path))


def _calibrating(data: Path, change: Callable[[Rows], Rows]) -> None:
    """Changes the rows of the half of `valid` that calibrates."""
    path = data / "valid.jsonl.gz"
    held_out = {request.context for request in halves(load_requests(data, "valid"))[1]}
    rows = _rows(path)
    others = [row for row in rows if row["prefix"] not in held_out]
    _write(path, others + change([row for row in rows if row["prefix"] in held_out]))


@pytest.mark.parametrize("where", ["data", "tenant", "head"])
@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda rows: [], r"0 requests are in the half that calibrates; .* the rarer one has 0;"),
        (
            lambda rows: [row | {"grade": [0] * 24} for row in rows],
            r"[1-9] requests are in the half that calibrates; .* 20 labels of each class,",
        ),
    ],
    ids=["empty", "one class"],
)
def test_too_few_labels_to_calibrate_on_are_refused(
    data: Path, small_data: Path, where: str, change: Callable[[Rows], Rows], said: str
) -> None:
    own = small_data if where == "data" else Path(shutil.copytree(data, data.with_name("own")))
    named = {"data": {}, "tenant": {"tenants": {"acme": {"score": str(own)}}}}
    options = named.get(where, {"heads": {"score": str(own)}})
    _refuse(data, "calibrate", options)
    _calibrating(data if where == "data" else own, change)
    with pytest.raises(RecipeError, match=rf"^calibrate: .*valid\.jsonl\.gz: {said}"):
        _refuse(data, "calibrate", options)


def test_labels_that_no_head_learns_from_may_be_few(data: Path, small_data: Path) -> None:
    _calibrating(data, lambda rows: [])
    _refuse(data, "calibrate", {"heads": {"score": str(small_data)}})


def test_items_that_a_catalogue_cannot_hold_are_named(data: Path) -> None:
    _refuse(data, "embed_items", {})
    items = _rows(data / "items.jsonl.gz")
    numbers = {item["id"]: number for number, item in enumerate(items)}
    _write(data / "items.jsonl.gz", [item | {"id": numbers[item["id"]]} for item in items])
    for split in ("train", "valid", "test"):
        path = data / f"{split}.jsonl.gz"
        rows = _rows(path)
        _write(path, [row | {"cand": [numbers[one] for one in row["cand"]]} for row in rows])
    _refuse(data, "calibrate", {})
    with pytest.raises(RecipeError, match=r"^embed_items: .*items\.jsonl\.gz: line 1: id and text"):
        _refuse(data, "embed_items", {})


def test_a_file_of_examples_is_read_too(data: Path) -> None:
    good = {"context": "Nurse", "candidate": "Roofer", "answer": "No"}
    _write(data / "texts.jsonl.gz", [good])
    _refuse(data, "distill", EXAMPLES)
    _write(data / "texts.jsonl.gz", [good, {"context": "Nurse"}])
    with pytest.raises(
        RecipeError, match=r"^distill: .*texts\.jsonl\.gz: not gzipped JSON lines of"
    ):
        _refuse(data, "distill", EXAMPLES)


@pytest.mark.parametrize("flag", [(), ("--dry-run",)])
@pytest.mark.parametrize(
    ("split", "said"),
    [
        ("test", "calibrate: {} is missing, and this stage reads it"),
        ("valid", "{} is missing, and gates are held on it"),
        ("train", "prune: {} is missing, and this stage reads it"),
    ],
)
def test_a_missing_split_is_refused_before_a_stage_trains(
    data: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    split: str,
    said: str,
    flag: tuple[str, ...],
) -> None:
    missing = data / f"{split}.jsonl.gz"
    missing.unlink()
    prune: dict[str, Any] = {"stage": "prune", "options": PRUNE}
    entries = [FIRST, prune, {"stage": "calibrate"}]
    recipe = write_recipe(data.parent, data, entries)
    monkeypatch.setattr(sys, "argv", ["pipeline", str(recipe), "--out", str(_out(data)), *flag])
    _refuse_whole(data, capsys, said.format(missing))

"""What a run refuses before a stage trains for nothing."""

from __future__ import annotations

import gzip
import json
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest

from compress.pipeline import main
from compress.recipes.recipe import Recipe
from compress.recipes.run import Run
from compress.stages.stage import StageError
from models.calibration import Calibration
from models.checkpoint import load_model_directory
from models.item_encoder import ENCODER_PATH, load_item_encoder
from tests.compress.small_recipe import DISTILL, stages, write_recipe


def _recipe(directory: Path, data: Path) -> Path:
    return write_recipe(directory, data, stages(0.3))


def test_a_recipe_without_its_data_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = _recipe(tmp_path, tmp_path / "nowhere")
    monkeypatch.setattr(sys, "argv", ["pipeline", str(recipe), "--out", str(tmp_path / "model")])
    assert main() == 1
    assert "is no folder here" in capsys.readouterr().err


def test_a_split_without_a_selecting_half_is_refused_before_a_stage_trains(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    data = tmp_path / "data"
    data.mkdir()
    row = {"qid": "e", "prefix": "p", "cand": [0, 0], "label": [1, 0]}  # "e" is of the other half
    for name, content in (("items", {"id": 0, "text": "t"}), ("valid", row)):
        (data / f"{name}.jsonl.gz").write_bytes(gzip.compress(json.dumps(content).encode()))
    recipe = _recipe(tmp_path, data)
    monkeypatch.setattr(sys, "argv", ["pipeline", str(recipe), "--out", str(tmp_path / "model")])
    assert main() == 1
    assert "none of its groups falls into the half" in capsys.readouterr().err
    assert not (tmp_path / "model.work").exists()


def test_a_gate_on_slices_that_the_data_lack_is_refused_before_a_stage_trains(
    tmp_path: Path,
    small_data: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    lexicon, *rest = stages(0.3, steps=2)
    rest[-1]["gates"] = ["tenant gauc drop <= 0.5 against lexicon"]
    recipe, out = write_recipe(tmp_path, small_data, [lexicon, *rest]), tmp_path / "model"
    monkeypatch.setattr(sys, "argv", ["pipeline", str(recipe), "--out", str(out)])
    assert main() == 1
    assert "calibrate: valid has no tenant of 10 requests or more" in capsys.readouterr().err
    assert not out.with_name("model.work").exists()


def _given(directory: Path, data: Path, source: Path, entries: list[dict[str, Any]]) -> Path:
    """A recipe from `source` on; `test` is `valid` under another name."""
    same = Path(shutil.copytree(data, directory / "data"))
    shutil.copyfile(same / "valid.jsonl.gz", same / "test.jsonl.gz")
    recipe = write_recipe(directory, same, entries)
    recipe.write_text(recipe.read_text() + f"source: {source}\n")
    return recipe


def test_a_stage_that_fails_leaves_nothing_of_its_model(
    tmp_path: Path, data: Path, tiny_model_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Path] = []

    def fail(*arguments: object) -> None:
        seen.extend((tmp_path / "out.work").glob("unfinished/*.safetensors"))
        raise StageError("no")

    monkeypatch.setattr("compress.measure.calibrate._Fits.fit", fail)
    recipe = _given(tmp_path, data, tiny_model_dir, [{"stage": "calibrate"}])
    with pytest.raises(StageError, match="no"):
        Run(Recipe.load(recipe), tmp_path / "out").start()
    assert seen
    assert not list((tmp_path / "out.work").glob("unfinished*"))


def test_a_damaged_item_encoder_is_not_published_and_a_whole_one_is(
    tmp_path: Path, data: Path, tiny_model_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    items = {"stage": "embed_items", "options": {"steps": 1, "slates": 1, "inner": 8}}
    path = _given(tmp_path, data, tiny_model_dir, [items, {"stage": "calibrate"}])
    recipe, out = Recipe.load(path), tmp_path / "out"

    def fail(*arguments: object) -> None:
        raise StageError("no")

    with monkeypatch.context() as failing:
        failing.setattr("compress.measure.calibrate._Fits.fit", fail)
        with pytest.raises(StageError, match="no"):
            Run(recipe, out).start()
    encoder = tmp_path / "out.work" / "0-embed_items" / ENCODER_PATH
    whole = encoder.read_bytes()
    encoder.write_bytes(whole[:100])
    with pytest.raises(StageError, match=rf"{encoder} is not as the stage wrote it; remove"):
        Run(recipe, out).start()
    encoder.write_bytes(whole)
    # Random weights rank no better than chance, which is not calibrated.
    monkeypatch.setattr("compress.measure.calibrate._Fits.fit", lambda *_: Calibration())
    Run(recipe, out).start()
    load_item_encoder(out / ENCODER_PATH, load_model_directory(out))
    assert (out / ENCODER_PATH).read_bytes() == whole


@pytest.mark.long
@pytest.mark.parametrize("name", ["source", "teacher"])
def test_a_stage_may_learn_from_each_directory_that_a_recipe_is_given(
    tmp_path: Path, small_data: Path, name: str
) -> None:
    lexicon, train, _ = stages(0.3, steps=2)
    given = write_recipe(tmp_path, small_data, [lexicon, train]), tmp_path / "given"
    Run(Recipe.load(given[0]), given[1]).start()
    taught = DISTILL | {"teachers": [{"path": name}]}
    recipe = write_recipe(tmp_path, small_data, [{"stage": "distill", "options": taught}])
    recipe.write_text(recipe.read_text() + f"source: {given[1]}\nteacher: {given[1]}\n")
    Run(Recipe.load(recipe), tmp_path / "out").start()
    digest = load_model_directory(given[1]).digest
    lineage = load_model_directory(tmp_path / "out").card.lineage
    assert lineage["stages"][-1]["teachers"] == [digest]

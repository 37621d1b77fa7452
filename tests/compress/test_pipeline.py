"""The pipeline: a small recipe end to end, its gate, its resume after a kill, its refusals."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import yaml

from compress.pipeline import Recipe, main
from compress.stage import RecipeError
from models.checkpoint import load_model_directory

ROOT = Path(__file__).parents[2]
LEXICON = {
    "vocab_size": 600,
    "hidden_size": 256,
    "intermediate_size": 512,
    "layers": 2,
    "slates": 16,
    "steps": 12,
    "warmup": 2,
    "checkpoint_every": 4,
}
TRAIN = {"steps": 4, "slates": 2, "candidates": 4, "warmup": 2, "checkpoint_every": 2}


def _recipe(directory: Path, data: Path, minimum: float, **lexicon: int) -> Path:
    stages = [
        {"stage": "lexicon", "minimum_gauc": 0.3, "options": LEXICON | lexicon},
        {"stage": "train", "minimum_gauc": minimum, "options": TRAIN},
        {"stage": "calibrate", "minimum_gauc": minimum},
    ]
    path = directory / "recipe.yaml"
    path.write_text(yaml.safe_dump({"data": str(data), "seed": 3, "threads": 1, "stages": stages}))
    return path


def _start(recipe: Path, out: Path) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "compress.pipeline", str(recipe), "--out", str(out)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.Popen(command, cwd=ROOT, env=environment, stderr=subprocess.DEVNULL)


def _wait_for(path: Path, process: subprocess.Popen[Any]) -> None:
    deadline = time.monotonic() + 120
    while not path.exists():
        assert process.poll() is None, "the pipeline ended before its first checkpoint"
        assert time.monotonic() < deadline
        with suppress(subprocess.TimeoutExpired):
            process.wait(0.01)


@pytest.mark.long
def test_a_killed_run_resumes_to_bit_identical_files(tmp_path: Path, small_data: Path) -> None:
    recipe = _recipe(tmp_path, small_data, 0.3)
    assert _start(recipe, tmp_path / "straight").wait() == 0
    killed = _start(recipe, tmp_path / "resumed")
    _wait_for(tmp_path / "resumed.work" / "0-lexicon.state" / "lexicon.pt", killed)
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    assert not (tmp_path / "resumed").exists()
    assert _start(recipe, tmp_path / "resumed").wait() == 0
    first, second = (load_model_directory(tmp_path / name) for name in ("straight", "resumed"))
    assert first.card.files == second.card.files
    assert first.digest == second.digest


def test_a_failed_gate_exits_non_zero_and_leaves_no_artefact(
    tmp_path: Path,
    small_data: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    recipe = _recipe(tmp_path, small_data, 1.01, steps=2)
    out = tmp_path / "model"
    monkeypatch.setattr(sys, "argv", ["pipeline", str(recipe), "--out", str(out)])
    assert main() == 1
    assert "train: valid gauc" in capsys.readouterr().err
    assert not out.exists()
    assert not list(tmp_path.glob("model.work/unfinished"))
    assert not list(tmp_path.glob("model.work/1-train"))


def test_the_card_tells_where_the_model_came_from(tmp_path: Path, small_data: Path) -> None:
    out = tmp_path / "model"
    assert _start(_recipe(tmp_path, small_data, 0.3, steps=4), out).wait() == 0
    card = load_model_directory(out).card
    assert [entry["stage"] for entry in card.lineage["stages"]] == ["lexicon", "train", "calibrate"]
    assert card.metrics["test"]["gauc"]["low"] <= card.metrics["test"]["gauc"]["value"]
    assert set(card.metrics) == {"lexicon", "train", "calibrate", "label_mass", "test"}
    assert "float16" in json.loads((out / "config.json").read_text())["dtype"]
    assert not (tmp_path / "model.work").exists()


def test_an_interrupted_run_says_how_to_go_on(tmp_path: Path, small_data: Path) -> None:
    recipe = _recipe(tmp_path, small_data, 0.3, steps=4000)
    command = [sys.executable, "-m", "compress.pipeline", str(recipe)]
    run = subprocess.Popen(
        [*command, "--out", str(tmp_path / "model")], cwd=ROOT, stderr=subprocess.PIPE, text=True
    )
    _wait_for(tmp_path / "model.work" / "0-lexicon.state" / "lexicon.pt", run)
    run.send_signal(signal.SIGINT)
    _, said = run.communicate(timeout=60)
    assert run.returncode == 130
    assert said.splitlines()[0] == "stage 1 of 3: lexicon"
    assert "the same command goes on from" in said.splitlines()[-1]
    assert "Traceback" not in said


def test_work_of_another_recipe_is_refused_and_another_gate_is_not(
    tmp_path: Path,
    small_data: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    recipe, out = _recipe(tmp_path, small_data, 1.01, steps=2), tmp_path / "model"
    monkeypatch.setattr(sys, "argv", ["pipeline", str(recipe), "--out", str(out)])
    assert main() == 1
    _recipe(tmp_path, small_data, 1.01, steps=3)
    assert main() == 1
    assert "holds a run of another recipe" in capsys.readouterr().err
    _recipe(tmp_path, small_data, 0.3, steps=2)
    assert main() == 0


def test_a_recipe_without_its_data_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = _recipe(tmp_path, tmp_path / "nowhere", 0.3)
    monkeypatch.setattr(sys, "argv", ["pipeline", str(recipe), "--out", str(tmp_path / "model")])
    assert main() == 1
    assert "is no folder here" in capsys.readouterr().err


@pytest.mark.parametrize(
    "content",
    [
        "seed: 1",
        "stages: 3",
        "{data: x, seed: 1, threads: 1, stages: [{stage: bake, minimum_gauc: 0}]}",
        "{data: x, seed: 1, threads: 1, stages: [{stage: train, gate: 0}]}",
        "{data: x, seed: 1, threads: 1, colour: red, stages: []}",
        "][",
    ],
)
def test_a_wrong_recipe_is_refused(tmp_path: Path, content: str) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(content)
    with pytest.raises(RecipeError):
        Recipe.load(path)


def test_the_shipped_recipe_is_valid() -> None:
    recipe = Recipe.load(ROOT / "compress" / "recipes" / "demo_quick.yaml")
    assert [entry.stage for entry in recipe.stages][-1] == "calibrate"

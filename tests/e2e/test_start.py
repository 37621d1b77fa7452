"""A start that must be refused: at once, with a reason, leaving nothing behind."""

from __future__ import annotations

import math
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from models.card import ModelCard, write_card
from models.weight_files import WEIGHTS_NAME
from tests.e2e.server import free_port, spawn

NORM = "model.norm.weight"


def refusal(state: Path, **settings: str) -> str:
    """The last line of a `bentoml serve` that ends before it starts any process."""
    process = spawn(state, settings, free_port())
    assert process.wait(timeout=60) == 1
    assert not (state / "redis").exists(), "no process was started"
    return (state / "serve.log").read_text().splitlines()[-1]


def test_damaged_model_directory_ends_the_start(tmp_path: Path, tiny_model_dir: Path) -> None:
    model = Path(shutil.copytree(tiny_model_dir, tmp_path / "model"))
    weights = model / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"!")
    said = refusal(tmp_path, model=str(model))
    assert said.startswith(f"fairslate refuses to start: FAIRSLATE_MODEL: {weights}")


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a CUDA device")
def test_a_device_that_is_not_there_ends_the_start(tmp_path: Path, tiny_model_dir: Path) -> None:
    said = refusal(tmp_path, model=str(tiny_model_dir), device="cuda")
    assert said.startswith("fairslate refuses to start: no engine can be built as the settings ask")
    assert "finds no CUDA device here; take the device cpu" in said


@pytest.mark.parametrize("value", [math.nan, -math.inf])
def test_weights_that_are_not_finite_end_the_start(
    tmp_path: Path, tiny_model_dir: Path, tiny_card: ModelCard, value: float
) -> None:
    model = Path(shutil.copytree(tiny_model_dir, tmp_path / "model"))
    weights = load_file(model / WEIGHTS_NAME)
    weights[NORM] = torch.full_like(weights[NORM], value)
    save_file(weights, model / WEIGHTS_NAME)
    write_card(model, tiny_card)
    said = refusal(tmp_path, model=str(model))
    assert said.startswith(
        f"fairslate refuses to start: FAIRSLATE_MODEL: {model / WEIGHTS_NAME}: value 0 of {NORM}"
    )
    assert said.endswith("train or export the model again")

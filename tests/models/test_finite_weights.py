"""Weights that are NaN or infinite are named, of every dtype and wherever they stand."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from models import finite_weights
from models.card import ModelCard, write_card
from models.checkpoint import load_decoder, load_model_directory
from models.errors import ModelDirectoryError
from models.finite_weights import check_finite
from models.weight_files import WEIGHTS_NAME, StoredTensor

QUERIES = "model.layers.1.self_attn.q_proj.weight"
DTYPES = {
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn,
}
CASES = [
    (dtype, value)
    for dtype in DTYPES
    for value in ("nan", "-nan", "inf", "-inf")
    if dtype != "F8_E4M3" or "nan" in value  # which has no infinity
]


def stored(path: Path, dtype: str, weight: torch.Tensor) -> dict[str, StoredTensor]:
    """Beside a tensor of codes, whose bits mean something else, and of odd size."""
    tensors = {"codes": torch.full((3,), -1, dtype=torch.int8), "weight": weight}
    save_file(tensors, path / "weights.safetensors", metadata={"format": "pt"})
    named = {"codes": "I8", "weight": dtype}
    return {
        name: StoredTensor(path / "weights.safetensors", tuple(tensors[name].shape), named[name])
        for name in tensors
    }


@pytest.mark.parametrize(("dtype", "value"), CASES)
@pytest.mark.parametrize("place", [0, 4, 5, 29])
def test_the_tensor_and_the_place_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dtype: str, value: str, place: int
) -> None:
    monkeypatch.setattr(finite_weights, "CHUNK", 5)
    weight = torch.randn(5, 6)
    weight.view(-1)[place] = float(value)
    tensors = stored(tmp_path, dtype, weight.to(DTYPES[dtype]))
    with pytest.raises(ModelDirectoryError, match=f"value {place} of weight is NaN or infinite"):
        check_finite(tensors)


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_largest_and_the_smallest_number_pass(tmp_path: Path, dtype: str) -> None:
    limits = torch.finfo(DTYPES[dtype])
    numbers = [limits.max, limits.min, limits.tiny, -0.0, limits.smallest_normal / 2]
    check_finite(stored(tmp_path, dtype, torch.tensor(numbers).to(DTYPES[dtype])))
    check_finite(stored(tmp_path, dtype, torch.empty(0, 4, dtype=DTYPES[dtype])))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_directory_with_such_weights_does_not_load(
    tmp_path: Path, tiny_model_dir: Path, tiny_card: ModelCard, value: float
) -> None:
    model = Path(shutil.copytree(tiny_model_dir, tmp_path / "model"))
    weights = load_file(model / WEIGHTS_NAME)
    weights[QUERIES][3, 5] = value
    save_file(weights, model / WEIGHTS_NAME)
    write_card(model, tiny_card)
    with pytest.raises(ModelDirectoryError, match=f"value 197 of {QUERIES}"):
        load_model_directory(model)
    unread = load_model_directory(model, verify=False)
    with pytest.raises(ModelDirectoryError, match=f"value 197 of {QUERIES}"):
        load_decoder(unread)

"""What a storage dtype cannot hold is refused by name, and nothing is written for it."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from models.card import ModelCard
from models.checkpoint import load_decoder, load_model_directory, save_model_directory
from models.decoder import Decoder
from models.directory import ModelDirectory
from models.item_encoder import ItemEncoder, save_item_encoder
from models.narrowing import WeightRangeError, narrowed

NAME = "model.layers.1.mlp.up_proj.weight"


Store = Callable[[float, torch.dtype], float]


@pytest.fixture
def store(
    tiny_decoder: Decoder, tiny_tokenizer_path: Path, tiny_card: ModelCard, tmp_path: Path
) -> Store:
    """Writes a model with one such weight to `out`, and reads it again."""

    def written(value: float, dtype: torch.dtype) -> float:
        changed = copy.deepcopy(tiny_decoder)
        changed.get_parameter(NAME)[3, 5] = value
        save_model_directory(tmp_path / "out", changed, tiny_tokenizer_path, tiny_card, dtype)
        loaded = load_decoder(load_model_directory(tmp_path / "out"))
        return loaded.get_parameter(NAME)[3, 5].item()

    return written


@pytest.mark.parametrize("value", [65505.0, -70000.0, 1e30])
def test_a_weight_beyond_float16_is_refused_by_name_before_anything_is_written(
    store: Store, tmp_path: Path, value: float
) -> None:
    with pytest.raises(WeightRangeError, match=rf"^{NAME} holds .* float16 none beyond 65504; sto"):
        store(value, torch.float16)
    assert not (tmp_path / "out").exists()
    assert store(value, torch.bfloat16) == torch.tensor(value).bfloat16().item()


@pytest.mark.parametrize("value", [65504.0, -65504.0])
def test_the_largest_that_float16_holds_is_stored(store: Store, value: float) -> None:
    assert store(value, torch.float16) == value


def test_an_item_encoder_is_refused_alike(tiny_directory: ModelDirectory, tmp_path: Path) -> None:
    encoder = ItemEncoder(tiny_directory.config.hidden_size, 1, 8)
    name, weight = next(iter(encoder.named_parameters()))
    weight.data.view(-1)[0] = 1e6
    path = tmp_path / "item_encoder" / "weights.safetensors"
    with pytest.raises(WeightRangeError, match=f"^{name} holds a weight of 1e\\+06"):
        save_item_encoder(path, encoder, tiny_directory, "member_to_jobs")
    assert not path.parent.exists()


def test_what_has_the_dtype_already_or_no_values_stays_as_it_is() -> None:
    kept = {"a": torch.tensor([float("inf")]), "b": torch.zeros(0, dtype=torch.float64)}
    found = narrowed(kept, torch.float32)
    assert torch.equal(found["a"], kept["a"])
    assert found["b"].dtype == torch.float32

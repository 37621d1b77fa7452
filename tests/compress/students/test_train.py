"""The training stage: what it leaves of its source."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer

from compress.decoders.wiring import layers_of
from compress.stages.ranker_card import new_card
from compress.stages.stage import RecipeError, StageInput
from compress.students import train
from models.checkpoint import load_decoder, load_model_directory, save_model_directory
from models.decoder import Decoder


@pytest.fixture
def source(tmp_path: Path, wired: Decoder, word_tokenizer: Tokenizer) -> Path:
    word_tokenizer.save(str(tmp_path / "tokenizer.json"))
    card = replace(new_card("small", "1"), lineage={"stages": []})
    save_model_directory(tmp_path / "source", wired, tmp_path / "tokenizer.json", card)
    return tmp_path / "source"


def _weight(path: Path) -> torch.Tensor:
    return layers_of(load_decoder(load_model_directory(path)))[0].mlp.down_proj.weight


def _trained(source: Path, data: Path, share: float) -> torch.Tensor:
    out = source.with_name(f"trained-{share}")
    stage = StageInput(source, data, out, out.with_suffix(".work"), seed=2, threads=1)
    options = {"steps": 2, "slates": 2, "candidates": 3, "warmup": 1, "trained_share": share}
    train.run(stage, options)
    return _weight(out)


def test_the_trained_share_lies_between_source_and_trained(source: Path, small_data: Path) -> None:
    full, half = (_trained(source, small_data, share) for share in (1.0, 0.5))
    origin = _weight(source)
    assert not torch.equal(full, origin)
    torch.testing.assert_close(half, (full + origin) / 2)


def test_it_needs_a_source(small_data: Path, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="train starts from a model directory"):
        train.run(StageInput(None, small_data, tmp_path / "out", tmp_path, 1, 1), {})

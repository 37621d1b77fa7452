"""Saving and loading model directories, and every way one can be damaged."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from models.card import CARD_NAME, ModelCard, write_card
from models.checkpoint import (
    ModelDirectory,
    load_decoder,
    load_model_directory,
    save_model_directory,
)
from models.decoder import Decoder
from models.directory import WEIGHTS_NAME
from models.errors import ModelDirectoryError

FILES = ["config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json", CARD_NAME]


@pytest.fixture
def copied(tiny_model_dir: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_model_dir, tmp_path / "model"))


def test_weights_come_back_in_fp32(tiny_directory: ModelDirectory, tiny_decoder: Decoder) -> None:
    loaded = load_decoder(tiny_directory)
    for name, tensor in tiny_decoder.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], tensor)
    assert not any(parameter.requires_grad for parameter in loaded.parameters())
    assert not loaded.training


def test_bf16_storage_halves_the_file_and_rounds_once(
    tiny_decoder: Decoder, tiny_tokenizer_path: Path, tiny_card: ModelCard, tmp_path: Path
) -> None:
    save_model_directory(tmp_path, tiny_decoder, tiny_tokenizer_path, tiny_card, torch.bfloat16)
    loaded = load_decoder(load_model_directory(tmp_path)).state_dict()
    for name, tensor in tiny_decoder.state_dict().items():
        assert torch.equal(loaded[name], tensor.bfloat16().float())
    numbers = sum(tensor.numel() for tensor in tiny_decoder.state_dict().values())
    assert (tmp_path / WEIGHTS_NAME).stat().st_size < 2.2 * numbers


def test_untied_outputs_are_saved_and_used(
    tiny_decoder: Decoder, tiny_tokenizer_path: Path, tiny_card: ModelCard, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    untied = Decoder(replace(tiny_decoder.config, tie_word_embeddings=False))
    save_model_directory(tmp_path, untied, tiny_tokenizer_path, tiny_card)
    loaded = load_decoder(load_model_directory(tmp_path))
    assert torch.equal(loaded.output_embedding, untied.output_embedding)


def test_digest_is_the_cards(tiny_directory: ModelDirectory) -> None:
    assert tiny_directory.digest == tiny_directory.card.digest
    assert len(tiny_directory.digest) == 64


@pytest.mark.parametrize("name", FILES)
def test_a_missing_file_is_named(copied: Path, name: str) -> None:
    (copied / name).unlink()
    with pytest.raises(ModelDirectoryError, match=name):
        load_model_directory(copied)


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("place", [0.0, 0.3, 0.6, 0.95])
def test_a_flipped_bit_is_found_and_its_file_named(copied: Path, name: str, place: float) -> None:
    content = bytearray((copied / name).read_bytes())
    content[int(place * len(content))] ^= 1
    (copied / name).write_bytes(content)
    with pytest.raises(ModelDirectoryError, match=name):
        load_model_directory(copied)


def test_a_file_the_card_does_not_know_is_named(copied: Path) -> None:
    (copied / "added_tokens.json").write_text("{}")
    with pytest.raises(ModelDirectoryError, match=r"added_tokens\.json"):
        load_model_directory(copied)


def test_a_directory_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ModelDirectoryError, match="nowhere"):
        load_model_directory(tmp_path / "nowhere")


def test_a_cut_off_directory_does_not_load_unverified(copied: Path) -> None:
    weights = (copied / WEIGHTS_NAME).read_bytes()
    (copied / WEIGHTS_NAME).write_bytes(weights[: len(weights) // 2])
    with pytest.raises(ModelDirectoryError, match=WEIGHTS_NAME):
        load_model_directory(copied, verify=False)


def test_weights_that_do_not_fit_the_config_are_named(copied: Path, tiny_card: ModelCard) -> None:
    weights = load_file(copied / WEIGHTS_NAME)
    weights.pop("model.norm.weight")
    save_file(weights, copied / WEIGHTS_NAME)
    write_card(copied, tiny_card)
    with pytest.raises(ModelDirectoryError, match=r"model\.norm\.weight"):
        load_model_directory(copied)


def test_a_config_that_does_not_fit_the_weights_is_refused(
    copied: Path, tiny_card: ModelCard
) -> None:
    config = json.loads((copied / "config.json").read_text())
    (copied / "config.json").write_text(json.dumps(config | {"hidden_size": 32}))
    write_card(copied, tiny_card)
    with pytest.raises(ModelDirectoryError, match=r"model\.safetensors: .* config\.json"):
        load_model_directory(copied)


@pytest.mark.parametrize("content", [[], {"model_type": "gpt2"}, {"model_type": "qwen3"}])
def test_a_config_of_another_model_is_named(
    copied: Path, tiny_card: ModelCard, content: object
) -> None:
    (copied / "config.json").write_text(json.dumps(content))
    write_card(copied, tiny_card)
    with pytest.raises(ModelDirectoryError, match=r"config\.json"):
        load_model_directory(copied)


def test_a_broken_tokenizer_is_named(copied: Path, tiny_card: ModelCard) -> None:
    (copied / "tokenizer.json").write_text("{}")
    write_card(copied, tiny_card)
    with pytest.raises(ModelDirectoryError, match=r"tokenizer\.json"):
        load_model_directory(copied)


def test_limits_above_the_models_positions_are_refused(copied: Path, tiny_card: ModelCard) -> None:
    limits = replace(tiny_card.truncation, max_context_tokens=2048)
    write_card(copied, replace(tiny_card, truncation=limits))
    with pytest.raises(ModelDirectoryError, match="max_position_embeddings"):
        load_model_directory(copied)


def test_transformers_loads_it_as_it_is(tiny_model_dir: Path, tiny_decoder: Decoder) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(tiny_model_dir)
    tokenizer = AutoTokenizer.from_pretrained(tiny_model_dir)
    assert type(model).__name__ == "Qwen3ForCausalLM"
    assert torch.equal(model.lm_head.weight, tiny_decoder.output_embedding)
    assert tokenizer.decode(tokenizer("Member: Welder")["input_ids"]) == "Member: Welder"

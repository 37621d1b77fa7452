"""Weights in one file or in shards: what is missing, unknown or misshapen is named."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from models.card import ModelCard, write_card
from models.checkpoint import load_decoder, load_model_directory
from models.errors import ModelDirectoryError
from models.weight_files import INDEX_NAME, WEIGHTS_NAME
from tests.models.families import VARIANTS, random_model, store

EMBEDDING, OUTPUT = "model.embed_tokens.weight", "lm_head.weight"
QUERIES = "model.layers.1.self_attn.q_proj.weight"


@pytest.fixture(scope="module")
def sharded(
    tmp_path_factory: pytest.TempPathFactory, tiny_tokenizer_path: Path, tiny_card: ModelCard
) -> Path:
    model = random_model(*VARIANTS["llama"])
    path = tmp_path_factory.mktemp("sharded")
    return store(model, path, tiny_tokenizer_path, tiny_card, max_shard_size="50KB")


@pytest.fixture
def copied(sharded: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(sharded, tmp_path / "model"))


@pytest.fixture
def single(tiny_model_dir: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_model_dir, tmp_path / "model"))


def rewrite(directory: Path, card: ModelCard, **changes: Tensor | None) -> Path:
    """The single file with some tensors replaced, or left out where None."""
    weights: dict[str, Tensor | None] = dict(load_file(directory / WEIGHTS_NAME))
    kept = {name: tensor for name, tensor in (weights | changes).items() if tensor is not None}
    save_file(kept, directory / WEIGHTS_NAME)
    write_card(directory, card)
    return directory


def test_a_shard_that_is_missing_is_named(copied: Path, tiny_card: ModelCard) -> None:
    shard = sorted(copied.glob("model-*.safetensors"))[1]
    shard.unlink()
    write_card(copied, tiny_card)
    with pytest.raises(ModelDirectoryError, match=shard.name):
        load_model_directory(copied)


def test_a_tensor_missing_from_its_shard_is_named(copied: Path, tiny_card: ModelCard) -> None:
    index = json.loads((copied / INDEX_NAME).read_text())
    shard = copied / index["weight_map"][QUERIES]
    weights = load_file(shard)
    weights.pop(QUERIES)
    save_file(weights, shard)
    write_card(copied, tiny_card)
    with pytest.raises(ModelDirectoryError, match=f"{QUERIES} has shape None"):
        load_model_directory(copied)


def test_a_tensor_of_two_shards_is_refused(copied: Path, tiny_card: ModelCard) -> None:
    index = json.loads((copied / INDEX_NAME).read_text())
    weights = load_file(copied / index["weight_map"][QUERIES])
    save_file(weights, copied / "model-extra.safetensors")
    index["weight_map"]["extra"] = "model-extra.safetensors"
    (copied / INDEX_NAME).write_text(json.dumps(index))
    write_card(copied, tiny_card)
    with pytest.raises(ModelDirectoryError, match=r"lies in model-.* too"):
        load_model_directory(copied)


@pytest.mark.parametrize(
    "content",
    [
        *("[]", "{", "{}", "[" * 100_000),
        *('{"weight_map": 3}', '{"weight_map": {"a": "../x"}}', '{"weight_map": {"a": 5}}'),
        '{"weight_map": {"a": "' + "x" * 5000 + '"}}',
    ],
    ids=range(8),
)
def test_an_index_that_is_none_is_named(copied: Path, tiny_card: ModelCard, content: str) -> None:
    (copied / INDEX_NAME).write_text(content)
    write_card(copied, tiny_card)
    with pytest.raises(ModelDirectoryError, match=r"model\.safetensors"):
        load_model_directory(copied)


def test_a_misshapen_tensor_is_named_with_both_shapes(single: Path, tiny_card: ModelCard) -> None:
    rewrite(single, tiny_card, **{QUERIES: torch.zeros(64, 63)})
    with pytest.raises(ModelDirectoryError, match=rf"{QUERIES} has shape \[64, 63\].*\[64, 64\]"):
        load_model_directory(single)


def test_an_unknown_tensor_is_named(single: Path, tiny_card: ModelCard) -> None:
    rewrite(single, tiny_card, **{"model.vision.weight": torch.zeros(2)})
    with pytest.raises(ModelDirectoryError, match=r"model\.vision\.weight has shape \[2\].*None"):
        load_model_directory(single)


def test_integers_are_no_weights(single: Path, tiny_card: ModelCard) -> None:
    rewrite(single, tiny_card, **{QUERIES: torch.zeros(64, 64, dtype=torch.int8)})
    with pytest.raises(ModelDirectoryError, match=f"{QUERIES} is stored as I8"):
        load_model_directory(single)


def test_tables_that_old_exports_store_are_passed_over(single: Path, tiny_card: ModelCard) -> None:
    table = {"model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(8)}
    load_decoder(load_model_directory(rewrite(single, tiny_card, **table)))


def test_a_tied_output_may_be_stored_if_it_says_the_same(
    single: Path, tiny_card: ModelCard
) -> None:
    embedding = load_file(single / WEIGHTS_NAME)[EMBEDDING]
    load_decoder(load_model_directory(rewrite(single, tiny_card, **{OUTPUT: embedding.clone()})))
    rewrite(single, tiny_card, **{OUTPUT: embedding + 1})
    with pytest.raises(ModelDirectoryError, match=r"lm_head\.weight differs from the embedding"):
        load_decoder(load_model_directory(single))

"""Loads and saves model directories. Knows nothing of how a model was trained or is served."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from models.card import ModelCard, write_card
from models.decoder import Decoder
from models.directory import TOKENIZER_NAME, WEIGHTS_NAME, ModelDirectory, load_model_directory
from models.errors import ModelDirectoryError

__all__ = ["ModelDirectory", "load_decoder", "load_model_directory", "save_model_directory"]


def load_decoder(directory: ModelDirectory) -> Decoder:
    """The decoder in fp32, in eval mode, its parameters frozen.

    Raises ModelDirectoryError when the weights cannot be read or do not fit `config.json`.
    """
    path = directory.path / WEIGHTS_NAME
    try:
        weights = {name: tensor.float() for name, tensor in load_file(path).items()}
        decoder = Decoder(directory.config)
        decoder.load_state_dict(weights)
    except (OSError, SafetensorError, RuntimeError) as error:
        raise ModelDirectoryError(f"{path}: cannot be loaded ({error}); export it again") from error
    return decoder.eval().requires_grad_(False)


def save_model_directory(
    path: Path,
    decoder: Decoder,
    tokenizer_json_path: Path,
    card: ModelCard,
    storage_dtype: torch.dtype = torch.float32,
) -> ModelCard:
    """Writes a directory that transformers loads as it is; returns the card with its digests.

    The card comes last: a directory whose writing was cut off has none and does not load.
    """
    path.mkdir(parents=True, exist_ok=True)
    dtype_name = str(storage_dtype).removeprefix("torch.")
    config = decoder.config.to_hugging_face() | {"dtype": dtype_name}
    tokenizer_config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": decoder.config.max_position_embeddings,
        "clean_up_tokenization_spaces": False,
    }
    _write_json(path / "config.json", config)
    _write_json(path / "tokenizer_config.json", tokenizer_config)
    if tokenizer_json_path.resolve() != (path / TOKENIZER_NAME).resolve():
        shutil.copyfile(tokenizer_json_path, path / TOKENIZER_NAME)
    weights = {
        name: tensor.to(storage_dtype).contiguous() for name, tensor in decoder.state_dict().items()
    }
    save_file(weights, path / WEIGHTS_NAME, metadata={"format": "pt"})
    return write_card(path, card)


def _write_json(path: Path, content: dict[str, object]) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")

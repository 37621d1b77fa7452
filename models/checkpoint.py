"""Loads and saves model directories. Knows nothing of how a model was trained or is served."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from models.card import ModelCard, write_card
from models.config import DecoderConfig
from models.decoder import Decoder
from models.directory import TOKENIZER_NAME, ModelDirectory, load_model_directory
from models.errors import ModelDirectoryError
from models.finite_weights import check_finite
from models.linear import attach_row_scales
from models.narrowing import narrowed
from models.quantization import Quantization
from models.quantized_weights import QuantizedWeights, restored
from models.rotary import Rotary
from models.saved_tensors import save_tensors
from models.weight_files import UNUSED_TIED, WEIGHTS_NAME, StoredTensor, checked_tensors

WHOLE_NUMBERS = (torch.int32, torch.int64)

__all__ = [
    "ModelDirectory",
    "copy_model_directory",
    "load_decoder",
    "load_model_directory",
    "save_model_directory",
    "save_model_files",
]


def load_decoder(directory: ModelDirectory) -> Decoder:
    """The decoder in fp32, in eval mode, its parameters frozen; one tensor at a time is widened.

    Layers that are stored in int8 keep their scales, by which int8 arithmetic finds their codes.
    Raises ModelDirectoryError, naming the tensor, when weights cannot be read, do not fit
    `config.json` or are not finite.
    """
    stored = checked_tensors(directory.path, directory.config)
    check_finite(stored)
    config = replace(directory.config, quantization=None)
    with torch.device("meta"):
        decoder = Decoder(config)
    decoder.rotary = Rotary(config)  # its tables are computed, not loaded
    weights = dict(_read(stored))
    _drop_tied_output(stored, weights, config)
    _fill(decoder, weights, directory.config.quantization)
    return decoder.eval().requires_grad_(False)


def _fill(decoder: Decoder, weights: Mapping[str, Tensor], form: Quantization | None) -> None:
    row_scales: Mapping[str, Tensor] = {}
    if form is not None:
        weights, row_scales = restored(form, decoder.config.weight_shapes(), weights)
    decoder.load_state_dict(weights, assign=True)
    for name, scales in row_scales.items():
        attach_row_scales(decoder.get_submodule(name.removesuffix(".weight")), scales)


def _read(stored: Mapping[str, StoredTensor]) -> Iterator[tuple[str, Tensor]]:
    """Every tensor in fp32, but packed codes and places as they are, file by file."""
    by_file: dict[Path, list[str]] = {}
    for name, tensor in stored.items():
        by_file.setdefault(tensor.path, []).append(name)
    for path, names in by_file.items():
        try:
            with safe_open(path, framework="pt") as weights:
                for name in names:
                    tensor = weights.get_tensor(name)
                    if tensor.dtype not in WHOLE_NUMBERS:
                        tensor = tensor.to(torch.float32, copy=True)
                    yield name, tensor
        except (OSError, SafetensorError) as error:
            raise ModelDirectoryError(
                f"{path}: cannot be loaded ({error}); export it again"
            ) from error


def _drop_tied_output(
    stored: Mapping[str, StoredTensor], weights: dict[str, Tensor], config: DecoderConfig
) -> None:
    """Some exports store a tied output beside the embedding: it must say the same."""
    if not config.tie_word_embeddings or UNUSED_TIED not in weights:
        return
    if not torch.equal(weights.pop(UNUSED_TIED), weights["model.embed_tokens.weight"]):
        raise ModelDirectoryError(
            f"{stored[UNUSED_TIED].path}: {UNUSED_TIED} differs from the embedding, but "
            "config.json says tie_word_embeddings; set it to false or export the model again"
        )


def save_model_directory(
    path: Path,
    decoder: Decoder,
    tokenizer_json_path: Path,
    card: ModelCard,
    storage_dtype: torch.dtype = torch.float32,
    quantized: QuantizedWeights | None = None,
) -> ModelCard:
    """Writes a directory that transformers loads as it is; returns the card with its digests.

    quantized, storage_dtype, and what is raised: see `save_model_files`. The card comes last: a
    directory whose writing was cut off has none and does not load.
    """
    save_model_files(path, decoder, tokenizer_json_path, storage_dtype, quantized)
    return write_card(path, card)


def save_model_files(
    path: Path,
    decoder: Decoder,
    tokenizer_json_path: Path,
    storage_dtype: torch.dtype = torch.float32,
    quantized: QuantizedWeights | None = None,
) -> None:
    """Writes all that a directory holds but its card.

    quantized: stands for the weights that it names; the others are stored in `storage_dtype`.
    Raises WeightRangeError, and leaves no directory, for a weight that `storage_dtype` cannot hold.
    """
    coded = quantized.coded if quantized else {}
    plain = {name: x for name, x in decoder.state_dict().items() if name not in coded}
    weights = narrowed(plain, storage_dtype)  # before anything is written
    path.mkdir(parents=True, exist_ok=True)
    dtype_name = str(storage_dtype).removeprefix("torch.")
    config = decoder.config.to_hugging_face() | {"dtype": dtype_name}
    if quantized is not None:
        output = "score" if decoder.config.num_labels else "lm_head"
        config["quantization_config"] = quantized.quantization.to_json(ignored=(output,))
    tokenizer_config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": decoder.config.max_position_embeddings,
        "clean_up_tokenization_spaces": False,
    }
    _write_json(path / "config.json", config)
    _write_json(path / "tokenizer_config.json", tokenizer_config)
    if tokenizer_json_path.resolve() != (path / TOKENIZER_NAME).resolve():
        shutil.copyfile(tokenizer_json_path, path / TOKENIZER_NAME)
    if quantized is not None:
        weights |= quantized.stored()
    save_tensors(weights, path / WEIGHTS_NAME, {"format": "pt"})


def copy_model_directory(source: ModelDirectory, path: Path, card: ModelCard) -> ModelCard:
    """The same weights and tokenizer, quantized ones as they are, under another card."""
    path.mkdir(parents=True, exist_ok=True)
    for name in source.card.files:
        shutil.copyfile(source.path / name, path / name)
    return write_card(path, card)


def _write_json(path: Path, content: dict[str, object]) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")

"""Finds a model's tensors in one safetensors file or in shards. Knows no tensor library.

Only headers are read here, so that an API process can refuse what an engine could not load.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from safetensors import SafetensorError, safe_open

from models.config import DecoderConfig
from models.errors import ModelDirectoryError
from models.quantization import KV_SCALES, SCALE_DTYPES, Stored

WEIGHTS_NAME = "model.safetensors"
INDEX_NAME = "model.safetensors.index.json"
# Tables that old exports carry beside the weights; they follow from config.json.
COMPUTED_SUFFIX = "rotary_emb.inv_freq"
UNUSED_TIED = "lm_head.weight"
# What an index that is none makes its readers raise.
UNREADABLE = (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError)


@dataclass(frozen=True, slots=True)
class StoredTensor:
    """Where one tensor lies; `dtype` is the file format's name of it."""

    path: Path
    shape: tuple[int, ...]
    dtype: str


def weight_paths(directory: Path) -> list[Path]:
    """The single file if there is one, else the shards of the index, sorted.

    Raises ModelDirectoryError when neither is there or when the index cannot be read.
    """
    if (directory / WEIGHTS_NAME).is_file():
        return [directory / WEIGHTS_NAME]
    path = directory / INDEX_NAME
    if not path.is_file():
        raise ModelDirectoryError(
            f"{directory / WEIGHTS_NAME}: is missing, and so is {INDEX_NAME}; export the model "
            "again"
        )
    try:
        names = set(json.loads(path.read_text(encoding="utf-8"))["weight_map"].values())
        absent = [name for name in names if not _lies_in(directory, name)]
    except UNREADABLE as error:
        raise ModelDirectoryError(f"{path}: cannot be read ({error}); export it again") from error
    for name in absent:
        raise ModelDirectoryError(
            f"{path}: names {name!r}, which is no file beside it; export the model again"
        )
    return [directory / name for name in sorted(names)]


def _lies_in(directory: Path, name: str) -> bool:
    return Path(name).name == name and (directory / name).is_file()


def checked_tensors(directory: Path, config: DecoderConfig) -> Mapping[str, StoredTensor]:
    """Exactly the tensors that `config` describes, by name, but for an unused tied output and the
    scales of an fp8 cache, which is another engine's.

    Raises ModelDirectoryError naming the first tensor that is absent, unknown, stored twice, of
    another shape or of a dtype that is not served.
    """
    found: dict[str, StoredTensor] = {}
    passed_over = cache_scales(config)
    for name, tensor in _stored(weight_paths(directory)):
        if name in passed_over:
            continue
        if name in found:
            raise ModelDirectoryError(
                f"{tensor.path}: {name} lies in {found[name].path.name} too; export the model again"
            )
        found[name] = tensor
    expected = stored_form(config)
    tied = config.tie_word_embeddings and not config.num_labels and UNUSED_TIED in found
    if tied:
        expected[UNUSED_TIED] = ([config.vocab_size, config.hidden_size], SCALE_DTYPES)
    for name in sorted(expected.keys() | found.keys()):
        _check(directory, name, expected.get(name), found.get(name))
    return found


def stored_form(config: DecoderConfig) -> Stored:
    """Shape and dtypes of every tensor in the files, by name."""
    shapes = config.weight_shapes()
    if config.quantization is None:
        return {name: (shape, SCALE_DTYPES) for name, shape in shapes.items()}
    found: Stored = {}
    for name, shape in shapes.items():
        found |= config.quantization.stored(name, shape)
    return found


def cache_scales(config: DecoderConfig) -> frozenset[str]:
    """Names of the fp8 cache's scales, if config.json says that there are any."""
    if config.quantization is None or not config.quantization.kv_cache:
        return frozenset()
    layers = range(config.num_hidden_layers)
    return frozenset(f"model.layers.{layer}.{name}" for layer in layers for name in KV_SCALES)


def _check(
    directory: Path,
    name: str,
    expected: tuple[list[int], tuple[str, ...]] | None,
    found: StoredTensor | None,
) -> None:
    path = found.path if found else directory
    shape = list(found.shape) if found else None
    wanted, dtypes = expected or (None, ())
    if shape != wanted:
        raise ModelDirectoryError(
            f"{path}: {name} has shape {shape}, but config.json beside it says {wanted}; export "
            "the model again"
        )
    if found and found.dtype not in dtypes:
        raise ModelDirectoryError(
            f"{path}: {name} is stored as {found.dtype}; export it as one of {', '.join(dtypes)}"
        )


def _stored(paths: list[Path]) -> Iterator[tuple[str, StoredTensor]]:
    for path in paths:
        try:
            with safe_open(path, framework="numpy") as weights:
                slices = {name: weights.get_slice(name) for name in weights.offset_keys()}
                headers = {
                    name: (tuple(piece.get_shape()), piece.get_dtype())
                    for name, piece in slices.items()
                }
        except (OSError, SafetensorError) as error:
            raise ModelDirectoryError(
                f"{path}: cannot be read ({error}); export it again"
            ) from error
        for name, (shape, dtype) in headers.items():
            if not name.endswith(COMPUTED_SUFFIX):
                yield name, StoredTensor(path, shape, dtype)

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

WEIGHTS_NAME = "model.safetensors"
INDEX_NAME = "model.safetensors.index.json"
DTYPES = ("F32", "F16", "BF16")
# Tables that old exports carry beside the weights; they follow from config.json.
COMPUTED_SUFFIX = "rotary_emb.inv_freq"
UNUSED_TIED = "lm_head.weight"


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
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ModelDirectoryError(f"{path}: cannot be read ({error}); export it again") from error
    for name in names:
        if Path(name).name != name or not (directory / name).is_file():
            raise ModelDirectoryError(f"{path}: names {name!r}, which is no file beside it")
    return [directory / name for name in sorted(names)]


def checked_tensors(directory: Path, config: DecoderConfig) -> Mapping[str, StoredTensor]:
    """Exactly the tensors that `config` describes, by name, but for an unused tied output.

    Raises ModelDirectoryError naming the first tensor that is absent, unknown, stored twice, of
    another shape or of a dtype that is not served.
    """
    found: dict[str, StoredTensor] = {}
    for name, tensor in _stored(weight_paths(directory)):
        if name in found:
            raise ModelDirectoryError(
                f"{tensor.path}: {name} lies in {found[name].path.name} too; export the model again"
            )
        found[name] = tensor
    expected = config.weight_shapes()
    tied = config.tie_word_embeddings and not config.num_labels and UNUSED_TIED in found
    if tied:
        expected[UNUSED_TIED] = [config.vocab_size, config.hidden_size]
    for name in sorted(expected.keys() | found.keys()):
        _check(directory, name, expected.get(name), found.get(name))
    return found


def _check(
    directory: Path, name: str, expected: list[int] | None, found: StoredTensor | None
) -> None:
    path = found.path if found else directory
    shape = list(found.shape) if found else None
    if shape != expected:
        raise ModelDirectoryError(
            f"{path}: {name} has shape {shape}, but config.json beside it says {expected}; export "
            "the model again"
        )
    if found and found.dtype not in DTYPES:
        raise ModelDirectoryError(
            f"{path}: {name} is stored as {found.dtype}; export it as one of {', '.join(DTYPES)}"
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

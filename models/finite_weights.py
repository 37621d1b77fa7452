"""Finds NaN and infinity in stored weights by their bits. Knows no tensor library and no model."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from models.errors import ModelDirectoryError
from models.weight_files import StoredTensor

CHUNK = 1 << 20  # values read at a time
# Bits that are all set in NaN and infinity alone: the exponent's, and in e4m3, which has no
# infinity, the mantissa's too.
NOT_FINITE: Mapping[str, tuple[Any, int]] = {
    "F32": (np.uint32, 0x7F800000),
    "F16": (np.uint16, 0x7C00),
    "BF16": (np.uint16, 0x7F80),
    "F8_E4M3": (np.uint8, 0x7F),
}


def check_finite(stored: Mapping[str, StoredTensor]) -> None:
    """Reads all weights but codes once. Raises ModelDirectoryError naming the first tensor with a
    value that is not finite, and where in it that value stands."""
    for path in sorted({tensor.path for tensor in stored.values()}):
        starts = _starts(path)
        for name, tensor in stored.items():
            if tensor.path == path and tensor.dtype in NOT_FINITE:
                _check_tensor(name, tensor, starts[name])


def _starts(path: Path) -> Mapping[str, int]:
    """Where the bytes of each tensor begin: safetensors counts from the end of its header."""
    with path.open("rb") as file:
        size = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(size))
    header.pop("__metadata__", None)
    return {name: 8 + size + entry["data_offsets"][0] for name, entry in header.items()}


def _check_tensor(name: str, tensor: StoredTensor, start: int) -> None:
    kind, mask = NOT_FINITE[tensor.dtype]
    before = 0
    for bits in _chunks(tensor, start, kind):
        bits &= mask
        if bits.max() == mask:
            raise ModelDirectoryError(
                f"{tensor.path}: value {before + int(bits.argmax())} of {name} is NaN or infinite, "
                "and no score can come of it; train or export the model again"
            )
        before += len(bits)


def _chunks(tensor: StoredTensor, start: int, kind: Any) -> Iterator[npt.NDArray[Any]]:
    left = int(np.prod(tensor.shape))
    with tensor.path.open("rb") as file:
        file.seek(start)
        while left:
            bits = np.fromfile(file, kind, min(left, CHUNK))
            yield bits
            left -= len(bits)

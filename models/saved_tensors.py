"""Writes tensors to a safetensors file that others may read as its folder. Knows no model."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

METADATA = "__metadata__"
LENGTH_BYTES = 8  # in front of the header, its length


def save_tensors(
    tensors: dict[str, Tensor], path: Path, metadata: Mapping[str, str] | None = None
) -> None:
    """The same tensors and metadata make the same bytes. Raises OSError, and leaves no half file.

    safetensors itself leaves a file that only its owner can read, and a service often runs as
    another user.
    """
    try:
        save_file(tensors, path, dict(metadata) if metadata else None)
    except SafetensorError as error:
        raise _failed_writing(error, path) from error
    if metadata:
        _sort_metadata(path)
    mask = os.umask(0)
    os.umask(mask)
    path.chmod(0o666 & ~mask)


def _failed_writing(error: SafetensorError, path: Path) -> Exception:
    """The system's own error, which safetensors tells in words; any other one as it is."""
    found = re.search(r"os error (\d+)", str(error))
    if found is None:
        return error
    number = int(found[1])
    return OSError(number, os.strerror(number), str(path))


def _sort_metadata(path: Path) -> None:
    """In place: safetensors writes its keys in an order that differs from process to process."""
    with path.open("r+b") as file:
        length = int.from_bytes(file.read(LENGTH_BYTES), "little")
        header = json.loads(file.read(length))
        header[METADATA] = dict(sorted(header[METADATA].items()))
        text = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode()
        assert len(text) <= length, "the header was written in another form"
        file.seek(LENGTH_BYTES)
        file.write(text.ljust(length))

"""The file of a catalogue: a safetensors file that states a digest of its own content.

Written vector by vector, so that a catalogue may be larger than memory, and complete or not at all.
Knows no tensor library, no model and what no entry means.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from safetensors import SafetensorError, safe_open

from models.errors import CatalogueError

FORMAT = "fairslate-catalogue-1"
VECTORS, ID_BYTES, ID_ENDS = "vectors", "id_bytes", "id_ends"
HOW_TO_ENCODE = "write it again: python -m models.encode_catalogue MODEL --items FILE --out FILE"
_LENGTH_BYTES = 8
_UNKNOWN = "0" * 64
_PIECE = 1 << 20


@dataclass(frozen=True, slots=True)
class CatalogueOrigin:
    """What vectors were made by and for; they mean nothing to any other reader.

    reader: see `models.catalogue.reader_digest`. encoder: digest of what made them.
    vectors: tokens of one entry. width: of a vector, the model's hidden size.
    """

    reader: str
    prompt: str
    encoder: str
    vectors: int
    width: int


@dataclass(frozen=True, slots=True)
class StoredCatalogue:
    """What a file states of itself; `entries` by their shape alone."""

    digest: str
    origin: CatalogueOrigin
    entries: int


def write_catalogue(
    path: Path, origin: CatalogueOrigin, ids: Sequence[str], vectors: Iterable[bytes]
) -> None:
    """`vectors`: bfloat16 of all entries in order, in pieces of any size. Raises CatalogueError."""
    names = [name.encode() for name in ids]
    ends = np.fromiter(accumulate(map(len, names)), np.int64, len(names))
    text, bounds = b"".join(names), ends.tobytes()
    header = _header(origin, len(names), len(text))
    beside = path.with_name(f"{path.name}.{os.getpid()}.writing")  # two may write at once
    try:
        _write_beside(beside, header, vectors, bounds + text)
        beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)


def _write_beside(
    path: Path, header: dict[str, Any], vectors: Iterable[bytes], names: bytes
) -> None:
    expected = header[VECTORS]["data_offsets"][1]
    with path.open("w+b") as file:
        start = _write_header(file, header)
        for piece in vectors:
            file.write(piece)
        if (written := file.tell() - start) != expected:
            raise CatalogueError(f"{path}: got {written} bytes of vectors, not {expected}")
        file.write(names)
    header["__metadata__"]["digest"] = content_digest(path)
    with path.open("r+b") as file:
        _write_header(file, header)


def read_statement(path: Path) -> StoredCatalogue:
    """Raises CatalogueError for what is no catalogue."""
    header = _read_header(path)
    try:
        metadata = dict(header["__metadata__"])
        digest = metadata.pop("digest")
        if metadata.pop("format") != FORMAT:
            raise ValueError("another format")
        vectors, width = (int(metadata.pop(name)) for name in ("vectors", "width"))
        origin = CatalogueOrigin(**metadata, vectors=vectors, width=width)
        entries, *shape = header[VECTORS]["shape"]
        dtype = header[VECTORS]["dtype"]
        if not all(type(size) is int and size >= 0 for size in (entries, *shape)):
            raise ValueError("a shape of no sizes")
        if not all(isinstance(value, str) for value in (digest, *metadata.values())):
            raise TypeError("an origin that is no text")
    except (KeyError, TypeError, ValueError) as error:
        raise CatalogueError(f"{path}: no catalogue ({error!r}); {HOW_TO_ENCODE}") from error
    if (dtype, *shape) != ("BF16", origin.vectors, origin.width):
        raise CatalogueError(
            f"{path}: holds {dtype} of shape {shape} an entry, but states bfloat16 of "
            f"{[origin.vectors, origin.width]}; {HOW_TO_ENCODE}"
        )
    return StoredCatalogue(digest, origin, entries)


def read_ids(path: Path) -> list[str]:
    """The entries' names in order. Raises CatalogueError."""
    try:
        with safe_open(path, framework="numpy") as tensors:
            text, ends = tensors.get_tensor(ID_BYTES).tobytes(), tensors.get_tensor(ID_ENDS)
        bounds = [0, *ends.tolist()]
        return [text[bounds[i] : bounds[i + 1]].decode() for i in range(len(ends))]
    except (OSError, SafetensorError, UnicodeDecodeError) as error:
        raise CatalogueError(f"{path}: cannot be read ({error}); {HOW_TO_ENCODE}") from error


def content_digest(path: Path) -> str:
    """sha256 of everything in the file but the digest that it states."""
    header = _read_header(path)
    header["__metadata__"].pop("digest", None)
    content = hashlib.sha256(json.dumps(header, sort_keys=True).encode())
    with path.open("rb") as file:
        file.seek(int.from_bytes(file.read(_LENGTH_BYTES), "little") + _LENGTH_BYTES)
        while piece := file.read(_PIECE):
            content.update(piece)
    return content.hexdigest()


def _header(origin: CatalogueOrigin, entries: int, id_bytes: int) -> dict[str, Any]:
    """Tensors with the widest values first among those after the vectors, all aligned."""
    metadata = {name: str(value) for name, value in asdict(origin).items()}
    header: dict[str, Any] = {"__metadata__": metadata | {"format": FORMAT, "digest": _UNKNOWN}}
    start = 0
    for name, dtype, size, shape in (
        (VECTORS, "BF16", 2, [entries, origin.vectors, origin.width]),
        (ID_ENDS, "I64", 8, [entries]),
        (ID_BYTES, "U8", 1, [id_bytes]),
    ):
        stop = start + size * int(np.prod(shape))
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [start, stop]}
        start = stop
    return header


def _write_header(file: BinaryIO, header: Mapping[str, Any]) -> int:
    """At the front of the file; returns where data begin, a multiple of 64 bytes."""
    content = json.dumps(header).encode()
    content += b" " * (-(len(content) + _LENGTH_BYTES) % 64)
    file.write(len(content).to_bytes(_LENGTH_BYTES, "little") + content)
    return file.tell()


def _read_header(path: Path) -> dict[str, Any]:
    try:
        with path.open("rb") as file:
            length = int.from_bytes(file.read(_LENGTH_BYTES), "little")
            if length > path.stat().st_size:
                raise ValueError("it is cut off, or no safetensors file")
            header = json.loads(file.read(length))
        if not isinstance(header["__metadata__"], dict):
            raise TypeError("its metadata are no object")
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise CatalogueError(f"{path}: cannot be read ({error!r}); {HOW_TO_ENCODE}") from error
    return header  # type: ignore[no-any-return]

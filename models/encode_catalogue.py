"""Writes a catalogue: candidates' texts as vectors, which slates then name instead of sending text.

python -m models.encode_catalogue MODEL --items FILE.jsonl[.gz] --out CATALOGUE
Each line is an object with a unique "id" and a "text"; other fields are left alone. The texts are
read twice and never held all together. An earlier catalogue is replaced once the new one is whole;
any other file at CATALOGUE is refused. Knows nothing of training and of serving.
"""

from __future__ import annotations

import argparse
import gzip
import itertools
import json
import sys
import zlib
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from tqdm import tqdm

from models.catalogue import reader_digest
from models.catalogue_file import CatalogueOrigin, read_statement, write_catalogue
from models.checkpoint import load_decoder
from models.directory import ModelDirectory, load_model_directory
from models.errors import CatalogueError, FairslateError
from models.item_encoder import (
    ENCODER_PATH,
    ItemEncoder,
    encoder_digest,
    item_features,
    load_item_encoder,
)

BATCH_ITEMS = 32
MOST_THREADS = 1024  # torch's own count ends at 2**31, and no machine's does before this
Item = tuple[str, str]  # id, text


def encode_catalogue(
    directory: ModelDirectory, encoder_path: Path, items: Path, out: Path
) -> tuple[CatalogueOrigin, int]:
    """What it was made with, and how many entries it has.

    Raises CatalogueError for a bad line, naming it, for an encoder of another model, and where
    `out` is there already and no catalogue, such as the items themselves.
    """
    _refuse_anothers_file(out)
    encoder, prompt = load_item_encoder(encoder_path, directory)
    ids = checked_ids(items)
    origin = CatalogueOrigin(
        reader=reader_digest(directory.card, prompt),
        prompt=prompt,
        encoder=encoder_digest(encoder_path),
        vectors=encoder.vectors,
        width=encoder.hidden,
    )
    write_catalogue(out, origin, ids, _vectors(directory, encoder, prompt, items, len(ids)))
    return origin, len(ids)


def _refuse_anothers_file(out: Path) -> None:
    if not out.exists():
        return
    try:
        read_statement(out)
    except CatalogueError as error:
        raise CatalogueError(
            f"{out} cannot be written over: it exists and is no catalogue; name another --out"
        ) from error


def encode_items(
    directory: ModelDirectory, texts: Sequence[str], prompt: str
) -> list[tuple[int, ...]]:
    """Token ids of candidates as a slate of texts would send them."""
    return [candidate.ids for candidate in directory.prompt.encode_candidates(texts, prompt)]


def _vectors(
    directory: ModelDirectory, encoder: ItemEncoder, prompt: str, items: Path, count: int
) -> Iterator[bytes]:
    """bfloat16 of all items in order. Raises CatalogueError for one that is not finite."""
    decoder = load_decoder(directory)
    pairs = _read(items)
    with tqdm(total=count, desc="encode", mininterval=5) as progress:
        while batch := list(itertools.islice(pairs, BATCH_ITEMS)):
            ids = encode_items(directory, [text for _, text in batch], prompt)
            vectors = encoder(item_features(decoder, ids)).bfloat16()
            for (name, _), own in zip(batch, vectors, strict=True):
                if not own.isfinite().all():
                    raise CatalogueError(f"{items}: the vectors of {name!r} are not finite")
            progress.update(len(batch))
            yield vectors.view(torch.uint8).numpy().tobytes()


def checked_ids(path: Path) -> list[str]:
    """All ids in order. Raises CatalogueError for a bad line, naming it, and for an id twice."""
    ids = [name for name, _ in _read(path)]
    if not ids:
        raise CatalogueError(f"{path}: holds no items; write one JSON object a line")
    name, count = Counter(ids).most_common(1)[0]
    if count > 1:
        raise CatalogueError(f"{path}: id {name!r} stands there {count} times; ids must be unique")
    return ids


def _read(path: Path) -> Iterator[Item]:
    opened = gzip.open if path.suffix == ".gz" else open
    try:
        with opened(path, "rt", encoding="utf-8") as file:
            for number, line in enumerate(file, 1):
                yield _item(path, number, line)
    except (OSError, EOFError, UnicodeDecodeError, zlib.error) as error:
        raise CatalogueError(f"{path}: cannot be read ({error}); write it again") from error


def _item(path: Path, number: int, line: str) -> Item:
    try:
        row = json.loads(line)
        name, text = row["id"], row["text"]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise CatalogueError(
            f'{path}: line {number} is no object with "id" and "text" ({error!r})'
        ) from error
    if not (isinstance(name, str) and name and isinstance(text, str) and text.strip()):
        raise CatalogueError(f"{path}: line {number}: id and text must be strings, and not empty")
    try:
        (name + text).encode()
    except UnicodeEncodeError as error:
        raise CatalogueError(
            f"{path}: line {number}: id and text must be Unicode, without lone surrogates"
        ) from error
    return name, text


def main(argv: Sequence[str] | None = None) -> int:
    """Returns the exit status: 1 when nothing was written, with the reason."""
    parser = argparse.ArgumentParser(prog="python -m models.encode_catalogue")
    parser.add_argument("model", type=Path)
    parser.add_argument("--items", type=Path, required=True, help="JSON lines, may be gzipped")
    parser.add_argument("--out", type=Path, required=True, help="catalogue to write")
    parser.add_argument("--encoder", type=Path, help=f"by default MODEL/{ENCODER_PATH}")
    parser.add_argument("--threads", type=int, default=2)
    given = parser.parse_args(argv)
    if not 1 <= given.threads <= MOST_THREADS:
        parser.error(f"--threads takes 1 to {MOST_THREADS}")
    try:
        torch.set_num_threads(given.threads)
        directory = load_model_directory(given.model)
        encoder = given.encoder or given.model / ENCODER_PATH
        origin, entries = encode_catalogue(directory, encoder, given.items, given.out)
    except FairslateError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except OSError as error:
        print(
            f"error: {given.out} cannot be written ({error}); make room or name another --out",
            file=sys.stderr,
        )
        return 1
    each = f"{origin.vectors} vector{'s' if origin.vectors > 1 else ''} of {origin.width} numbers"
    print(f"{given.out}: {entries} entries, each {each}, for the prompt {origin.prompt}")
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""A catalogue of candidates stored as vectors: which entries it has, and for whom they were made.

An entry's vectors are tokens beyond the vocabulary: vector r of the catalogue is the token id
`vocab_size + r`, so whatever takes token ids takes stored candidates, alone or among texts.
Knows no tensor library, so that an API process needs no torch.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from models.card import ModelCard
from models.catalogue_file import (
    HOW_TO_ENCODE,
    CatalogueOrigin,
    StoredCatalogue,
    content_digest,
    read_ids,
    read_statement,
)
from models.directory import ModelDirectory
from models.errors import CatalogueError, StoredCandidateError

MAX_TOKEN_ID = 2**31 - 1  # token ids travel as int32


@dataclass(frozen=True, slots=True)
class Catalogue:
    """A checked catalogue, its vectors not yet read. `rows` maps an entry to its place."""

    path: Path
    digest: str
    origin: CatalogueOrigin
    rows: Mapping[str, int]
    vocab_size: int

    @property
    def tokens(self) -> int:
        """Token ids that it adds to the vocabulary."""
        return len(self.rows) * self.origin.vectors

    def describe(self) -> dict[str, Any]:
        """What `GET /v1/models` says of it."""
        origin, entries = self.origin, len(self.rows)
        stored = {"entries": entries, "vectors": origin.vectors, "prompt": origin.prompt}
        return {**stored, "digest": self.digest, "encoder": origin.encoder}

    def token_ids(self, entry: str, prompt: str) -> range:
        """The entry's tokens. Raises StoredCandidateError for another prompt or no such entry."""
        if prompt != self.origin.prompt:
            raise StoredCandidateError(
                f"the catalogue's vectors were made for prompt {self.origin.prompt!r}, not for "
                f"{prompt!r}; ask with that prompt, or send the candidate's text"
            )
        row = self.rows.get(entry)
        if row is None:
            raise StoredCandidateError(
                f"{entry!r} is none of the catalogue's {len(self.rows)} entries; encode it into "
                "the catalogue, or send the candidate's text"
            )
        first = self.vocab_size + row * self.origin.vectors
        return range(first, first + self.origin.vectors)


def reader_digest(card: ModelCard, prompt: str) -> str:
    """sha256 of what reads a vector: weights, tokenizer and the prompt's templates.

    Neither calibration nor metrics: a model that was only calibrated anew reads as before.
    """
    template = card.prompts[prompt]
    read = [sorted(card.files.items()), template.context, template.candidate]
    return hashlib.sha256(json.dumps(read).encode()).hexdigest()


def load_catalogue(path: Path, directory: ModelDirectory, verify: bool = True) -> Catalogue:
    """Raises CatalogueError when it is damaged or was made for another model.

    verify=False trusts the digest that the file states of its content.
    """
    stored = read_statement(path)
    _refuse_other_readers(path, stored.origin, directory)
    _refuse_no_room(path, stored, directory)
    if verify and content_digest(path) != stored.digest:
        raise CatalogueError(f"{path}: was changed after it was written; {HOW_TO_ENCODE}")
    rows = {entry: row for row, entry in enumerate(read_ids(path))}
    if len(rows) != stored.entries:
        raise CatalogueError(
            f"{path}: has {len(rows)} names for {stored.entries} entries; {HOW_TO_ENCODE}"
        )
    return Catalogue(path, stored.digest, stored.origin, rows, directory.config.vocab_size)


def _refuse_other_readers(path: Path, origin: CatalogueOrigin, directory: ModelDirectory) -> None:
    width, prompts = directory.config.hidden_size, directory.card.prompts
    if origin.width != width:
        raise CatalogueError(
            f"{path}: has vectors of width {origin.width}, the model's are {width}; {HOW_TO_ENCODE}"
        )
    if origin.prompt not in prompts:
        known = ", ".join(prompts)
        raise CatalogueError(f"{path}: is for prompt {origin.prompt!r}, the model's are: {known}")
    if origin.reader != (own := reader_digest(directory.card, origin.prompt)):
        raise CatalogueError(
            f"{path}: was made for a model of digest {origin.reader[:16]}, not for "
            f"{directory.path} of {own[:16]}; {HOW_TO_ENCODE}"
        )


def _refuse_no_room(path: Path, stored: StoredCatalogue, directory: ModelDirectory) -> None:
    template = len(directory.prompt.frame_candidate((), stored.origin.prompt).ids)
    room = directory.card.truncation.max_candidate_tokens - template
    if not 1 <= stored.origin.vectors <= room:
        raise CatalogueError(
            f"{path}: has {stored.origin.vectors} vectors an entry, the limit is {room}; encode "
            "it with fewer"
        )
    last = directory.config.vocab_size + stored.entries * stored.origin.vectors - 1
    if last > MAX_TOKEN_ID:
        raise CatalogueError(
            f"{path}: ends at token id {last}, the limit is {MAX_TOKEN_ID}; leave entries out"
        )

"""Ranking data whose candidates are entries of a catalogue in place of text. Knows no training."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from compress.data.requests import Request, read_rows
from compress.measure.evaluation import RESAMPLES, bounds_of
from compress.measure.intervals import Scored, measure
from compress.measure.scorers import CACHE_BYTES, JOBS_PER_BATCH
from models.catalogue import Catalogue, load_catalogue
from models.checkpoint import ModelDirectory
from models.encode_catalogue import encode_catalogue
from models.engines.base import Engine, ScoreJob
from models.engines.fairslate import FairslateEngine
from models.packing import TokenIds

ITEMS = "items.jsonl.gz"
METRICS = ("gauc", "auc", "ndcg@10", "ndcg@1", "ece")


@dataclass(frozen=True, slots=True)
class StoredItems:
    """A catalogue of a data directory's items, and the entry that each text became."""

    catalogue: Catalogue
    entries: Mapping[str, str]

    @property
    def prompt(self) -> str:
        """The prompt whose candidates they are."""
        return self.catalogue.origin.prompt

    @classmethod
    def encode(
        cls, directory: ModelDirectory, encoder: Path, data: Path, catalogue: Path
    ) -> StoredItems:
        """Writes the catalogue. Raises CatalogueError."""
        encode_catalogue(directory, encoder, data / ITEMS, catalogue)
        entries = {row["text"]: row["id"] for row in read_rows(data / ITEMS)}
        return cls(load_catalogue(catalogue, directory), entries)


def job_of(
    directory: ModelDirectory, request: Request, prompt: str, stored: StoredItems | None = None
) -> ScoreJob:
    """The request as an engine takes it, candidates by their texts or by their entries."""
    context = directory.prompt.encode_context(request.context, prompt).ids
    hashes = directory.prompt.block_hashes(context, directory.card.block_size)
    return ScoreJob(context, hashes, _candidates(directory, request, prompt, stored))


def _candidates(
    directory: ModelDirectory, request: Request, prompt: str, stored: StoredItems | None
) -> tuple[TokenIds, ...]:
    if stored is None:
        encoded = directory.prompt.encode_candidates(request.candidates, prompt)
        return tuple(candidate.ids for candidate in encoded)
    entries = (stored.entries[text] for text in request.candidates)
    tokens = (stored.catalogue.token_ids(entry, prompt) for entry in entries)
    return tuple(directory.prompt.frame_candidate(ids, prompt).ids for ids in tokens)


def new_engine(
    directory: ModelDirectory, stored: StoredItems | None = None, dtype: str = "float32"
) -> FairslateEngine:
    """As served on this machine, on as many threads as torch has."""
    catalogue = stored.catalogue if stored else None
    return FairslateEngine(directory, CACHE_BYTES, dtype=dtype, backend="auto", catalogue=catalogue)


def raw_logits(engine: Engine, jobs: Sequence[ScoreJob]) -> Iterator[list[float]]:
    """Of every job's candidates, of the head that ranks by default."""
    for start in range(0, len(jobs), JOBS_PER_BATCH):
        for scores in engine.score(jobs[start : start + JOBS_PER_BATCH]):
            yield list(scores.of_head(0))


def quality(
    directory: ModelDirectory,
    requests: Sequence[Request],
    logits: Sequence[Sequence[float]],
    resamples: int = RESAMPLES,
) -> dict[str, Any]:
    """METRICS as {name: {value, low, high}} of calibrated scores, intervals over groups; null
    where the requests cannot define one.
    """
    calibrate = next(iter(directory.card.scoring_heads.values())).calibration.calibrate
    scored = [
        Scored(request, np.array([calibrate(value) for value in row]))
        for request, row in zip(requests, logits, strict=True)
    ]
    intervals = measure(scored, resamples)
    return bounds_of({name: intervals[name] for name in METRICS})

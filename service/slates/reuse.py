"""Answers candidates of a slate that were scored before. Knows nothing of the gate or of tenants.

It stands before the gate: who is answered from here waits for nobody and is charged nothing, since
the engine does nothing, and a slate answered in part is queued and charged for the rest alone.
Keys are made from the context's block hashes, so they cover the model's digest, and a private
tenant's salt: it meets no scores but its own. They cover the catalogue's digest as well.
"""

from __future__ import annotations

from collections.abc import Sequence

from models.score_cache import ScoreCache, pair_key
from service.jobs.jobs import JobResult
from service.slates.slate import Logits, Slate, SlateScores


class Reuse:
    """Remembers the scores of one model; `capacity_bytes` 0 remembers nothing, at no cost."""

    def __init__(self, capacity_bytes: int, seconds: float, catalogue_digest: str = "") -> None:
        self._cache = ScoreCache(capacity_bytes, seconds)
        self._catalogue_digest = catalogue_digest

    def recall(self, slate: Slate) -> dict[int, Logits]:
        """What is known of the slate, by index of the candidate."""
        if not self._cache.capacity_bytes:
            return {}
        found = {index: self._cache.get(key) for index, key in enumerate(self._keys(slate))}
        return {index: logits for index, logits in found.items() if logits is not None}

    def complete(
        self, slate: Slate, known: dict[int, Logits], results: Sequence[JobResult]
    ) -> SlateScores:
        """Joins what was known with what engines said of the other candidates, and keeps that."""
        fresh = iter([logits for result in results for logits in result.rows])
        rows = [known[i] if i in known else next(fresh) for i in range(len(slate.candidates))]
        if self._cache.capacity_bytes:
            for index, key in enumerate(self._keys(slate)):
                if index not in known:
                    self._cache.put(key, rows[index])
        return SlateScores(tuple(rows), len(known), results)

    def _keys(self, slate: Slate) -> list[bytes]:
        context_id, digest = slate.block_hashes[-1], self._catalogue_digest
        return [pair_key(context_id, candidate.ids, digest) for candidate in slate.candidates]

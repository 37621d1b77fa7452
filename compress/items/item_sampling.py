"""What an item encoder learns from: slates with the ranker's own scores, and candidates' features.

Everything a step draws is a function of seed and step. Knows no encoder and no loss.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from compress.data.requests import Request
from compress.decoders.slates import Ids, SlateBatch
from compress.items.stored_candidates import job_of, new_engine, raw_logits
from models.checkpoint import ModelDirectory, load_decoder
from models.item_encoder import item_features
from models.packing import TokenIds

FEATURE_BATCH = 32


@dataclass(frozen=True, slots=True)
class ItemBatch:
    """Slates whose candidates are tokens behind the vocabulary, each of its own vectors.

    features: (items, features), of the candidates in the order in which `batch` numbers them.
    teacher, grades: (slates, candidates).
    """

    batch: SlateBatch
    features: Tensor
    teacher: Tensor
    grades: Tensor


class ItemSampler:
    """Draws batches from the requests of a split; every candidate of a slate is of use."""

    def __init__(
        self, directory: ModelDirectory, requests: Sequence[Request], prompt: str, vectors: int
    ) -> None:
        self._directory, self._prompt, self._vectors = directory, prompt, vectors
        width = len(requests[0].candidates)
        self._requests = [one for one in requests if len(one.candidates) == width]
        self._teacher = new_engine(directory)
        texts = dict.fromkeys(text for one in self._requests for text in one.candidates)
        self._rows = {text: row for row, text in enumerate(texts)}
        self.features = text_features(directory, list(texts), prompt)

    def draw(self, seed: int, step: int, count: int) -> ItemBatch:
        """`count` slates of one step, fewer where there are no more."""
        random = np.random.default_rng([seed, step])
        chosen = [self._requests[i] for i in random.permutation(len(self._requests))[:count]]
        texts = dict.fromkeys(text for one in chosen for text in one.candidates)
        places = {text: place for place, text in enumerate(texts)}
        jobs = [job_of(self._directory, one, self._prompt) for one in chosen]
        slates = [[self._stored(places[text]) for text in one.candidates] for one in chosen]
        return ItemBatch(
            SlateBatch.pack([np.array(job.context_ids) for job in jobs], slates),
            self.features[[self._rows[text] for text in texts]],
            torch.tensor(list(raw_logits(self._teacher, jobs))),
            torch.tensor([one.grades for one in chosen]),
        )

    def _stored(self, place: int) -> Ids:
        first = self._directory.config.vocab_size + place * self._vectors
        ids = range(first, first + self._vectors)
        return np.array(self._directory.prompt.frame_candidate(ids, self._prompt).ids, np.int64)


def text_features(directory: ModelDirectory, texts: Sequence[str], prompt: str) -> Tensor:
    """(texts, features) as `models.item_encoder.item_features` says."""
    decoder = load_decoder(directory)
    encoded = directory.prompt.encode_candidates(texts, prompt)
    ids: list[TokenIds] = [candidate.ids for candidate in encoded]
    starts = range(0, len(ids), FEATURE_BATCH)
    return torch.cat([item_features(decoder, ids[i : i + FEATURE_BATCH]) for i in starts])

"""Scores of the held-out requests while models train, and what they are worth. Knows no training.

Texts are tokenized once, not at every look.
"""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from tokenizers import Tokenizer

from compress.data.requests import halves, load_requests
from compress.data.sampling import JOB_CANDIDATE, MATCH, MEMBER_CONTEXT
from compress.decoders.slates import SlateBatch
from compress.encoders.pair_encoder import PairEncoder
from compress.encoders.pair_slates import Chunks, Marks, joint_logits, tower_vectors
from compress.measure.metrics import auc, ndcg
from compress.students.student_steps import Arrays, as_arrays, score_arrays
from models.decoder import Decoder

Scores = npt.NDArray[np.float32]
Ids = npt.NDArray[np.int64]
NAMES = ("select", "ndcg_first", "gauc_first", "ndcg", "gauc")
SLATES_AT_ONCE = 64


class ValidScores:
    """Requests of `valid` with equally many candidates, or the first `limit` of them."""

    def __init__(
        self,
        data: Path,
        limit: int | None,
        reader: Tokenizer,
        tokenizer: Tokenizer,
        device: torch.device,
        dtype: torch.dtype,
        chunk: int,
    ) -> None:
        self._requests = load_requests(data, "valid")[:limit]
        chosen = {id(request) for request in halves(self._requests)[0]}
        self._selecting = np.array([id(request) in chosen for request in self._requests])
        self._reader, self._tokenizer, self._marks = reader, tokenizer, Marks.of(reader)
        self._device, self._dtype, self._chunk = device, dtype, chunk

    def metrics(self, scores: Scores) -> dict[str, float]:
        """scores: (requests, candidates). `select` is NDCG@10 plus gAUC of the selecting half."""
        rows = zip(scores.astype(np.float64), self._requests, strict=True)
        both = np.array(
            [(ndcg(s, np.array(r.grades), 10), auc(s, np.array(r.relevant))) for s, r in rows]
        )
        first, whole = np.nanmean(both[self._selecting], 0), np.nanmean(both, 0)
        return dict(zip(NAMES, map(float, (first.sum(), *first, *whole)), strict=True))

    @torch.inference_mode()
    def joint(self, model: PairEncoder) -> Scores:
        """Logits of joined pairs."""
        contexts, slates = self._read
        firsts = [
            self._marks.open(context)
            for context, slate in zip(contexts, slates, strict=True)
            for _ in slate
        ]
        seconds = [self._marks.close(ids) for slate in slates for ids in slate]
        chunks = Chunks.pack(firsts, seconds, self._chunk)
        logits = joint_logits(model, chunks, self._device, self._dtype, 0.0)
        return logits.view(len(contexts), -1).cpu().numpy()

    @torch.inference_mode()
    def towers(self, model: PairEncoder) -> Scores:
        """Logits of texts that were read one by one."""
        contexts, slates = self._read
        texts = [*contexts, *(ids for slate in slates for ids in slate)]
        chunks = Chunks.pack([self._marks.open(ids) for ids in texts], None, self._chunk)
        vectors = tower_vectors(model, chunks, self._device, self._dtype, 0.0)
        postings = vectors[len(contexts) :].view(len(contexts), -1, vectors.shape[-1])
        members = vectors[: len(contexts), None].expand_as(postings)
        return model.compare(members, postings).cpu().numpy()

    @torch.no_grad()
    def student(self, decoder: Decoder) -> Scores:
        """Raw logits of the default prompt."""
        parts = [score_arrays(decoder, batch, self._device).cpu() for batch in self._slates]
        return torch.cat(parts).numpy()

    @cached_property
    def _read(self) -> tuple[list[Ids], list[list[Ids]]]:
        contexts = self._encoded(self._reader, [r.context for r in self._requests])
        texts = [text for r in self._requests for text in r.candidates]
        flat, width = self._encoded(self._reader, texts), len(self._requests[0].candidates)
        return contexts, [flat[start : start + width] for start in range(0, len(flat), width)]

    @cached_property
    def _slates(self) -> list[Arrays]:
        batches = []
        for start in range(0, len(self._requests), SLATES_AT_ONCE):
            part = self._requests[start : start + SLATES_AT_ONCE]
            contexts = self._framed([r.context for r in part], MEMBER_CONTEXT, ())
            slates = [self._framed(list(r.candidates), JOB_CANDIDATE, (MATCH,)) for r in part]
            batches.append(as_arrays(SlateBatch.pack(contexts, slates)))
        return batches

    def _framed(self, texts: list[str], head: int, tail: tuple[int, ...]) -> list[Ids]:
        return [np.array([head, *ids, *tail]) for ids in self._encoded(self._tokenizer, texts)]

    @staticmethod
    def _encoded(tokenizer: Tokenizer, texts: list[str]) -> list[Any]:
        encodings = tokenizer.encode_batch(texts, add_special_tokens=False)
        return [np.array(encoding.ids) for encoding in encodings]

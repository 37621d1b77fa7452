"""Draws recorded requests as bags of tokens between the template's markers. Knows no weights.

What a step draws is a function of (seed, step) alone, so a resumed run sees the same slates.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer

from compress.data.requests import Request, load_requests
from compress.data.sampling import JOB_CANDIDATE, MATCH, MEMBER_CONTEXT, Bag, Slates, framed_text
from compress.data.text_slates import graded
from models.errors import FairslateError


class FewCandidatesError(FairslateError):
    """No recorded request is as wide as the slates that are asked for."""

    code = "requests_too_short"


@dataclass(frozen=True, slots=True)
class RequestBags:
    """Requests of at least `candidates` candidates, whose texts are encoded once."""

    requests: Sequence[Request]
    bags: dict[str, Bag]  # by text
    seed: int

    @classmethod
    def load(cls, data: Path, tokenizer: Tokenizer, seed: int, candidates: int) -> RequestBags:
        """Of `train`. Raises FewCandidatesError where none is wide enough."""
        whole = load_requests(data, "train")
        requests = [request for request in whole if len(request.candidates) >= candidates]
        if not requests:
            raise FewCandidatesError(
                f"{data}: no request of train has {candidates} candidates; ask for fewer"
            )
        texts = {text for one in requests for text in (one.context, *one.candidates)}
        encoded = zip(texts, tokenizer.encode_batch_fast(list(texts)), strict=True)
        return cls(requests, {text: np.array(one.ids) for text, one in encoded}, seed)

    def draw(self, step: int, count: int, width: int, dropout: float) -> Slates:
        """`count` slates of `width` candidates, of whose tokens a share `dropout` is left out."""
        random = np.random.default_rng([self.seed, 1, step])
        rows = random.permutation(len(self.requests))[:count]
        drawn = [self.requests[row] for row in rows]
        orders = [random.permutation(len(one.candidates))[:width] for one in drawn]
        pairs = list(zip(drawn, orders, strict=True))
        texts = [one.candidates[index] for one, order in pairs for index in order]
        grades = [[graded(one)[index] for index in order] for one, order in pairs]
        contexts = [
            framed_text(MEMBER_CONTEXT, self.bags[one.context], (), dropout, random)
            for one in drawn
        ]
        candidates = [
            framed_text(JOB_CANDIDATE, self.bags[text], (MATCH,), dropout, random) for text in texts
        ]
        slates = np.arange(len(texts)).reshape(len(drawn), width)
        return Slates(contexts, candidates, slates, np.array(grades, dtype=np.int8), True)

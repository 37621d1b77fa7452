"""What every engine promises. Knows nothing of queues, tenants' shares or HTTP."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from models.reasons.lattice import Lattice


@dataclass(frozen=True, slots=True)
class ScoreJob:
    """One context and some candidates, as token ids; the unit an engine scores."""

    context_ids: tuple[int, ...]
    block_hashes: tuple[str, ...]  # chain over context_ids, the last block may be short
    # Each ends with the template's suffix; ids from the vocabulary's end on are vectors of the
    # engine's catalogue, see `models.catalogue`.
    candidates: tuple[tuple[int, ...], ...]


@dataclass(frozen=True, slots=True)
class JobScores:
    """Answer to one ScoreJob: `heads` numbers for every candidate, in the order given.

    raw_logits: flat, candidate by candidate, each with one log-odds per head in the card's order,
    before calibration; `models.head_card` says what they mean.
    """

    raw_logits: tuple[float, ...]
    context_tokens: int
    cached_tokens: int  # context tokens whose keys and values were already held
    candidate_tokens: int  # as sent; an engine may compute equal candidates once
    heads: int = 1

    def of_head(self, index: int) -> tuple[float, ...]:
        """One raw logit per candidate."""
        return self.raw_logits[index :: self.heads]

    @property
    def extend_tokens(self) -> int:
        """Prompt tokens computed for this job: uncached context plus candidates (DLPM's n_e)."""
        return self.context_tokens - self.cached_tokens + self.candidate_tokens


@dataclass(frozen=True, slots=True)
class ReasonJob:
    """One context and one candidate to write about, and the answers that there may be."""

    context_ids: tuple[int, ...]
    block_hashes: tuple[str, ...]  # as of a ScoreJob
    candidate: tuple[int, ...]  # ends with the template's suffix, which asks for the answer
    answers: Lattice


@dataclass(frozen=True, slots=True)
class Written:
    """Answer to one ReasonJob: a way through its lattice, the token that ends it included."""

    tokens: tuple[int, ...]
    context_tokens: int
    cached_tokens: int  # context tokens whose keys and values were already held
    candidate_tokens: int

    @property
    def extend_tokens(self) -> int:
        """Prompt tokens computed for this job, as of JobScores."""
        return self.context_tokens - self.cached_tokens + self.candidate_tokens

    @property
    def output_tokens(self) -> int:
        """Tokens of the answer, chosen or not (DLPM's n_q)."""
        return len(self.tokens)


EngineJob = ScoreJob | ReasonJob
EngineAnswer = JobScores | Written


@dataclass(frozen=True, slots=True)
class CacheEvents:
    """Block hashes that came and went since the last drain; parents stand before children in
    `inserted`, children before parents in `evicted`."""

    inserted: tuple[str, ...] = ()
    evicted: tuple[str, ...] = ()


class Engine(Protocol):
    """Scores jobs in one packed pass; not thread-safe, one caller at a time."""

    @property
    def block_size(self) -> int:
        """Tokens in one prefix-cache block."""

    @property
    def description(self) -> Mapping[str, str]:
        """How it computes and why, for logs and reports: "dtype", "reason" and more."""

    def check(self, job: ScoreJob) -> None:
        """Refuses, before any compute, a job that cannot be scored.

        Raises TokenOutOfVocabularyError, ContextTooLongError, CandidateTooLongError or PromptError
        with the limit and the value.
        """

    def score(self, jobs: Sequence[ScoreJob]) -> list[JobScores]:
        """Scores every candidate of every job, in order; it sees its own context and itself.

        Jobs of a batch that share a context compute it once: the first pays, the rest count it
        cached.
        Raises as `check` does for any of the jobs, and whatever the forward pass raises; the caller
        fails every job of the batch with it. A logit may be NaN or infinite: the caller refuses it.
        """

    def drain_label_mass(self) -> tuple[float, ...]:
        """Share of probability on the labels, for the candidates sampled since the last call.

        Each in [0, 1]; none from a classification head, whose outputs are all labels.
        """

    def drain_cache_events(self) -> CacheEvents:
        """Inserts and evictions since the last call, net of blocks that came and went between."""

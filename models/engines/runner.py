"""What does an engine's arithmetic: contexts and candidates in, logits out. Knows no jobs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from models.config import DecoderConfig
from models.engines.base import CacheEvents
from models.packing import TokenIds


@dataclass(frozen=True, slots=True)
class ContextGroup:
    """One distinct context of a batch and the distinct candidates that follow it."""

    ids: TokenIds
    chain: tuple[str, ...]  # block hashes of `ids`
    candidates: Sequence[TokenIds]


@dataclass(frozen=True, slots=True)
class GroupScores:
    """Answer to one ContextGroup; a row of raw logits per candidate, one per head."""

    cached_tokens: int  # context tokens whose keys and values were already held
    raw_logits: Sequence[Sequence[float]]


class Runner(Protocol):
    """Scores groups and keeps what it learnt of their contexts; one caller at a time."""

    @property
    def block_size(self) -> int:
        """Tokens in one prefix-cache block."""

    @property
    def config(self) -> DecoderConfig:
        """Of the model that it runs."""

    @property
    def stored_tokens(self) -> int:
        """Tokens behind the vocabulary that candidates may hold: those of a catalogue."""

    @property
    def description(self) -> Mapping[str, str]:
        """As `models.engines.base.Engine` says."""

    def run(self, groups: Sequence[ContextGroup]) -> list[GroupScores]:
        """Answers in order; an error spoils nothing that is held."""

    def drain_label_mass(self) -> tuple[float, ...]:
        """As `models.engines.base.Engine` says."""

    def drain_cache_events(self) -> CacheEvents:
        """As `models.engines.base.Engine` says."""

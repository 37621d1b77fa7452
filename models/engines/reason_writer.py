"""Writes answers token by token, each a way through its job's lattice. Knows no words, no queues.

Where a lattice leaves a choice the likeliest token goes; what follows without a choice is read with
it in one pass, so a sentence takes as many passes as it has choices. All answers of a batch are
written side by side.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from models.checkpoint import ModelDirectory, load_decoder
from models.decoder import Decoder
from models.engines.base import CacheEvents, ReasonJob, ScoreJob, Written
from models.engines.contexts import (
    PASS_TOKENS,
    ContextReader,
    KnownContext,
    packed_prefixes,
    run_and_keep,
)
from models.engines.job_check import check_job
from models.errors import NonFiniteLogitError, TokenOutOfVocabularyError
from models.packing import PrefixGroup, TokenIds, pack


@dataclass(slots=True)
class _Answer:
    """One answer on its way: what is read of it, what is to be read next, where it stands."""

    job: ReasonJob
    known: list[Tensor]  # keys and values read so far, (layers, 2, tokens, kv_heads, d) each
    unread: TokenIds
    node: int
    tokens: list[int] = field(default_factory=list)

    @property
    def is_done(self) -> bool:
        return self.node == self.job.answers.end

    def choose(self, token: int) -> None:
        """Takes one of the tokens that may follow, and all that then follow without a choice."""
        self.node = self.job.answers.follow(self.node, token)
        self.tokens.append(token)
        self.unread = (*self.unread, token)
        self.go_on()

    def go_on(self) -> None:
        """Takes what follows without a choice."""
        forced, self.node = self.job.answers.forced(self.node)
        self.tokens += forced
        self.unread = (*self.unread, *forced)


class ReasonWriter:
    """Over one decoder in fp32 on the CPU; not thread-safe, one caller at a time."""

    def __init__(self, decoder: Decoder, block_size: int, cache_bytes: int) -> None:
        self._decoder = decoder
        self._reader = ContextReader(decoder, block_size, cache_bytes)

    @classmethod
    def from_directory(cls, directory: ModelDirectory, cache_bytes: int) -> ReasonWriter:
        """Raises ModelDirectoryError as `load_decoder` does."""
        return cls(load_decoder(directory), directory.card.block_size, cache_bytes)

    def check(self, job: ReasonJob) -> None:
        """Raises as `models.engines.base.Engine.check` for what cannot be written."""
        config = self._decoder.config
        room = (*job.candidate, *[0] * job.answers.longest)
        check_job(config, ScoreJob(job.context_ids, job.block_hashes, (room,)))
        largest = max(token for edges in job.answers.nodes for token, _ in edges)
        if largest >= config.vocab_size:
            raise TokenOutOfVocabularyError(
                f"an answer holds token {largest}, but the model knows 0 to "
                f"{config.vocab_size - 1}; use the tokenizer beside the model"
            )

    @torch.inference_mode()
    def write(self, jobs: Sequence[ReasonJob]) -> list[Written]:
        """One answer a job, in order; of jobs with one context the first pays for it.

        Raises as `check` does, and NonFiniteLogitError.
        """
        for job in jobs:
            self.check(job)
        wanted = {job.block_hashes: job.context_ids for job in jobs}
        with self._reader.read([(ids, chain) for chain, ids in wanted.items()]) as contexts:
            by_chain = {context.chain: context for context in contexts}
            answers = [_begun(job, by_chain[job.block_hashes]) for job in jobs]
            while undone := [answer for answer in answers if not answer.is_done]:
                for part in _passes(undone):
                    self._advance(part)
        return list(_written(answers, by_chain))

    def drain_cache_events(self) -> CacheEvents:
        """As `models.engines.base.Engine` says."""
        return self._reader.drain_cache_events()

    def _advance(self, answers: Sequence[_Answer]) -> None:
        """Reads what is unread and makes one choice in each answer."""
        prefixes = packed_prefixes(self._decoder, [answer.known for answer in answers])
        groups = [PrefixGroup(_length(answer.known), [answer.unread]) for answer in answers]
        batch = pack(groups)
        hidden, computed = run_and_keep(self._decoder, batch, prefixes, batch.last_tokens)
        states = self._decoder.model.norm(hidden)
        parts = torch.split(computed, [len(answer.unread) for answer in answers], 2)
        for answer, state, part in zip(answers, states, parts, strict=True):
            answer.known.append(part)
            answer.unread = ()
            answer.choose(self._likeliest(answer, state))

    def _likeliest(self, answer: _Answer, state: Tensor) -> int:
        tokens = [token for token, _ in answer.job.answers.nodes[answer.node]]
        logits = self._decoder.output_embedding[tokens] @ state
        if not bool(torch.isfinite(logits).all()):
            raise NonFiniteLogitError("the reasoner gave a logit that is not finite; check it")
        return tokens[int(logits.argmax())]


def _begun(job: ReasonJob, context: KnownContext) -> _Answer:
    answer = _Answer(job, list(context.keys_values), job.candidate, 0)
    answer.go_on()
    return answer


def _passes(answers: Sequence[_Answer]) -> Iterator[list[_Answer]]:
    """At most PASS_TOKENS unread tokens at a time, or one answer that has more."""
    part: list[_Answer] = []
    tokens = 0
    for answer in answers:
        if part and tokens + len(answer.unread) > PASS_TOKENS:
            yield part
            part, tokens = [], 0
        part.append(answer)
        tokens += len(answer.unread)
    yield part


def _written(
    answers: Sequence[_Answer], contexts: Mapping[tuple[str, ...], KnownContext]
) -> Iterator[Written]:
    paid: set[tuple[str, ...]] = set()
    for answer in answers:
        chain, context = answer.job.block_hashes, len(answer.job.context_ids)
        cached = context if chain in paid else contexts[chain].cached_tokens
        paid.add(chain)
        yield Written(tuple(answer.tokens), context, cached, len(answer.job.candidate))


def _length(known: Sequence[Tensor]) -> int:
    return sum(part.shape[2] for part in known)

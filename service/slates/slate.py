"""One request as tokens, and its chunks as jobs of the gate. Knows nothing of who waits."""

from __future__ import annotations

from collections.abc import Container, Sequence
from dataclasses import dataclass, replace

from models.card import ModelCard
from models.catalogue import Catalogue
from models.engines.base import EngineJob, ScoreJob
from models.prompt import EncodedCandidate, EncodedContext, PromptBuilder
from service.base.errors import InvalidRequestError
from service.bodies.schemas import Candidate, ContextRequest, RankRequest
from service.gate.job import Job, Level
from service.jobs.jobs import JobResult, encode_job
from service.slates.candidates import are_remembered, encode_candidates
from service.slates.token_memory import NO_MEMORY, TokenMemory

BRIEF_CANDIDATES = 64  # each takes some microseconds though its tokens are known
BRIEF_CHARACTERS = 4096  # of a text that is tokenized anew


@dataclass(frozen=True, slots=True)
class Slate:
    """One context, its chain of block hashes, and one entry per candidate, if there are any."""

    context: EncodedContext
    block_hashes: tuple[str, ...]
    candidates: tuple[EncodedCandidate, ...]

    def without(self, known: Container[int]) -> Slate:
        """The same context with the candidates whose index is not among `known`."""
        rest = [one for index, one in enumerate(self.candidates) if index not in known]
        return replace(self, candidates=tuple(rest))


Logits = tuple[float, ...]  # raw logits of one candidate, one per head


@dataclass(frozen=True, slots=True)
class SlateScores:
    """What is known of a slate in the end: one row per candidate, and where it came from."""

    rows: tuple[Logits, ...]
    reused: int  # candidates that no engine had to score
    results: Sequence[JobResult]  # of the others' jobs, in order


@dataclass(frozen=True, slots=True)
class Errand:
    """What all jobs of one slate share beside their context."""

    slate_id: str  # its jobs are called slate_id-0, slate_id-1 and so on
    path: tuple[Level, ...]
    tenant_level: int
    deadline_ms: int
    reply_to: str

    def job(
        self, index: int, work: EngineJob, block_size: int, tokens: int, output_tokens: int = 0
    ) -> Job:
        """The gate's job for one piece of work; tokens: of its candidates."""
        return Job(
            job_id=f"{self.slate_id}-{index}",
            path=self.path,
            tenant_level=self.tenant_level,
            context_hashes=work.block_hashes,
            block_size=block_size,
            context_tokens=len(work.context_ids),
            candidate_tokens=tokens,
            output_tokens=output_tokens,
            deadline_ms=self.deadline_ms,
            reply_to=self.reply_to,
            payload=encode_job(work, self.deadline_ms),
        )


def encode_slate(
    request: ContextRequest,
    card: ModelCard,
    prompt: PromptBuilder,
    salt: str = "",
    catalogue: Catalogue | None = None,
    memory: TokenMemory = NO_MEMORY,
) -> Slate:
    """Raises PromptError, and InvalidRequestError when text must not be truncated but would be, or
    for a stored candidate that the catalogue does not hold.

    Equal contexts share their prefix, and equal candidates their tokens, only under equal salts.
    """
    context = prompt.encode_context(request.context, request.prompt)
    listed = request.candidates if isinstance(request, RankRequest) else []
    name = prompt.prompt_name(request.prompt)
    candidates = encode_candidates(listed, prompt, name, catalogue, memory, salt)
    if request.truncation == "error":
        refuse_truncated(request, (context, candidates), [one.text for one in listed], prompt)
    hashes = prompt.block_hashes(context.ids, card.block_size, salt)
    return Slate(context, hashes, candidates)


def is_brief(
    request: ContextRequest, prompt: PromptBuilder, salt: str, memory: TokenMemory
) -> bool:
    """Whether `encode_slate` takes less than handing it to a thread: next to nothing is unknown."""
    listed = request.candidates if isinstance(request, RankRequest) else []
    texts = [request.context] if isinstance(request.context, str) else request.context.values()
    return (
        len(listed) <= BRIEF_CANDIDATES
        and sum(map(len, texts)) <= BRIEF_CHARACTERS
        and (request.truncation != "error" or _longest(listed) <= BRIEF_CHARACTERS)
        and are_remembered(listed, prompt.prompt_name(request.prompt), memory, salt)
    )


def _longest(listed: Sequence[Candidate]) -> int:
    """Characters that are tokenized anew, all of them, should a candidate be refused as cut."""
    return max((len(candidate.text or "") for candidate in listed), default=0)


def slate_jobs(slate: Slate, errand: Errand, block_size: int, token_budget: int) -> list[Job]:
    """Jobs of at most `token_budget` tokens, in the order of their candidates."""
    lengths = [len(candidate.ids) for candidate in slate.candidates]
    chunks = split_slate(len(slate.context.ids), lengths, token_budget)
    return [_job(slate, chunk, errand, index, block_size) for index, chunk in enumerate(chunks)]


def refuse_too_many(jobs: Sequence[Job], most: int) -> None:
    """Raises InvalidRequestError for more jobs than may ever wait at once: no wait would help."""
    if len(jobs) > most:
        raise InvalidRequestError(
            f"candidates fill {len(jobs)} batches of the engine, and a tenant may have {most} "
            "queued; send fewer or shorter candidates in one request",
            param="candidates",
        )


def split_slate(context_tokens: int, lengths: Sequence[int], token_budget: int) -> list[range]:
    """Index ranges of consecutive candidates, each within the budget together with the context.

    A candidate that does not fit beside the context stands alone; no range is empty but that of a
    context without candidates.
    """
    chunks, start, used = [], 0, context_tokens
    for index, length in enumerate(lengths):
        if index > start and used + length > token_budget:
            chunks.append(range(start, index))
            start, used = index, context_tokens
        used += length
    return [*chunks, range(start, len(lengths))]


def _job(slate: Slate, chunk: range, errand: Errand, index: int, block_size: int) -> Job:
    candidates = tuple(slate.candidates[number].ids for number in chunk)
    work = ScoreJob(slate.context.ids, slate.block_hashes, candidates)
    return errand.job(index, work, block_size, sum(map(len, candidates)))


def refuse_truncated(
    request: ContextRequest,
    encoded: tuple[EncodedContext, Sequence[EncodedCandidate]],
    texts: Sequence[str | None],
    prompt: PromptBuilder,
) -> None:
    """Raises InvalidRequestError for the first text that was cut; stored candidates never are."""
    context, candidates = encoded
    limits = prompt.limits
    if context.truncated:
        tokens = prompt.context_tokens(request.context, request.prompt)
        raise _too_long("context", tokens, limits.max_context_tokens)
    for index, (text, candidate) in enumerate(zip(texts, candidates, strict=True)):
        if candidate.truncated and text is not None:
            tokens = prompt.candidate_tokens(text, request.prompt)
            raise _too_long(f"candidates[{index}].text", tokens, limits.max_candidate_tokens)


def _too_long(param: str, tokens: int, limit: int) -> InvalidRequestError:
    return InvalidRequestError(
        f"{param} has {tokens} tokens, template included; the limit is {limit} tokens: shorten it "
        'or send truncation "truncate"',
        code="text_too_long",
        param=param,
    )

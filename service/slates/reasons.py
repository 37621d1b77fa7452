"""Candidates to be written about as tokens and jobs, and what was written as rows of an answer.

Knows nothing of who waits, and of how engines choose.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from models.card import ModelCard
from models.engines.base import ReasonJob, Written
from models.prompt import EncodedCandidate, EncodedContext, PromptBuilder, render_fields
from models.reasons.check import check_stated
from models.reasons.facts import Facts, job_facts, member_facts
from models.reasons.grammar import ReasonGrammar, ReasonTokens, ReasonUnreadableError
from service.bodies.schemas import ReasonRequest
from service.gate.job import Job
from service.slates.slate import Errand, refuse_truncated


@dataclass(frozen=True, slots=True)
class Side:
    """One text, and the facts that the model reads of it."""

    text: str
    facts: Facts


@dataclass(frozen=True, slots=True)
class ReasonItem:
    """One candidate, as tokens, and what may be said of it; None if nothing."""

    side: Side
    encoded: EncodedCandidate
    grammar: ReasonGrammar | None


@dataclass(frozen=True, slots=True)
class ReasonSlate:
    """One context and the candidates to be written about."""

    side: Side
    context: EncodedContext
    block_hashes: tuple[str, ...]
    items: tuple[ReasonItem, ...]


def encode_reasons(
    request: ReasonRequest,
    card: ModelCard,
    prompt: PromptBuilder,
    tokens: ReasonTokens,
    salt: str = "",
) -> ReasonSlate:
    """Raises PromptError, and InvalidRequestError when text must not be truncated but would be.

    Only facts that the model reads are admitted: what is cut off is not named.
    """
    name = prompt.prompt_name(request.prompt)
    text = request.context
    if not isinstance(text, str):
        text = render_fields(card.prompts[name], text)
    texts = [candidate.text for candidate in request.candidates]
    context, encoded = prompt.encode_context(text, name), prompt.encode_candidates(texts, name)
    if request.truncation == "error":
        refuse_truncated(request, (context, encoded), texts, prompt)
    read = prompt.context_read(text, name) if context.truncated else text
    ours = Side(text, member_facts(read, context.truncated))
    theirs = [_job_side(one, ids, prompt, name) for one, ids in zip(texts, encoded, strict=True)]
    grammars = tokens.grammars(ours.facts, [side.facts for side in theirs])
    items = tuple(map(ReasonItem, theirs, encoded, grammars))
    chain = prompt.block_hashes(context.ids, card.block_size, salt)
    return ReasonSlate(ours, context, chain, items)


def _job_side(text: str, encoded: EncodedCandidate, prompt: PromptBuilder, name: str) -> Side:
    read = prompt.candidate_read(text, name) if encoded.truncated else text
    return Side(text, job_facts(read, encoded.truncated))


def reason_jobs(slate: ReasonSlate, errand: Errand, block_size: int) -> Iterator[tuple[int, Job]]:
    """A job for each candidate of which something may be said, with its index.

    The most that it may write is reserved, which its grammar knows; the gate refunds the rest.
    """
    for index, item in enumerate(slate.items):
        if item.grammar is not None:
            answers, ids = item.grammar.lattice(), item.encoded.ids
            work = ReasonJob(slate.context.ids, slate.block_hashes, ids, answers)
            yield index, errand.job(index, work, block_size, len(ids), answers.longest)


def reason_row(
    slate: ReasonSlate, index: int, name: str, written: Written | None
) -> dict[str, Any]:
    """What an answer says of one candidate; its sentence has been looked up in both texts."""
    item = slate.items[index]
    row = {"id": name, "index": index, "reason": None, "facts": None, "status": "no_fact"}
    if written is None or item.grammar is None:
        return row
    reason = item.grammar.read(written.tokens)
    sentence, frame = str(reason), reason.frame
    sides = (slate.side.text, slate.side.facts), (item.side.text, item.side.facts)
    if invented := check_stated(sentence, *sides).invented:
        raise ReasonUnreadableError(f"no text states {invented}, which a reason names; report it")
    facts = {
        "context": {"kind": frame.member_kind, "text": reason.member_fact},
        "candidate": {"kind": frame.job_kind, "text": reason.job_fact},
        "level": reason.level,
    }
    status = "truncated" if item.encoded.truncated else "ok"
    return row | {"reason": sentence, "facts": facts, "status": status}

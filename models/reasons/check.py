"""Says whether a reason is one well-formed sentence and names only facts that the texts state.

Knows no model: any text may be checked.
"""

from __future__ import annotations

from dataclasses import dataclass

from models.reasons.facts import Facts, job_facts, member_facts
from models.reasons.frames import parse


@dataclass(frozen=True, slots=True)
class ReasonCheck:
    """`invented` lists what the sentence names and the texts do not state."""

    well_formed: bool
    invented: tuple[str, ...] = ()

    @property
    def grounded(self) -> bool:
        """A sentence of the known form, every fact of which is in the input."""
        return self.well_formed and not self.invented


def check_reason(sentence: str, member_text: str, job_text: str) -> ReasonCheck:
    """A member's fact must be of the named kind and stand in the member's text; so with the job's.

    A level must be stated by both.
    """
    member, job = member_facts(member_text), job_facts(job_text)
    return check_stated(sentence, (member_text, member), (job_text, job))


def check_stated(
    sentence: str, member_side: tuple[str, Facts], job_side: tuple[str, Facts]
) -> ReasonCheck:
    """The same with the facts that were read of either text."""
    reason = parse(sentence)
    if reason is None:
        return ReasonCheck(well_formed=False)
    (member_text, member), (job_text, job) = member_side, job_side
    claims = [
        (reason.member_fact, member.of(reason.frame.member_kind), member_text),
        (reason.job_fact, job.of(reason.frame.job_kind), job_text),
    ]
    if reason.level is not None:
        stated = tuple(level for level in member.of("level") if level in job.of("level"))
        claims.append((reason.level, stated, job_text))
    invented = [fact for fact, known, text in claims if fact not in known or fact not in text]
    return ReasonCheck(well_formed=True, invented=tuple(invented))

"""Says whether a reason is one well-formed sentence and names only facts that the texts state.

Knows no model: any text may be checked.
"""

from __future__ import annotations

from dataclasses import dataclass

from models.reasons.facts import job_facts, member_facts
from models.reasons.frames import parse, shared_level


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
    reason = parse(sentence)
    if reason is None:
        return ReasonCheck(well_formed=False)
    member, job = member_facts(member_text), job_facts(job_text)
    claims = [
        (reason.member_fact, member.of(reason.frame.member_kind), member_text),
        (reason.job_fact, job.of(reason.frame.job_kind), job_text),
    ]
    if reason.level is not None:
        stated = shared_level(member, job)
        claims.append((reason.level, (stated,) if stated else (), job_text))
    invented = [fact for fact, known, text in claims if fact not in known or fact not in text]
    return ReasonCheck(well_formed=True, invented=tuple(invented))

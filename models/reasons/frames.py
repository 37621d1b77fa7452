"""The sentences a reason may be: a fact of the member, one of the job, and how they go together.

    Work such as “Weld steel beams” is close to the duty “Braze pipes”, and both state “some
    preparation”.

Facts stand in quotes, so whatever a sentence claims can be looked up in the texts. Knows no tokens.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from models.reasons.facts import Facts

OPEN, CLOSE = "“", "”"
LEVEL_TAIL = ", and both state "
END = "."


@dataclass(frozen=True, slots=True)
class Frame:
    """`opening` “member's fact” `middle` “job's fact”."""

    opening: str
    member_kind: str
    middle: str
    job_kind: str


FRAMES = (
    Frame("Work such as ", "task", " is close to the duty ", "duty"),
    Frame("Work such as ", "task", " fits the title ", "title"),
    Frame("Use of ", "tool", " carries over to ", "listed_tool"),
    Frame("Use of ", "tool", " helps with the duty ", "duty"),
    Frame("Knowledge of ", "knowledge", " supports the duty ", "duty"),
    Frame("The skill ", "skill", " supports the duty ", "duty"),
    Frame("The headline ", "headline", " is close to the title ", "title"),
)


@dataclass(frozen=True, slots=True)
class Reason:
    """One sentence, taken apart; `level` is stated only where both texts state the same."""

    frame: Frame
    member_fact: str
    job_fact: str
    level: str | None = None

    def __str__(self) -> str:
        tail = f"{LEVEL_TAIL}{OPEN}{self.level}{CLOSE}" if self.level else ""
        frame = self.frame
        first = f"{frame.opening}{OPEN}{self.member_fact}{CLOSE}"
        return f"{first}{frame.middle}{OPEN}{self.job_fact}{CLOSE}{tail}{END}"


def shared_level(member: Facts, job: Facts) -> str | None:
    """What both say of preparation, if it is the same."""
    levels = [level for level in member.of("level") if level in job.of("level")]
    return levels[0] if levels else None


def possible_frames(member: Facts, job: Facts) -> Iterator[Frame]:
    """Those whose facts both texts have; none for texts without facts."""
    return (frame for frame in FRAMES if member.of(frame.member_kind) and job.of(frame.job_kind))


def parse(sentence: str) -> Reason | None:
    """Takes a sentence apart, whatever its facts are; None for any other text."""
    parts = sentence.replace(CLOSE, OPEN).split(OPEN)
    if len(parts) not in (5, 7) or parts[-1] != END:
        return None
    opening, member_fact, middle, job_fact, *tail = parts
    level = tail[1] if len(tail) == 3 and tail[0] == LEVEL_TAIL else None
    if len(tail) == 3 and level is None:
        return None
    for frame in FRAMES:
        if (frame.opening, frame.middle) == (opening, middle):
            reason = Reason(frame, member_fact, job_fact, level)
            return reason if str(reason) == sentence else None
    return None


def possible_reasons(member: Facts, job: Facts) -> Iterator[Reason]:
    """Every sentence that names only facts of these texts."""
    level = shared_level(member, job)
    for frame in possible_frames(member, job):
        for member_fact in member.of(frame.member_kind):
            for job_fact in job.of(frame.job_kind):
                yield Reason(frame, member_fact, job_fact)
                if level:
                    yield Reason(frame, member_fact, job_fact, level)

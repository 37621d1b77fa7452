"""Requests for reasons as tokens and jobs, and their answers as rows."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from models.directory import load_model_directory
from models.engines.base import ReasonJob, Written
from models.reasons.facts import job_facts
from models.reasons.grammar import ReasonTokens, ReasonUnreadableError
from service.base.errors import InvalidRequestError
from service.bodies.schemas import ReasonRequest
from service.gate.job import Level
from service.jobs.jobs import decode_job
from service.slates.reasons import ReasonSlate, Side, encode_reasons, reason_jobs, reason_row
from service.slates.slate import Errand
from tests.models.reasons.test_lattice import ways

DIRECTORY = load_model_directory(Path("models/demo_reason"))
CARD, PROMPT = DIRECTORY.card, DIRECTORY.prompt
TOKENS = ReasonTokens(PROMPT)
ERRAND = Errand("slate", (Level("batch", 2), Level("ada")), 1, deadline_ms=500, reply_to="here")
MEMBER = "Skills: Writing. Experience: Cut materials; Count items. Tools used: Tin snips."
JOB = "Sewer. Duties: Trim fabrics; Mark products. Tools: Shears."
NOTHING = "“”"


def slate_of(context: Any, *texts: str, **options: Any) -> ReasonSlate:
    candidates = [{"id": str(number), "text": text} for number, text in enumerate(texts)]
    body = {"context": context, "candidates": candidates, **options}
    return encode_reasons(ReasonRequest.model_validate(body), CARD, PROMPT, TOKENS)


def written(slate: ReasonSlate, index: int, way: int = 0) -> Written:
    grammar = slate.items[index].grammar
    assert grammar is not None
    return Written(sorted(ways(grammar.lattice()))[way], 1, 0, 1)


def test_every_candidate_with_a_fact_is_a_job_that_reserves_the_most_it_may_write() -> None:
    slate = slate_of(MEMBER, JOB, NOTHING, "Tailor.")
    jobs = dict(reason_jobs(slate, ERRAND, CARD.block_size))
    assert list(jobs) == [0, 2]
    for index, job in jobs.items():
        reason_job = decode_job(job.payload).job
        assert isinstance(reason_job, ReasonJob)
        assert job.output_tokens == max(map(len, ways(reason_job.answers)))
        assert reason_job.candidate == slate.items[index].encoded.ids
        assert job.candidate_tokens == len(reason_job.candidate)
        assert job.context_hashes == reason_job.block_hashes == slate.block_hashes
        assert (job.path, job.tenant, job.deadline_ms) == (ERRAND.path, "ada", 500)
    assert jobs[0].job_id != jobs[2].job_id


def test_a_row_names_the_facts_of_its_sentence() -> None:
    slate = slate_of(MEMBER, JOB)
    for way in (0, 5):
        row = reason_row(slate, 0, "a", written(slate, 0, way))
        assert (row["id"], row["index"], row["status"]) == ("a", 0, "ok")
        facts = row["facts"]
        assert facts["context"]["text"] in MEMBER
        assert facts["candidate"]["text"] in JOB
        for side in ("context", "candidate"):
            assert f"“{facts[side]['text']}”" in row["reason"]


def test_of_a_candidate_without_facts_nothing_is_said() -> None:
    row = reason_row(slate_of(MEMBER, NOTHING), 0, "a", None)
    assert (row["reason"], row["facts"], row["status"]) == (None, None, "no_fact")


def test_what_is_no_sentence_is_never_answered() -> None:
    slate = slate_of(MEMBER, JOB)
    with pytest.raises(ReasonUnreadableError):
        reason_row(slate, 0, "a", Written((1, 2, 3), 1, 0, 1))


def test_fields_are_read_as_their_text() -> None:
    fields = {"skills": "Writing", "experience": "Cut materials; Count items"}
    text = "Skills: Writing. Experience: Cut materials; Count items."
    assert slate_of(fields, JOB).block_hashes == slate_of(text, JOB).block_hashes


def test_what_the_model_does_not_read_is_not_named() -> None:
    tasks = [f"Weld beam number {number}" for number in range(300)]
    slate = slate_of(f"Experience: {'; '.join(tasks)}.", JOB)
    assert slate.context.truncated
    grammar = slate.items[0].grammar
    assert grammar is not None
    named = {grammar.read(way).member_fact for way in ways(grammar.lattice())}
    assert tasks[0] in named
    assert tasks[-1] not in named


def test_over_long_text_is_refused_where_it_must_not_be_cut() -> None:
    with pytest.raises(InvalidRequestError, match=r"candidates\[1\].text has"):
        slate_of(MEMBER, JOB, "Welder. " * 300, truncation="error")


def test_private_tenants_meet_no_blocks_but_their_own() -> None:
    request = ReasonRequest.model_validate(
        {"context": MEMBER, "candidates": [{"id": "a", "text": JOB}]}
    )
    hashes = {
        encode_reasons(request, CARD, PROMPT, TOKENS, salt).block_hashes for salt in ("", "ada")
    }
    assert len(hashes) == 2


LONG = " ".join(["one two three four five six seven eight nine ten"] * 6)


@pytest.mark.parametrize(
    ("context", "text"),
    [
        (
            f"Background: {LONG}. Experience: Weld beams. Background: some preparation.",
            f"Welder. Duties: Join metal. Level: {LONG}; some preparation.",
        ),
        (
            "Background: L69; L0. Experience: Weld.",
            "Welder. Duties: Join. Level: " + "; ".join(f"L{number}" for number in range(70)),
        ),
        (
            "Background: X9 q; Y8 z. Experience: Weld.",
            f"Welder. Duties: Join. Level: Y8 z. Tools: {'shears ' * 300}. Level: X9 q.",
        ),
    ],
)
def test_whatever_is_cut_or_left_out_every_sentence_can_be_answered(
    context: str, text: str
) -> None:
    slate = slate_of(context, text)
    grammar = slate.items[0].grammar
    assert grammar is not None
    for way in ways(grammar.lattice()):
        assert reason_row(slate, 0, "a", Written(way, 1, 0, 1))["reason"]


def test_a_fact_behind_the_cut_is_not_named_because_its_letters_stand_before_it() -> None:
    tasks = "; ".join(f"Weld beam number {number}" for number in range(300))
    slate = slate_of(f"Experience: {tasks}. Tools used: beam, number.", JOB)
    assert "tool" not in slate.side.facts.by_kind


def test_a_candidates_fact_behind_the_cut_is_not_named_either() -> None:
    duties = "; ".join(f"Weld beam number {number}" for number in range(300))
    (item,) = slate_of(MEMBER, f"Welder. Duties: {duties}. Tools: beam, number.").items
    assert item.encoded.truncated
    assert "listed_tool" not in item.side.facts.by_kind
    assert 10 < len(item.side.facts.of("duty")) < 300


@pytest.mark.parametrize(
    "text", [f"Nurse. Skills: {'a, ' * 150_000}", "Experience: " + "b;" * 99_999]
)
def test_facts_of_a_very_long_context_are_those_of_its_beginning(text: str) -> None:
    long, short = slate_of(text, JOB), slate_of(text[:6000], JOB)
    assert long.context.truncated
    assert long.context == short.context
    assert long.side.facts == short.side.facts


def test_a_sentence_that_a_text_does_not_state_is_never_answered() -> None:
    slate = slate_of(MEMBER, JOB)
    answer, other = written(slate, 0), Side("Roofer.", job_facts("Roofer."))
    spoilt = replace(slate, items=(replace(slate.items[0], side=other),))
    with pytest.raises(ReasonUnreadableError, match="no text states"):
        reason_row(spoilt, 0, "a", answer)

"""Reasons: the facts that texts state, sentences taken apart, and the check of both."""

from __future__ import annotations

import pytest

from models.reasons.check import check_reason
from models.reasons.facts import job_facts, leading_phrase, member_facts
from models.reasons.frames import FRAMES, Reason, parse, possible_reasons

MEMBER = (
    "Headline: Seamer. Background: some preparation. Skills: Active Listening, Writing. "
    "Knowledge: Mathematics. Experience: Count or weigh and bundle items; Cut, shape, and trim "
    "materials, such as textiles, using knives. Tools used: Tin snips, Utility knives."
)
JOB = (
    "Sewing Machine Operator (Sewer). Duties: Trim fabrics to size using shears; Mark products. "
    "Tools: Shears, Tin snips. Level: some preparation."
)
GOOD = "Use of “Tin snips” carries over to “Tin snips”, and both state “some preparation”."


def test_facts_are_pieces_of_the_text() -> None:
    member, job = member_facts(MEMBER), job_facts(JOB)
    assert member.of("tool") == ("Tin snips", "Utility knives")
    assert member.of("task") == (
        "Count or weigh and bundle items",
        "Cut, shape, and trim materials",
    )
    assert job.of("title") == ("Sewing Machine Operator (Sewer)",)
    assert job.of("duty") == ("Trim fabrics to size", "Mark products")
    assert member.of("level") == job.of("level") == ("some preparation",)
    for facts, text in ((member, MEMBER), (job, JOB)):
        assert all(fact in text for known in facts.by_kind.values() for fact in known)


@pytest.mark.parametrize("text", ["", "Anything at all", "Skills: .", "Headline: “Quoted” words."])
def test_any_text_can_be_read(text: str) -> None:
    for facts in (member_facts(text), job_facts(text)):
        assert all(
            fact in text and "“" not in fact for known in facts.by_kind.values() for fact in known
        )


def test_a_task_is_cut_at_its_first_clause() -> None:
    assert leading_phrase("Direct or coordinate budget activities to fund operations") == (
        "Direct or coordinate budget activities"
    )
    assert leading_phrase("Weld by hand") == "Weld by hand"
    assert leading_phrase("Install protective devices, such as guards") == (
        "Install protective devices"
    )


@pytest.mark.parametrize("level", [None, "some preparation"])
def test_every_sentence_comes_apart_into_what_it_was_made_of(level: str | None) -> None:
    for frame in FRAMES:
        reason = Reason(frame, "Cut, shape, and trim", "C++ (or so)", level)
        assert parse(str(reason)) == reason


@pytest.mark.parametrize(
    "sentence",
    [
        "",
        "A good match.",
        GOOD[:-1],
        GOOD + " ",
        GOOD.replace("Use of", "Love of"),
        GOOD.replace("carries over to", "helps with the duty of"),
        GOOD.replace(", and both state", ", and neither states"),
        GOOD.replace("”.", "” indeed."),
    ],
)
def test_other_sentences_are_malformed(sentence: str) -> None:
    assert parse(sentence) is None
    assert not check_reason(sentence, MEMBER, JOB).grounded


def test_the_last_fact_of_a_text_that_was_cut_is_left_out() -> None:
    cut = member_facts(MEMBER[: MEMBER.index("materials")], is_cut=True)
    assert cut.of("task") == ("Count or weigh and bundle items",)
    assert cut.of("tool") == ()
    assert job_facts("Sewer", is_cut=True).by_kind["title"] == ()


def test_any_level_that_both_state_may_be_named() -> None:
    member, job = "Background: a; b. Tools used: Saw.", "X. Tools: Saw. Level: b; a."
    for level in "ab":
        sentence = f"Use of “Saw” carries over to “Saw”, and both state “{level}”."
        assert check_reason(sentence, member, job).grounded


def test_what_the_texts_state_is_grounded() -> None:
    assert check_reason(GOOD, MEMBER, JOB).grounded
    every = [str(reason) for reason in possible_reasons(member_facts(MEMBER), job_facts(JOB))]
    assert len(every) == len(set(every)) > 20
    assert all(check_reason(sentence, MEMBER, JOB).grounded for sentence in every)


@pytest.mark.parametrize(
    ("sentence", "invented"),
    [
        (GOOD.replace("of “Tin", "of “Tim"), "Tim snips"),
        (GOOD.replace("of “Tin snips”", "of “Shears”"), "Shears"),  # the job's, not the member's
        (GOOD.replace("of “Tin snips”", "of “Writing”"), "Writing"),  # a skill, not a tool
        (GOOD.replace("some", "extensive"), "extensive preparation"),
        ("The skill “Writing” supports the duty “Mark”.", "Mark"),
    ],
)
def test_what_they_do_not_state_is_named(sentence: str, invented: str) -> None:
    check = check_reason(sentence, MEMBER, JOB)
    assert check.well_formed
    assert not check.grounded
    assert check.invented == (invented,)


def test_a_level_that_only_one_text_states_is_invented() -> None:
    other = JOB.replace("some", "extensive")
    assert check_reason(GOOD, MEMBER, other).invented == ("some preparation",)


def test_what_has_no_letter_is_no_fact() -> None:
    assert not any(member_facts("...; ??. Skills: -, 5S.").of("task"))
    assert member_facts("Skills: -, 5S.").of("skill") == ("5S",)

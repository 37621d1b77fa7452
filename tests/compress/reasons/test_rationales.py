"""Rationales: grounded in the two texts, chosen by what they share and by the tables."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from compress.data.requests import load_occupations
from compress.reasons.rationales import RationaleExamples, SharedWords, rationale
from models.reasons.check import check_reason
from models.reasons.facts import job_facts, member_facts


@pytest.fixture(scope="module")
def source(small_data: Path) -> RationaleExamples:
    return RationaleExamples.load(small_data, 5)


def test_every_rationale_names_only_what_its_texts_state(source: RationaleExamples) -> None:
    examples = [example for step in range(4) for example in source.draw(step, 25)]
    assert len(examples) == 100
    for example in examples:
        check = check_reason(example.answer, example.context, example.candidate)
        assert check.grounded, (example.answer, check)


def test_a_step_draws_the_same_whatever_came_before(
    source: RationaleExamples, small_data: Path
) -> None:
    late = source.draw(90, 3)
    source.draw(2, 3)
    assert RationaleExamples.load(small_data, 5).draw(90, 3) == late


def test_rare_shared_words_choose_the_facts(small_data: Path) -> None:
    words = SharedWords.of(["weld steel", "cut steel", "weld pipes", "nurse", "braze copper"])
    member = member_facts("Experience: Cut steel sheets; Braze copper pipes. Tools used: Pen.")
    job = job_facts("Plumber. Duties: Brazing of copper; Cut steel sheet. Level: some preparation.")
    reason = rationale(member, job, load_occupations(small_data)[0], words)
    assert reason is not None
    assert (reason.member_fact, reason.job_fact) == ("Cut steel sheets", "Cut steel sheet")


def test_without_shared_words_the_tables_choose(small_data: Path) -> None:
    occupation = load_occupations(small_data)[0]
    most, least = occupation.knowledge[0], occupation.knowledge[-1]
    member = member_facts(f"Knowledge: {least}, {most}.")
    job = job_facts("Xyz. Duties: Qqq. Level: some preparation.")
    reason = rationale(member, job, occupation, SharedWords.of(["a b"]))
    assert reason is not None
    assert (reason.member_fact, reason.job_fact) == (most, "Qqq")


def test_texts_without_facts_have_no_rationale(small_data: Path) -> None:
    occupation = load_occupations(small_data)[0]
    nothing = rationale(member_facts(""), job_facts(""), occupation, SharedWords.of(["a b"]))
    assert nothing is None


def test_examples_are_the_same_in_every_process() -> None:
    """Whatever order its sets have: 2 is a seed under which sums in their order break a tie."""
    program = (
        "import hashlib, pathlib; from compress.reasons.rationales import RationaleExamples;"
        "read = RationaleExamples.load(pathlib.Path('models/demo/onet_jobs'), 8);"
        "texts = [one.answer for step in range(40) for one in read.draw(step, 16)];"
        "print(hashlib.sha256('\\n'.join(texts).encode()).hexdigest())"
    )
    found = {
        subprocess.run(
            [sys.executable, "-c", program],
            env=os.environ | {"PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("0", "2")
    }
    assert len(found) == 1

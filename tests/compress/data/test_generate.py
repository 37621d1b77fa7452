"""Generated members, postings and slates: disjoint facts, the data's format and mix."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from compress.data.generate import World, member, posting, slate
from compress.data.requests import Occupation, load_occupations, load_relations, read_rows


@pytest.fixture(scope="module")
def occupations(demo_data: Path) -> list[Occupation]:
    return load_occupations(demo_data)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**31))
def test_a_member_and_a_posting_never_share_a_fact(
    occupations: list[Occupation], seed: int
) -> None:
    world = World.divide(occupations, np.random.default_rng(seed))
    for row, occupation in enumerate(occupations):
        ours, theirs = world.member_facts[row], world.posting_facts[row]
        for name in ("titles", "tasks", "tools"):
            facts = getattr(occupation, name)
            assert len(ours[name]) + len(theirs[name]) == len(facts)
            if len(set(facts)) == len(facts):
                assert not set(ours[name]) & set(theirs[name])


def test_generated_texts_have_the_datas_fields(
    occupations: list[Occupation], demo_data: Path
) -> None:
    random = np.random.default_rng(2)
    world = World.divide(occupations, random)
    members = [member(o, f, random) for o, f in zip(occupations, world.member_facts, strict=True)]
    postings = [
        posting(o, f, random) for o, f in zip(occupations, world.posting_facts, strict=True)
    ]
    given = [row["prefix"] for row in read_rows(demo_data / "train.jsonl.gz")]
    items = [row["text"] for row in read_rows(demo_data / "items.jsonl.gz")]
    for texts, real in ((members, given), (postings, items)):
        length, expected = (np.mean([len(text.split()) for text in t]) for t in (texts, real))
        assert length == pytest.approx(expected, rel=0.1)
    for word in ("Headline: ", "Skills: ", "Experience: ", "Tools used: "):
        share, expected = (np.mean([word in text for text in t]) for t in (members, given))
        assert share == pytest.approx(expected, abs=0.08)


def test_slates_mix_grades_as_the_data_do(occupations: list[Occupation], demo_data: Path) -> None:
    relations = load_relations(demo_data, occupations)
    majors = np.array([int(occupation.code[:2]) for occupation in occupations])
    random = np.random.default_rng(3)
    rows = random.integers(len(occupations), size=300)
    ours = [np.bincount(relations[row][slate(row, relations, majors, random)]) for row in rows]
    given = [np.bincount(row["grade"]) for row in read_rows(demo_data / "train.jsonl.gz")]
    assert all(counts.sum() == 24 for counts in ours)
    ours_mean, given_mean = (
        np.mean([np.pad(c, (0, 5 - len(c))) for c in x], 0) for x in (ours, given)
    )
    assert np.abs(ours_mean - given_mean).max() < 0.5

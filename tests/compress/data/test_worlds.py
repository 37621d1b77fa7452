"""Worlds of texts: the same whoever builds them, told apart by number, mixed by halves."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import cast

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer

from compress.data.generate import mixed
from compress.data.worlds import Kind, Texts, TokenWorld, Worlds, WorldSource


@pytest.fixture(scope="module")
def source(small_data: Path, word_tokenizer: Tokenizer) -> WorldSource:
    return WorldSource.load(small_data, word_tokenizer, word_tokenizer, seed=3)


def test_texts_come_back_one_by_one(word_tokenizer: Tokenizer) -> None:
    texts = ["weld steel", "nurse", "write reports; braze"]
    stored = Texts.encode(word_tokenizer, texts)
    assert len(stored) == 3
    for index, text in enumerate(texts):
        assert stored[index].tolist() == word_tokenizer.encode(text).ids


COUNTS = {Kind.PLAIN: 2, Kind.MIXED: 1, Kind.SUBSTITUTED: 2}
TURN = (Kind.PLAIN, Kind.SUBSTITUTED, Kind.MIXED, Kind.PLAIN)


def test_processes_build_what_one_builds(source: WorldSource) -> None:
    worlds = Worlds(source, COUNTS, TURN)
    worlds.build(2)
    for step in range(4):
        alone = source.build(*worlds.key(step))
        for ours, theirs in zip(worlds.of(step).student, alone.student, strict=True):
            np.testing.assert_array_equal(ours.flat, theirs.flat)
        np.testing.assert_array_equal(worlds.of(step).places, alone.places)
        assert worlds.of(step).graded == (step in (0, 3))
    first, second = (worlds.of(step).student[0].flat.tolist() for step in (0, 3))
    assert first != second


def test_a_kind_walks_through_all_its_worlds_each_built_once(
    source: WorldSource, monkeypatch: pytest.MonkeyPatch
) -> None:
    worlds, build, asked = Worlds(source, COUNTS, TURN), WorldSource.build, []

    def counted(self: WorldSource, kind: Kind, number: int) -> TokenWorld:
        asked.append((kind, number))
        return build(self, kind, number)

    monkeypatch.setattr(WorldSource, "build", counted)
    worlds.build(0)
    assert asked == []
    for step in range(16):
        assert worlds.of(step) is worlds.of(step + 8)
    assert worlds.of(0) is not worlds.of(3)
    assert worlds.of(1) is not worlds.of(5)
    assert sorted(asked) == [(kind, n) for kind, count in COUNTS.items() for n in range(count)]


@given(st.lists(st.sampled_from(Kind), min_size=1, max_size=7), st.integers(1, 9))
def test_no_world_of_a_kind_is_met_oftener_than_another(turn: list[Kind], count: int) -> None:
    worlds = Worlds(cast("WorldSource", None), dict.fromkeys(Kind, count), turn)
    met = Counter(worlds.key(step) for step in range(len(turn) * count))
    for kind in turn:
        assert {met[kind, number] for number in range(count)} == {turn.count(kind)}


def test_a_world_holds_one_text_of_every_occupation_a_side(source: WorldSource) -> None:
    members, postings = source.texts(Kind.PLAIN, 0)
    assert len(members) == len(postings) == len(source.occupations)
    for occupation, posting in zip(source.occupations, postings, strict=True):
        assert posting.split(". Duties: ")[0] in {*occupation.titles, occupation.title}


def test_a_mixture_holds_half_of_both(source: WorldSource) -> None:
    first, second = source.occupations[:2]
    mixture = mixed(first, second, np.random.default_rng(0))
    assert mixture.level in (first.level, second.level)
    for name in ("titles", "tasks", "tools", "skills"):
        ours, theirs, facts = (getattr(o, name) for o in (first, second, mixture))
        assert set(facts) <= {*ours, *theirs}
        assert len(facts) == (len(ours) + 1) // 2 + (len(theirs) + 1) // 2
        assert {*facts} & {*ours}
        assert {*facts} & {*theirs}


def test_mixed_worlds_differ_from_plain_ones(source: WorldSource) -> None:
    plain, other = source.texts(Kind.PLAIN, 0)[0], source.texts(Kind.MIXED, 0)[0]
    assert plain != other
    assert source.texts(Kind.MIXED, 0)[0] == other


STANDING_IN = {"tools": "xspoons", "duties": "xchores", "level": "xheight", "software": "xwares"}


def test_a_substituted_world_says_the_same_in_other_words(source: WorldSource) -> None:
    neighbours = {word: (other,) for word, other in STANDING_IN.items()}
    worded = replace(source, neighbours=neighbours)
    used: list[str] = []
    for number in range(3):
        sides = worded.texts(Kind.SUBSTITUTED, number), source.texts(Kind.SUBSTITUTED, number)
        said, meant = ("|".join(texts[1]).lower() for texts in sides)
        used += [other for other in STANDING_IN.values() if other in said]
        for word, other in STANDING_IN.items():
            said = said.replace(other, word)
        assert said == meant
        assert not worded.build(Kind.SUBSTITUTED, number).graded
    assert 0 < len(used) < 3 * len(STANDING_IN)


def test_every_second_substituted_world_is_mixed(source: WorldSource) -> None:
    for number, fewest in ((0, 2), (1, 0)):
        _, postings = source.texts(Kind.SUBSTITUTED, number)
        pairs = zip(postings, source.occupations, strict=True)
        own = [sum(task in posting for task in o.tasks) for posting, o in pairs]
        assert min(own) == fewest


def test_places_are_of_the_texts_own_tokens(source: WorldSource) -> None:
    """Both vocabularies are one here, so every token lies where it lies; a character of several
    bytes may be several tokens, which all lie on all of it.
    """
    world = source.build(Kind.PLAIN, 0)
    lengths = [len(side[i]) for side in world.student for i in range(len(side))]
    expected = np.concatenate([np.arange(length) for length in lengths])
    first, last = world.places.T
    assert ((first <= expected) & (expected <= last)).all()
    assert (first == last).mean() > 0.99

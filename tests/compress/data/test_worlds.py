"""Worlds of texts: the same whoever builds them, told apart by number, mixed by halves."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from tokenizers import Tokenizer

from compress.data.generate import mixed
from compress.data.worlds import Texts, TokenWorld, Worlds, WorldSource


@pytest.fixture(scope="module")
def source(small_data: Path, word_tokenizer: Tokenizer) -> WorldSource:
    return WorldSource.load(small_data, word_tokenizer, word_tokenizer, seed=3)


def test_texts_come_back_one_by_one(word_tokenizer: Tokenizer) -> None:
    texts = ["weld steel", "nurse", "write reports; braze"]
    stored = Texts.encode(word_tokenizer, texts)
    assert len(stored) == 3
    for index, text in enumerate(texts):
        assert stored[index].tolist() == word_tokenizer.encode(text).ids


def test_processes_build_what_one_builds(source: WorldSource) -> None:
    worlds = Worlds(source, plain=2, mixed=1)
    worlds.build(2)
    for number, is_mixed in ((0, False), (1, False), (0, True)):
        alone = source.build(number, is_mixed)
        for ours, theirs in zip(worlds.of(number, is_mixed).student, alone.student, strict=True):
            np.testing.assert_array_equal(ours.flat, theirs.flat)
    first, second = (worlds.of(step, False).student[0].flat.tolist() for step in (0, 1))
    assert first != second


def test_steps_walk_through_worlds_that_are_built_once(
    source: WorldSource, monkeypatch: pytest.MonkeyPatch
) -> None:
    worlds, build, asked = Worlds(source, plain=2, mixed=1), WorldSource.build, []

    def counted(self: WorldSource, number: int, is_mixed: bool) -> TokenWorld:
        asked.append((number, is_mixed))
        return build(self, number, is_mixed)

    monkeypatch.setattr(WorldSource, "build", counted)
    worlds.build(0)
    assert asked == []
    assert worlds.of(0, False) is worlds.of(4, False) is not worlds.of(1, False)
    assert worlds.of(1, True) is worlds.of(0, True)
    assert sorted(asked) == [(0, False), (0, True), (1, False)]


def test_a_world_holds_one_text_of_every_occupation_a_side(source: WorldSource) -> None:
    members, postings = source.texts(0, False)
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
    plain, other = source.texts(0, False)[0], source.texts(0, True)[0]
    assert plain != other
    assert source.texts(0, True)[0] == other

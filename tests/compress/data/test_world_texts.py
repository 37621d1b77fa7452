"""Texts by world: the same again for the same number, others for another number or key."""

from __future__ import annotations

from pathlib import Path

from compress.data.requests import load_occupations
from compress.data.world_texts import WorldTexts


def test_a_world_has_its_own_texts_whenever_it_is_asked_for(demo_data: Path) -> None:
    occupations = load_occupations(demo_data)[:5]
    worlds = WorldTexts(occupations, (1, 4))
    first = worlds.of(0)
    assert [len(side) for side in first] == [5, 5]
    assert worlds.of(1) != first
    assert worlds.of(0) == first
    assert WorldTexts(occupations, (1, 8)).of(0) != first

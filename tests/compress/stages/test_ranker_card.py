"""The card that rankers begin with: its prompts are those of the ranker that is shipped."""

from __future__ import annotations

from pathlib import Path

from compress.stages.ranker_card import new_card
from models.card import read_card

DEMO = Path(__file__).parents[3] / "models" / "demo"


def test_the_shipped_ranker_began_with_it() -> None:
    begun, shipped = new_card("x", "1"), read_card(DEMO)
    assert begun.prompts == shipped.prompts
    assert begun.default_prompt == shipped.default_prompt
    assert (begun.labels, begun.truncation) == (shipped.labels, shipped.truncation)
    assert begun.metrics == begun.lineage == {}

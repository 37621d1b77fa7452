"""The plan: every stage's seconds follow from its costs and this machine's rate."""

from __future__ import annotations

import pytest

from compress.recipes import plan
from compress.recipes.recipe import Recipe, RecipeStage

STAGES = (RecipeStage("lexicon", options={"steps": 10}), RecipeStage("train"))


def test_a_stage_is_planned_on_the_shape_that_the_one_before_writes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(plan, "_rate", lambda threads: 1e9)
    monkeypatch.setattr(plan, "_gate_tokens", lambda recipe: 0)
    lexicon, train = plan.estimates(Recipe("anywhere", 1, 1, STAGES))
    assert train.cost.shape == lexicon.cost.shape
    assert train.seconds == pytest.approx(plan.SLOWER * train.cost.operations / 1e9)

"""The plan: shapes are exact, and costs grow with what they are made of."""

from __future__ import annotations

import pytest

from compress import plan
from compress.recipe import Recipe, RecipeStage
from models.config import DecoderConfig
from models.decoder import Decoder

STAGES = (RecipeStage("lexicon", options={"steps": 10}), RecipeStage("train"))


def test_a_shape_counts_the_decoders_parameters(tiny_config: DecoderConfig) -> None:
    decoder = Decoder(tiny_config)
    shape = plan.shape_of(tiny_config, bytes_per_parameter=2)
    assert shape.parameters == sum(weight.numel() for weight in decoder.parameters())
    assert shape.embeddings == decoder.model.embed_tokens.weight.numel()
    assert shape.size == 2 * shape.parameters


def test_training_costs_three_passes_and_every_teacher_one_more(tiny_config: DecoderConfig) -> None:
    shape = plan.shape_of(tiny_config)
    alone, taught = (plan.training_cost(5, 100, shape, teachers) for teachers in (0, 1))
    assert alone.operations == pytest.approx(3 * plan.pass_cost(500, shape).operations)
    assert taught.operations == pytest.approx(alone.operations * 4 / 3)
    assert alone.memory > 16 * shape.parameters
    assert (alone.steps, alone.tokens) == (5, 500)


def test_a_stage_is_planned_on_the_shape_that_the_one_before_writes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(plan, "_rate", lambda threads: 1e9)
    monkeypatch.setattr(plan, "_gate_tokens", lambda recipe: 0)
    lexicon, train = plan.estimates(Recipe("anywhere", 1, 1, STAGES))
    assert train.cost.shape == lexicon.cost.shape
    assert train.seconds == pytest.approx(plan.SLOWER * train.cost.operations / 1e9)

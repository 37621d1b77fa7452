"""Costs: shapes are exact, and training grows with what it is made of."""

from __future__ import annotations

import pytest

from compress.stages import costs
from compress.stages.stage import Cost, Shape
from models.config import DecoderConfig
from models.decoder import Decoder


def test_a_shape_counts_the_decoders_parameters(tiny_config: DecoderConfig) -> None:
    decoder = Decoder(tiny_config)
    shape = costs.shape_of(tiny_config, bytes_per_parameter=2)
    assert shape.parameters == sum(weight.numel() for weight in decoder.parameters())
    assert shape.embeddings == decoder.model.embed_tokens.weight.numel()
    assert shape.size == 2 * shape.parameters


def test_training_costs_three_passes_and_every_teacher_one_more(tiny_config: DecoderConfig) -> None:
    shape = costs.shape_of(tiny_config)
    alone, taught = (costs.training_cost(5, 100, shape, teachers) for teachers in (0, 1))
    assert alone.operations == pytest.approx(3 * costs.pass_cost(500, shape).operations)
    assert taught.operations == pytest.approx(alone.operations * 4 / 3)
    assert alone.memory > 16 * shape.parameters
    assert (alone.steps, alone.tokens) == (5, 500)


def test_a_pass_done_again_is_one_product_more() -> None:
    shape = Shape(1000, 400, 10, 2)
    once, again = (costs.training_cost(5, 20, shape, again=again) for again in (False, True))
    assert once.operations == 2.0 * 5 * 20 * 600 * 3
    assert again.operations == 2.0 * 5 * 20 * 600 * 4
    assert again.memory == once.memory


def test_parts_of_a_stage_follow_each_other() -> None:
    shape = Shape(1000, 400, 10, 2)
    one, other = Cost(1, 20, 3.0, 40.0), Cost(2, 30, 4.0, 10.0)
    assert costs.together(shape, one, other) == Cost(3, 50, 7.0, 40.0, shape)

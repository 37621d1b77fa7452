"""Costs: shapes are exact, and training grows with what it is made of."""

from __future__ import annotations

import pytest

from compress.stages import costs
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

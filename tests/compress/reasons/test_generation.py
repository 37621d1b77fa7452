"""Validation loss against plain softmax token by token, and shares of valid answers."""

from __future__ import annotations

import math

import pytest
import torch

from compress.decoders.sequences import SequenceBatch
from compress.reasons.generation import format_validity, validation_loss
from models.decoder import Decoder


def test_the_loss_is_the_mean_over_all_answer_tokens(wired: Decoder) -> None:
    prompts, answers = [[5, 6, 7], [8, 9]], [[10, 11, 12], [13]]
    batches = [SequenceBatch.pack(prompts[i : i + 1], answers[i : i + 1]) for i in range(2)]
    apart = validation_loss(wired, batches)
    together = validation_loss(wired, [SequenceBatch.pack(prompts, answers)])
    first, second = (validation_loss(wired, [batch]) for batch in batches)
    assert apart == pytest.approx((3 * first + second) / 4)
    assert together == pytest.approx(apart, abs=1e-5)


def test_a_model_that_knows_nothing_is_at_the_logarithm_of_its_vocabulary(wired: Decoder) -> None:
    flat = Decoder(wired.config)
    with torch.no_grad():
        flat.model.norm.weight.zero_()
    loss = validation_loss(flat, [SequenceBatch.pack([[5]], [[6, 7]])])
    assert loss == pytest.approx(math.log(wired.config.vocab_size), abs=1e-5)
    assert math.isnan(validation_loss(flat, []))


def test_the_share_of_valid_answers() -> None:
    assert format_validity(["yes.", "no", "no.", "."], lambda text: text.endswith(".")) == 0.75
    assert math.isnan(format_validity([], bool))

"""A teacher's steps: repeatable, the same pairs for both parts, words untouched, loss falling."""

from __future__ import annotations

from pathlib import Path
from typing import cast

import numpy as np
import pytest
import torch
from torch import nn

from compress.data.worlds import Kind, WorldSource
from compress.encoders.encoder import load_encoder
from compress.encoders.pair_encoder import PairEncoder
from compress.encoders.pair_slates import SpecialTokens
from compress.encoders.pair_teacher import encoder_tokenizer
from compress.encoders.teacher_steps import JOINT, PARTS, TeacherRates, TeacherSteps
from tests.compress.small_encoders import write_encoder


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_encoder(tmp_path_factory.mktemp("encoder"), layers=1)


@pytest.fixture(scope="module")
def steps(encoder: Path, small_data: Path) -> TeacherSteps:
    reader = encoder_tokenizer(encoder)
    source = WorldSource.load(small_data, reader, reader, seed=1)
    world = source.build(Kind.PLAIN, 0)
    rates = TeacherRates(encoder=1e-3, head=1e-2, token_dropout=0.0, dropout=0.0)
    special, cpu = SpecialTokens.of(reader), torch.device("cpu")
    return TeacherSteps(source, lambda step: world, special, cpu, 2, 6, 0.5, rates, chunk=16)


def _model(encoder: Path, part: str) -> PairEncoder:
    torch.manual_seed(0)
    return PairEncoder(load_encoder(encoder), joint=part == JOINT)


@pytest.mark.parametrize("part", PARTS)
def test_a_step_is_a_function_of_its_number(steps: TeacherSteps, encoder: Path, part: str) -> None:
    model = _model(encoder, part)
    first, again, other = (float(steps.loss(model, steps.batch(part, i))) for i in (3, 3, 4))
    assert first == again
    assert first != other


@pytest.mark.parametrize("part", PARTS)
def test_a_logit_is_of_the_member_and_the_posting_that_were_drawn(
    steps: TeacherSteps, encoder: Path, part: str
) -> None:
    model = _model(encoder, part).requires_grad_(False)
    torch.nn.init.normal_(model.out.weight)
    inverted = [step for step in range(8) if not steps.batch(part, step)[0].jobs_are_candidates]
    assert 0 < len(inverted) < 8
    for step in (inverted[0], next(step for step in range(8) if step not in inverted)):
        drawn, chunks = steps.batch(part, step)
        logits = steps.logits(model, drawn, chunks, 0.0)
        row, column = 1, 4
        pair = int(drawn.rows[row]), int(drawn.chosen[row, column])
        member, posting = pair if drawn.jobs_are_candidates else pair[::-1]
        texts = steps.world_of(step).encoder
        expected = _alone(model, steps, texts[0][member], texts[1][posting])
        assert float(logits[row, column]) == pytest.approx(expected, abs=1e-3)


def _alone(
    model: PairEncoder, steps: TeacherSteps, member: np.ndarray, posting: np.ndarray
) -> float:
    from compress.encoders.pair_encoder import TextBatch

    open_, close = steps.special.open, steps.special.close
    if model.joint:
        return float(model.pairs(TextBatch.pack([open_(member)], [close(posting)]), torch.float32))
    vectors = model.towers(TextBatch.pack([open_(member), open_(posting)]), torch.float32)
    return float(model.compare(vectors[:1], vectors[1:]))


@pytest.mark.parametrize("part", PARTS)
def test_training_lowers_the_loss_and_leaves_the_words(
    steps: TeacherSteps, encoder: Path, part: str
) -> None:
    model = _model(encoder, part)
    embeddings = cast("nn.Embedding", model.encoder.embeddings["word_embeddings"])
    words = embeddings.weight.clone()
    optimizer, batch = steps.optimizer(model), steps.batch(part, 0)
    losses = []
    for _ in range(8):
        loss = steps.loss(model, batch)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        losses.append(float(loss))
    assert losses[-1] < 0.9 * losses[0]
    assert torch.equal(words, embeddings.weight)

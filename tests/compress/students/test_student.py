"""The student starts as a comparison of words, grows without changing, and learns both targets."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from compress.data.tokenizer import MARKERS
from compress.decoders.losses import slate_loss
from compress.decoders.slates import SlateBatch, score_slates
from compress.decoders.wiring import JOB, LABELS, layers_of
from compress.students.bags import score_bags
from compress.students.student import StudentShape, deepened, student_loss, student_of
from models.decoder import Decoder

FIRST, VOCABULARY = len(MARKERS), 200
SHAPE = StudentShape(layers=3)


@pytest.fixture(scope="module")
def words() -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    spread = torch.logspace(1, -1, SHAPE.hidden_size - 4)
    words = torch.randn(VOCABULARY, SHAPE.hidden_size - 4, generator=generator) * spread
    return words / words.square().mean().sqrt()


@pytest.fixture(scope="module")
def decoder(words: torch.Tensor) -> Decoder:
    torch.manual_seed(1)
    return student_of(SHAPE, words, FIRST).requires_grad_(False)


def _slates(seed: int) -> tuple[list[np.ndarray], list[list[np.ndarray]]]:
    random = np.random.default_rng(seed)
    contexts = [np.array([1, *random.integers(FIRST, VOCABULARY, n)]) for n in (9, 14)]
    slates = [
        [np.array([3, *random.integers(FIRST, VOCABULARY, n), 5]) for n in (5, 8, 11)]
        for _ in contexts
    ]
    return contexts, slates


def test_a_candidate_of_the_contexts_own_words_stands_first(decoder: Decoder) -> None:
    contexts, slates = _slates(0)
    for context, slate in zip(contexts, slates, strict=True):
        slate[1] = np.array([3, *context[1:], 5])
    scores = score_slates(decoder, SlateBatch.pack(contexts, slates), LABELS)
    assert scores.argmax(dim=1).tolist() == [1, 1]


def test_bags_and_the_whole_pass_agree_before_training(decoder: Decoder) -> None:
    contexts, slates = _slates(1)
    whole = score_slates(decoder, SlateBatch.pack(contexts, slates), LABELS)
    candidates = [ids for slate in slates for ids in slate]
    bags = score_bags(decoder, contexts, candidates, torch.arange(6).view(2, 3), JOB)
    assert (whole - bags).abs().max() < 0.02 * whole.std()


@pytest.mark.parametrize("layers", [3, 5])
def test_more_layers_compute_the_same(decoder: Decoder, layers: int) -> None:
    taller = deepened(decoder, StudentShape(layers=layers))
    assert len(taller.model.layers) == layers
    batch = SlateBatch.pack(*_slates(2))
    with torch.no_grad():
        ours, theirs = (score_slates(model, batch, LABELS) for model in (decoder, taller))
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)


def test_every_new_layer_can_learn(decoder: Decoder) -> None:
    taller = deepened(decoder, StudentShape(layers=4)).requires_grad_(True)
    score_slates(taller, SlateBatch.pack(*_slates(3)), LABELS).square().sum().backward()  # type: ignore[no-untyped-call]
    for layer in layers_of(taller):
        gradient = layer.self_attn.o_proj.weight.grad
        assert gradient is not None
        assert gradient.abs().max() > 0


def test_the_loss_is_least_at_the_teachers_logits() -> None:
    teacher = torch.tensor([[2.0, -1.0, 0.5], [-3.0, 1.0, 1.5]])
    raw = teacher.clone().requires_grad_(True)
    student_loss(raw, teacher, None, 2.0, 0.3).backward()  # type: ignore[no-untyped-call]
    assert raw.grad is not None
    assert raw.grad.abs().max() < 1e-6
    least = student_loss(teacher, teacher, None, 2.0, 0.3)
    assert student_loss(teacher + 0.1, teacher, None, 2.0, 0.3) > least


def test_the_truth_takes_its_share() -> None:
    generator = torch.Generator().manual_seed(4)
    raw, teacher = torch.randn(2, 3, 5, generator=generator)
    grades = torch.tensor([[4, 0, 1, 2, 0]] * 3)
    taught = student_loss(raw, teacher, None, 1.0, 0.0)
    both = student_loss(raw, teacher, grades, 1.0, 0.25)
    assert float(both) == pytest.approx(float(0.75 * taught + 0.25 * slate_loss(raw, grades)))
    assert float(student_loss(raw, teacher, grades, 1.0, 1.0)) == pytest.approx(
        float(slate_loss(raw, grades))
    )


def test_temperature_is_that_of_both_softmaxes() -> None:
    generator = torch.Generator().manual_seed(5)
    raw, teacher = torch.randn(2, 2, 4, generator=generator)
    expected = 0.0
    for ours, theirs in zip(raw / 3, teacher / 3, strict=True):
        p = theirs.softmax(0)
        expected += 3 * float((p * (p.log() - ours.log_softmax(0))).sum()) / 2
    expected += float(F.binary_cross_entropy_with_logits(raw, teacher.sigmoid()))
    assert float(student_loss(raw, teacher, None, 3.0, 0.0)) == pytest.approx(expected, rel=1e-5)

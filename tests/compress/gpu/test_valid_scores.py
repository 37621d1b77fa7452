"""Scores of held-out requests are those that teacher and student give text by text."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer

from compress.data.requests import halves, load_requests
from compress.data.sampling import JOB_CANDIDATE, MATCH, MEMBER_CONTEXT
from compress.data.tokenizer import MARKERS
from compress.decoders.slates import SlateBatch, score_slates
from compress.decoders.wiring import LABELS, RESERVED
from compress.encoders.encoder import load_encoder
from compress.encoders.pair_encoder import PairEncoder
from compress.encoders.pair_teacher import EncoderTeacher, encoder_tokenizer
from compress.gpu.valid_scores import ValidScores
from compress.measure.metrics import auc, ndcg
from compress.students.student import StudentShape, student_of
from tests.compress.small_encoders import write_encoder

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_encoder(tmp_path_factory.mktemp("encoder"), layers=1)


@pytest.fixture(scope="module")
def valid(encoder: Path, small_data: Path, word_tokenizer: Tokenizer) -> ValidScores:
    reader = encoder_tokenizer(encoder)
    return ValidScores(small_data, 4, reader, word_tokenizer, CPU, torch.float32, chunk=32)


@pytest.mark.parametrize("part", ["joint", "towers"])
def test_a_teachers_scores(valid: ValidScores, encoder: Path, small_data: Path, part: str) -> None:
    torch.manual_seed(0)
    model = PairEncoder(load_encoder(encoder), joint=part == "joint").requires_grad_(False)
    torch.nn.init.normal_(model.out.weight)
    teacher = EncoderTeacher({part: model}, {part: 1.0}, encoder_tokenizer(encoder), "", CPU)
    requests = load_requests(small_data, "valid")[:4]
    expected = np.array(teacher.raw_logits(requests))
    ours = valid.joint(model) if part == "joint" else valid.towers(model)
    np.testing.assert_allclose(ours, expected, atol=1e-4)


def test_a_students_scores(valid: ValidScores, small_data: Path, word_tokenizer: Tokenizer) -> None:
    torch.manual_seed(0)
    words = torch.randn(400, StudentShape().hidden_size - RESERVED)
    decoder = student_of(StudentShape(), words, len(MARKERS)).requires_grad_(False)
    request = load_requests(small_data, "valid")[2]

    def ids(text: str, head: int, *tail: int) -> np.ndarray:
        return np.array([head, *word_tokenizer.encode(text).ids, *tail])

    slate = [ids(text, JOB_CANDIDATE, MATCH) for text in request.candidates]
    batch = SlateBatch.pack([ids(request.context, MEMBER_CONTEXT)], [slate])
    expected = score_slates(decoder, batch, LABELS)[0]
    np.testing.assert_allclose(valid.student(decoder)[2], expected, atol=1e-4)


def test_the_first_half_selects(valid: ValidScores, small_data: Path) -> None:
    requests = load_requests(small_data, "valid")[:4]
    scores = np.random.default_rng(0).random((4, 24)).astype(np.float32)
    metrics = valid.metrics(scores)
    each = {
        id(r): (ndcg(s, np.array(r.grades), 10), auc(s, np.array(r.relevant)))
        for r, s in zip(requests, scores.astype(float), strict=True)
    }
    whole = np.mean(list(each.values()), axis=0)
    first = np.mean([each[id(request)] for request in halves(requests)[0]], axis=0)
    assert (metrics["ndcg"], metrics["gauc"]) == pytest.approx(tuple(whole))
    assert (metrics["ndcg_first"], metrics["gauc_first"]) == pytest.approx(tuple(first))
    assert metrics["select"] == pytest.approx(sum(first))

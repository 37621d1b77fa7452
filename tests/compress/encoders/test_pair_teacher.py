"""A directory of encoders as teacher: answers, prompts, and refusal of what was changed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from compress.data.requests import Request
from compress.encoders.encoder import load_encoder
from compress.encoders.pair_encoder import PairEncoder
from compress.encoders.pair_teacher import (
    TEACHER_NAME,
    WORDS,
    EncoderTeacher,
    open_scorer,
    save_teacher,
)
from models.errors import ModelDirectoryError
from models.narrowing import WeightRangeError
from tests.compress.small_encoders import write_encoder

MEMBERS = ["headline welder", "skills teach pupils , reports"]
JOBS = ["truck . duties drive", "teacher . level medium", "steel"]


def _part(encoder: Path, joint: bool, seed: int) -> PairEncoder:
    torch.manual_seed(seed)
    part = PairEncoder(load_encoder(encoder), joint)
    for weight in part.parameters():
        if weight is not part.encoder.embeddings["word_embeddings"].weight:
            weight.data += 0.05 * torch.randn_like(weight)
    return part


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    encoder = write_encoder(tmp_path / "encoder")
    parts = {"joint": _part(encoder, True, 1), "towers": _part(encoder, False, 2)}
    save_teacher(tmp_path / "teacher", encoder, parts, {"joint": 0.25, "towers": 0.75}, {})
    return tmp_path / "teacher"


def test_words_are_stored_once(directory: Path) -> None:
    holders = [path.stem for path in directory.glob("*.safetensors") if WORDS in load_file(path)]
    assert holders == ["words"]


def test_it_scores_requests_as_any_scorer_does(directory: Path) -> None:
    teacher = open_scorer(directory)
    request = Request("g", MEMBERS[0], tuple(JOBS), (4, 0, 1))
    (values,) = teacher.raw_logits([request])
    (expected,) = teacher.label_log_odds(MEMBERS[:1], [JOBS])
    np.testing.assert_array_equal(values, expected)
    assert teacher.probability(0.0) == 0.5
    assert teacher.probability(2.0) == pytest.approx(0.880797, abs=1e-6)
    assert teacher.probability(-40.0) == pytest.approx(4.248354e-18, rel=1e-6)
    assert 0 <= teacher.probability(-800.0) < 1e-300
    assert teacher.probability(800.0) == 1


def test_it_answers_the_weighted_mean_of_its_parts(directory: Path) -> None:
    teacher = EncoderTeacher.load(directory)
    whole = teacher.label_log_odds(MEMBERS, [JOBS, JOBS[:2]])
    assert [answer.shape for answer in whole] == [(3,), (2,)]
    parts = {}
    for part in ("joint", "towers"):
        alone = EncoderTeacher(
            {part: teacher.parts[part]}, {part: 1.0}, teacher.tokenizer, "", teacher.device
        )
        (parts[part],) = alone.label_log_odds(MEMBERS[:1], [JOBS])
    expected = 0.25 * parts["joint"] + 0.75 * parts["towers"]
    np.testing.assert_allclose(whole[0], expected, rtol=1e-5, atol=1e-5)
    assert np.ptp(parts["joint"] - parts["towers"]) > 0.01


def test_a_pair_has_one_answer_whoever_is_ranked(directory: Path) -> None:
    teacher = EncoderTeacher.load(directory)
    jobs_of_members = teacher.label_log_odds(MEMBERS, [JOBS] * 2)
    members_of_jobs = teacher.label_log_odds(JOBS, [MEMBERS] * 3, "job_to_members")
    np.testing.assert_allclose(
        np.stack(jobs_of_members), np.stack(members_of_jobs).T, rtol=1e-4, atol=1e-5
    )
    swapped = teacher.label_log_odds(JOBS, [MEMBERS] * 3)
    assert np.abs(np.stack(swapped) - np.stack(members_of_jobs)).max() > 1e-3


def test_what_was_changed_or_cut_off_does_not_load(directory: Path) -> None:
    path = directory / "joint.safetensors"
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    with pytest.raises(ModelDirectoryError, match="was changed"):
        EncoderTeacher.load(directory)
    (directory / TEACHER_NAME).unlink()
    with pytest.raises(ModelDirectoryError, match=TEACHER_NAME):
        EncoderTeacher.load(directory)


def test_a_weight_that_its_storage_cannot_hold_is_refused_by_name(tmp_path: Path) -> None:
    encoder, out = write_encoder(tmp_path / "encoder"), tmp_path / "teacher"
    part = _part(encoder, True, 1)
    part.hidden.bias.data[0] = 1e5
    with pytest.raises(WeightRangeError, match=r"^hidden\.bias holds a weight of 100000"):
        save_teacher(out, encoder, {"joint": part}, {"joint": 1.0}, {})
    assert not out.exists()


def test_its_digest_names_the_weights(directory: Path, tmp_path: Path) -> None:
    encoder = tmp_path / "encoder"
    other = {"towers": _part(encoder, False, 3)}
    save_teacher(tmp_path / "other", encoder, other, {"towers": 1.0}, {})
    digests = {EncoderTeacher.load(path).digest for path in (directory, tmp_path / "other")}
    assert len(digests) == 2

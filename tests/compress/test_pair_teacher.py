"""A directory of encoders as teacher: answers, prompts, and refusal of what was changed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from compress.encoder import load_encoder
from compress.pair_encoder import PairEncoder
from compress.pair_teacher import TEACHER_NAME, EncoderTeacher, changed, save_teacher
from models.errors import ModelDirectoryError
from tests.compress.encoders import write_encoder

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
    base = {f"encoder.{name}": x for name, x in load_encoder(encoder).state_dict().items()}
    changes = {
        "joint": changed(_part(encoder, True, 1), base),
        "towers": changed(_part(encoder, False, 2), base),
    }
    save_teacher(tmp_path / "teacher", encoder, changes, {"joint": 0.25, "towers": 0.75}, {})
    return tmp_path / "teacher"


def test_words_that_training_left_alone_are_stored_once(directory: Path) -> None:
    from safetensors import safe_open

    for part in ("joint", "towers"):
        with safe_open(directory / f"{part}.safetensors", framework="pt") as file:
            names = set(file.keys())
        assert "encoder.embeddings.word_embeddings.weight" not in names
        assert "out.weight" in names


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


def test_its_digest_names_the_weights(directory: Path, tmp_path: Path) -> None:
    encoder = tmp_path / "encoder"
    base = {f"encoder.{name}": x for name, x in load_encoder(encoder).state_dict().items()}
    other = {"towers": changed(_part(encoder, False, 3), base)}
    save_teacher(tmp_path / "other", encoder, other, {"towers": 1.0}, {})
    digests = {EncoderTeacher.load(path).digest for path in (directory, tmp_path / "other")}
    assert len(digests) == 2

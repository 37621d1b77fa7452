"""A student's steps: both views see the same slates, mixed worlds have no truth."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer

from compress.data.tokenizer import MARKERS
from compress.data.worlds import Kind, WorldSource
from compress.decoders.wiring import RESERVED
from compress.distillation.teacher_cache import TeacherCacheError
from compress.encoders.encoder import load_encoder
from compress.encoders.pair_encoder import PairEncoder
from compress.encoders.pair_teacher import EncoderTeacher, encoder_tokenizer, save_teacher
from compress.students.student import StudentShape, student_of
from compress.students.student_steps import (
    StepDraws,
    StudentRates,
    StudentSteps,
    bag_weights,
    blended,
    scored,
)
from compress.students.teacher_labels import TeacherLabels
from compress.students.whole_batches import as_slates
from models.decoder import Decoder
from tests.compress.small_encoders import write_encoder

CPU = torch.device("cpu")
RATES = StudentRates(1e-3, 1e-3, token_dropout=0.0)


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_encoder(tmp_path_factory.mktemp("encoder"), layers=1)


@pytest.fixture(scope="module")
def steps(encoder: Path, small_data: Path, word_tokenizer: Tokenizer) -> StudentSteps:
    source = WorldSource.load(small_data, encoder_tokenizer(encoder), word_tokenizer, seed=1)
    worlds = [source.build(kind, 0) for kind in (Kind.PLAIN, Kind.MIXED)]
    labels = torch.randn(6, 4, 5, generator=torch.Generator().manual_seed(0))
    return StudentSteps(
        StepDraws(source, 4, 5, 0.5), lambda s: worlds[s % 2], lambda s: labels[s], 6, CPU
    )


@pytest.fixture(scope="module")
def decoder() -> Decoder:
    torch.manual_seed(0)
    words = torch.randn(400, StudentShape().hidden_size - RESERVED)
    return student_of(StudentShape(), words, len(MARKERS))


def test_steps_repeat_and_start_over_with_other_words_left_out(steps: StudentSteps) -> None:
    first, again, later = (steps.bags(step, 0.3) for step in (2, 2, 8))
    assert first[0] == again[0] == later[0] == 2
    np.testing.assert_array_equal(first[1].slates, later[1].slates)
    lengths = [[len(ids) for ids in drawn.contexts] for _, drawn in (first, again, later)]
    assert lengths[0] == lengths[1] != lengths[2]


def test_parts_of_a_step_are_its_slates(steps: StudentSteps, decoder: Decoder) -> None:
    labelled, drawn = steps.bags(1, 0.0)
    parts = [steps.full(2 + part, 0.0) for part in range(2)]
    assert [part.step for part in parts] == [labelled] * 2
    rows = np.concatenate([part.rows for part in parts])
    assert sorted(rows) == list(range(len(drawn.contexts)))
    np.testing.assert_array_equal(parts[1].grades, drawn.grades[parts[1].rows])
    for part in parts:
        said = [drawn.contexts[row] for row in part.rows]
        said += [drawn.candidates[i] for row in part.rows for i in drawn.slates[row]]
        assert part.arrays[0].tolist() == np.concatenate(said).tolist()
    batch = as_slates(parts[1].arrays, CPU)
    scores, states = scored(decoder, batch, CPU)
    assert scores.shape == (2, 5)
    assert states.shape == (len(batch.token_ids), StudentShape().hidden_size)


@pytest.mark.parametrize("view", ["bags", "full"])
def test_only_the_teacher_grades_mixed_worlds(
    steps: StudentSteps, decoder: Decoder, view: str
) -> None:
    """With nothing but truth, a mixed step has no loss beyond the teacher's, which is left out."""
    truth_only = replace(RATES, truth_share=1.0)

    def loss(step: int) -> float:
        if view == "bags":
            return float(steps.bag_loss(decoder, steps.bags(step, 0.0), truth_only))
        return float(steps.full_loss(decoder, steps.full(2 * step, 0.0), truth_only))

    taught = replace(steps, labels_of=lambda step: torch.zeros(4, 5))
    plain, mixed = 0, 1
    assert steps.world_of(plain).graded
    assert not steps.world_of(mixed).graded
    before = loss(plain), loss(mixed)
    steps = taught
    after = loss(plain), loss(mixed)
    assert before[0] == after[0]
    assert before[1] != after[1]


def test_bags_move_no_reserved_part(steps: StudentSteps) -> None:
    torch.manual_seed(1)
    decoder = student_of(StudentShape(), torch.randn(400, 252), len(MARKERS))
    embedding, rest = bag_weights(decoder)
    steps.bag_loss(decoder, steps.bags(0, 0.0), RATES).backward()  # type: ignore[no-untyped-call]
    assert embedding.grad is not None
    assert embedding.grad[:, :RESERVED].abs().max() == 0
    assert embedding.grad.abs().max() > 0
    assert all(weight.grad is not None for weight in rest)


def test_blending_moves_every_weight_by_its_share(decoder: Decoder) -> None:
    torch.manual_seed(2)
    trained = student_of(StudentShape(), torch.randn(400, 252), len(MARKERS))
    before = trained.model.embed_tokens.weight.clone()
    blended(trained, decoder, 0.25)
    expected = 0.25 * before + 0.75 * decoder.model.embed_tokens.weight
    torch.testing.assert_close(trained.model.embed_tokens.weight, expected)


def test_labels_are_the_teachers_answers_asked_once(
    steps: StudentSteps, encoder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    parts = {
        part: PairEncoder(load_encoder(encoder), joint=part == "joint")
        for part in ("joint", "towers")
    }
    for part in parts.values():
        torch.nn.init.normal_(part.out.weight)
    save_teacher(tmp_path / "t", encoder, parts, {"joint": 0.5, "towers": 0.5}, {})
    teacher = EncoderTeacher.load(tmp_path / "t")
    labels = TeacherLabels(teacher, steps.draw, steps.world_of, tmp_path / "labels", ("a", 1), 7)
    step = next(s for s in range(6) if steps.draw(s).jobs_are_candidates)
    asked = labels(step)
    drawn = steps.draw(step)
    members, postings = steps.draw.source.texts(Kind(step % 2), 0)
    slates = [[postings[i] for i in row] for row in drawn.chosen]
    expected = teacher.label_log_odds([members[row] for row in drawn.rows], slates)
    np.testing.assert_allclose(asked.numpy(), np.stack(expected), atol=2e-2)
    monkeypatch.setattr(TeacherLabels, "_ask", lambda *_: pytest.fail("asked twice"))
    assert torch.equal(labels(step), asked)
    for other in (replace(labels, slates=("a", 2)), replace(labels, teacher=_renamed(teacher))):
        with pytest.raises(TeacherCacheError, match="remove it, and it is made again"):
            other(step)
    path = tmp_path / "labels" / f"{step}.safetensors"
    path.write_bytes(path.read_bytes()[:-2] + b"xx")
    with pytest.raises(TeacherCacheError, match="differs from its checksum"):
        labels(step)


def test_labels_of_bf16_passes_are_near_and_kept_apart(
    steps: StudentSteps, encoder: Path, tmp_path: Path
) -> None:
    parts = {
        part: PairEncoder(load_encoder(encoder), joint=part == "joint")
        for part in ("joint", "towers")
    }
    save_teacher(tmp_path / "t", encoder, parts, {"joint": 0.5, "towers": 0.5}, {})
    wide, narrow = (
        TeacherLabels(
            EncoderTeacher.load(tmp_path / "t", torch.device("cpu"), passes),
            steps.draw,
            steps.world_of,
            tmp_path / passes,
            chunk=7,
        )
        for passes in ("float32", "bfloat16")
    )
    first, second = wide(0).float(), narrow(0).float()
    assert 0 < (first - second).abs().max() < 0.03 * first.std() + 0.05
    with pytest.raises(TeacherCacheError, match="remove it, and it is made again"):
        replace(narrow, folder=wide.folder)(0)


def _renamed(teacher: EncoderTeacher) -> EncoderTeacher:
    return replace(teacher, digest="sha256:0")


@pytest.mark.parametrize("view", ["bags", "full"])
def test_a_step_computes_on_the_device_of_its_decoder(
    steps: StudentSteps, decoder: Decoder, view: str
) -> None:
    """`meta` stands for a GPU: it too refuses operands of two devices."""
    meta = torch.device("meta")
    moved = copy.deepcopy(decoder).to(meta)
    elsewhere = replace(steps, device=meta)
    bags, full = elsewhere.bags(0, 0.1), elsewhere.full(0, 0.1)
    with meta:
        loss = (
            elsewhere.bag_loss(moved, bags, RATES)
            if view == "bags"
            else elsewhere.full_loss(moved, full, RATES)
        )
    assert loss.device == meta
    loss.backward()  # type: ignore[no-untyped-call]

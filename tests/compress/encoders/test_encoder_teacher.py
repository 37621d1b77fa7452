"""The teacher's stage: what it writes, that it goes on where it stopped, what it refuses."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from compress.encoders import encoder_teacher, pair_slates
from compress.encoders.encoder import load_encoder
from compress.encoders.encoder_teacher import STAGE, EncoderTeacher, EncoderTeacherOptions
from compress.encoders.pair_encoder import PairEncoder
from compress.encoders.teacher_steps import TeacherSteps
from compress.stages.stage import RecipeError, StageInput
from models.card import file_digest
from models.errors import ModelDirectoryError
from tests.compress.small_encoders import write_encoder

SMALL: dict[str, Any] = {
    "tower_steps": 2,
    "joint_steps": 2,
    "slates": 2,
    "candidates": 4,
    "worlds": 1,
}


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_encoder(tmp_path_factory.mktemp("encoder"), layers=1)


def _stage(data: Path, out: Path) -> StageInput:
    return StageInput(None, data, out, out.with_name(out.name + ".work"), seed=1, threads=1)


def _run(data: Path, out: Path, encoder: Path, **options: object) -> EncoderTeacher:
    encoder_teacher.run(_stage(data, out), {"encoder": str(encoder), **SMALL, **options})
    return EncoderTeacher.load(out)


def test_it_writes_both_parts_and_their_lineage(
    small_data: Path, encoder: Path, tmp_path: Path
) -> None:
    teacher = _run(small_data, tmp_path / "t", encoder, joint_weight=0.75, checkpoint_every=1)
    assert teacher.weights == {"towers": 0.25, "joint": 0.75}
    (answer,) = teacher.label_log_odds(["headline welder"], [["weld steel", "teach pupils"]])
    assert answer.shape == (2,)
    content = json.loads((tmp_path / "t" / "teacher.json").read_text())
    (entry,) = content["lineage"]["stages"]
    assert entry["stage"] == "encoder_teacher"
    assert entry["options"]["joint_steps"] == 2
    assert str(encoder) not in json.dumps(content)
    assert entry["options"]["encoder"] == file_digest(encoder / "model.safetensors")
    assert list(teacher.lineage) == [entry]


def test_what_names_it_tells_its_weights_and_size(
    small_data: Path, encoder: Path, tmp_path: Path
) -> None:
    """A pipeline knows a given teacher by this file alone."""
    one, other = tmp_path / "t", tmp_path / "other"
    _run(small_data, one, encoder, joint_steps=0)
    _run(small_data, other, encoder, joint_steps=0, rate=1e-3)
    first, second = (json.loads((path / "scorer.json").read_text()) for path in (one, other))
    assert first["digest"] == file_digest(one / "teacher.json") != second["digest"]
    stored = {**load_file(one / "words.safetensors"), **load_file(one / "towers.safetensors")}
    assert first["parameters"] == sum(weight.numel() for weight in stored.values())


def test_averages_are_written_where_they_are_asked_for(
    small_data: Path, encoder: Path, tmp_path: Path
) -> None:
    last, mean = tmp_path / "last", tmp_path / "mean"
    _run(small_data, last, encoder, joint_steps=0)
    _run(small_data, mean, encoder, joint_steps=0, average=0.9)
    ours, theirs = (load_file(path / "towers.safetensors") for path in (last, mean))
    assert not torch.equal(ours["hidden.weight"], theirs["hidden.weight"])


def test_a_step_computes_on_the_device_of_its_model(
    small_data: Path, encoder: Path, tmp_path: Path
) -> None:
    """`meta` stands for a GPU: it too refuses operands of two devices."""
    meta = torch.device("meta")
    given = replace(_stage(small_data, tmp_path / "t"), device=meta)
    options = EncoderTeacherOptions(str(encoder), **SMALL)
    steps = encoder_teacher._steps(replace(given, threads=10_000), options, encoder)
    for part in ("towers", "joint"):
        model = PairEncoder(load_encoder(encoder), joint=part == "joint").to(meta)
        batch = steps.batch(part, 0)
        with meta:
            loss = steps.loss(model, batch)
        assert loss.device == meta
        loss.backward()  # type: ignore[no-untyped-call]


def test_passes_done_again_for_their_gradient_give_the_same(
    small_data: Path, encoder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = EncoderTeacherOptions(str(encoder), **SMALL, chunk=3)
    steps = encoder_teacher._steps(_stage(small_data, tmp_path / "t"), options, encoder)
    torch.manual_seed(0)
    model = PairEncoder(load_encoder(encoder), joint=True)
    torch.nn.init.normal_(model.out.weight)
    batch, gradients = steps.batch("joint", 0), []
    for again in (True, False):
        if not again:
            monkeypatch.setattr(pair_slates, "checkpoint", _once)
        torch.manual_seed(1)
        model.zero_grad()
        steps.loss(model, batch).backward()  # type: ignore[no-untyped-call]
        gradients.append([w.grad.clone() for w in model.parameters() if w.grad is not None])
    assert all(map(torch.equal, *gradients))


def _once(
    part: Callable[..., torch.Tensor], *operands: object, use_reentrant: bool
) -> torch.Tensor:
    return part(*operands)


@pytest.mark.parametrize("part", ["joint", "towers"])
def test_passes_in_bf16_have_nearly_the_same_loss_and_gradients(
    small_data: Path, tmp_path: Path, part: str
) -> None:
    encoder = write_encoder(tmp_path / "encoder", layers=2, spread=0.1)
    losses, gradients = [], []
    for passes in ("float32", "bfloat16"):
        options = EncoderTeacherOptions(str(encoder), **SMALL, dropout=0.0, cpu_passes=passes)
        steps = encoder_teacher._steps(_stage(small_data, tmp_path / "t"), options, encoder)
        torch.manual_seed(0)
        model = PairEncoder(load_encoder(encoder), joint=part == "joint")
        torch.nn.init.normal_(model.out.weight, std=0.1)
        loss = steps.loss(model, steps.batch(part, 0))
        loss.backward()  # type: ignore[no-untyped-call]
        losses.append(float(loss.detach()))
        gradients.append({n: w.grad for n, w in model.named_parameters() if w.grad is not None})
    assert losses[0] != losses[1] == pytest.approx(losses[0], rel=0.01)
    wide, narrow = gradients
    errors = {name: (narrow[name] - wide[name]).norm() for name in wide}
    assert all(error < 0.05 * wide[name].norm() + 0.005 for name, error in errors.items())


def test_a_teacher_may_be_trained_in_bf16(small_data: Path, encoder: Path, tmp_path: Path) -> None:
    _run(small_data, tmp_path / "wide", encoder)
    _run(small_data, tmp_path / "narrow", encoder, cpu_passes="bfloat16")
    for part in ("joint", "towers"):
        wide, narrow = (
            load_file(tmp_path / name / f"{part}.safetensors")["hidden.weight"].float()
            for name in ("wide", "narrow")
        )
        assert not torch.equal(wide, narrow)
        assert (wide - narrow).norm() / wide.norm() < 0.05


def test_a_part_without_steps_is_left_out(small_data: Path, encoder: Path, tmp_path: Path) -> None:
    teacher = _run(small_data, tmp_path / "t", encoder, tower_steps=0)
    assert teacher.weights == {"joint": 1.0}


def test_a_killed_run_goes_on_bit_for_bit(
    small_data: Path, encoder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = tmp_path / "whole"
    _run(small_data, whole, encoder, tower_steps=4, joint_steps=0, checkpoint_every=2)
    steps = TeacherSteps.batch

    def killed(self: object, part: str, step: int) -> object:
        if step == 3:
            raise KeyboardInterrupt
        return steps(self, part, step)  # type: ignore[arg-type]

    again = tmp_path / "again"
    monkeypatch.setattr(TeacherSteps, "batch", killed)
    with pytest.raises(KeyboardInterrupt):
        _run(small_data, again, encoder, tower_steps=4, joint_steps=0, checkpoint_every=2)
    assert not again.exists()
    monkeypatch.setattr(TeacherSteps, "batch", steps)
    _run(small_data, again, encoder, tower_steps=4, joint_steps=0, checkpoint_every=2)
    ours, theirs = (load_file(path / "towers.safetensors") for path in (whole, again))
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_options_that_train_nothing_are_refused(encoder: Path) -> None:
    with pytest.raises(RecipeError, match="tower_steps"):
        EncoderTeacherOptions(str(encoder), tower_steps=0, joint_steps=0)
    with pytest.raises(RecipeError, match="joint_weight"):
        EncoderTeacherOptions(str(encoder), joint_weight=1.5)
    with pytest.raises(RecipeError, match="cpu_passes is 'int8'; use one of float32, bfloat16"):
        EncoderTeacherOptions(str(encoder), cpu_passes="int8")
    with pytest.raises(RecipeError, match="average"):
        EncoderTeacherOptions(str(encoder), average=1.0)


def test_an_encoder_that_is_not_there_is_named(small_data: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelDirectoryError, match="name the folder of a BERT encoder"):
        _run(small_data, tmp_path / "t", tmp_path / "nowhere")
    assert STAGE.cost is not None
    with pytest.raises(ModelDirectoryError, match="name the folder of a BERT encoder"):
        STAGE.cost(EncoderTeacherOptions(str(tmp_path / "nowhere")), None)


def test_its_cost_is_known_before_it_starts(encoder: Path) -> None:
    assert STAGE.cost is not None
    one, two = (
        STAGE.cost(EncoderTeacherOptions(str(encoder), joint_steps=steps, tower_steps=5), None)
        for steps in (10, 20)
    )
    assert one.steps == 15
    assert one.operations < two.operations < 2 * one.operations
    assert one.shape is not None
    model = PairEncoder(load_encoder(encoder), joint=True)
    both = 2 * sum(weight.numel() for weight in model.encoder.encoder.parameters())
    assert one.shape.body == pytest.approx(both, rel=0.05)  # without biases and norms


def test_smaller_chunks_need_less_memory_and_no_more_time(encoder: Path) -> None:
    assert STAGE.cost is not None
    large, small = (
        STAGE.cost(EncoderTeacherOptions(str(encoder), chunk=chunk), None) for chunk in (512, 64)
    )
    assert small.memory < large.memory / 4
    assert small.operations == large.operations

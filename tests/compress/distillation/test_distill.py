"""The distillation stage: resuming bit for bit, its lineage, caches and schedules."""

from __future__ import annotations

import gzip
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer

from compress.data.text_slates import GeneratedSlates
from compress.decoders.wiring import layers_of
from compress.distillation import distill
from compress.distillation.distill_options import DistillOptions, Phase
from compress.distillation.teacher_cache import TeacherCacheError
from compress.distillation.text_distillation import TextTask, is_sampled
from compress.reasons.text_examples import ExamplesError
from compress.stages.ranker_card import new_card
from compress.stages.stage import RecipeError, StageInput
from models.checkpoint import load_decoder, load_model_directory, save_model_directory
from models.decoder import Decoder

SLATES = {"batch": 2, "candidates": 3, "warmup": 1, "checkpoint_every": 1}
TEXT = {"task": "text", "examples": "examples.jsonl.gz", "end": "<pad>", "batch": 2, "warmup": 1}


@pytest.fixture
def source(tmp_path: Path, wired: Decoder, word_tokenizer: Tokenizer) -> Path:
    word_tokenizer.save(str(tmp_path / "tokenizer.json"))
    card = replace(new_card("small", "1"), lineage={"stages": []})
    save_model_directory(tmp_path / "source", wired, tmp_path / "tokenizer.json", card)
    return tmp_path / "source"


@pytest.fixture
def text_data(tmp_path: Path) -> Path:
    (tmp_path / "texts").mkdir()
    rows = [{"context": "Weld.", "candidate": f"Cut {n}.", "answer": "Steel."} for n in range(4)]
    with gzip.open(tmp_path / "texts" / "examples.jsonl.gz", "wt") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)
    return tmp_path / "texts"


def _run(source: Path, data: Path, name: str, options: dict[str, Any]) -> dict[str, torch.Tensor]:
    out = source.with_name(name)
    distill.run(StageInput(source, data, out, source.with_name(name + ".work"), 2, 1), options)
    return load_decoder(load_model_directory(out)).state_dict()


class _KilledError(Exception):
    """Stands for a power cut."""


def _kill_at(monkeypatch: pytest.MonkeyPatch, task: Any, step: int) -> None:
    whole = task.loss

    def loss(self: Any, asked: int) -> torch.Tensor:
        if asked == step:
            raise _KilledError
        answer: torch.Tensor = whole(self, asked)
        return answer

    monkeypatch.setattr(task, "loss", loss)


def test_every_phase_resumes_bit_for_bit(
    source: Path, text_data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    phases = [
        {"steps": 1, "soft_share": 0.0},
        {"steps": 1},
        {"steps": 3, "prefix_source": "student", "new_tokens": 4},
    ]
    teacher = _teacher(source)
    options = TEXT | {"phases": phases, "teachers": [{"path": teacher}], "checkpoint_every": 1}
    straight = _run(source, text_data, "straight", options)
    with monkeypatch.context() as patch:
        _kill_at(patch, TextTask, 4)
        with pytest.raises(_KilledError):
            _run(source, text_data, "cut", options)
    resumed = _run(source, text_data, "cut", options)
    assert all(torch.equal(straight[name], resumed[name]) for name in straight)


def _teacher(source: Path) -> str:
    """The source with another output, so that there is something to learn."""
    directory = load_model_directory(source)
    decoder = load_decoder(directory)
    decoder.model.norm.weight.data *= 0.3
    path = source.with_name("teacher")
    save_model_directory(path, decoder, source / "tokenizer.json", directory.card)
    return str(path)


def test_slates_draw_the_student_to_its_teacher(
    source: Path, small_data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    draw = GeneratedSlates.draw
    monkeypatch.setattr(GeneratedSlates, "draw", lambda self, step, *sizes: draw(self, 0, *sizes))
    options = {"phases": [{"steps": 8, "soft_share": 1.0}], "token_dropout": 0.0, "rate": 3e-4}
    options |= SLATES | {"teachers": [{"path": _teacher(source)}]}
    _run(source, small_data, "taught", options)
    losses = json.loads((source.with_name("taught.work") / "losses.json").read_text())
    assert losses[-1] < 0.9 * losses[0]  # 0.76 was seen
    stages = load_model_directory(source.with_name("taught")).card.lineage["stages"]
    assert stages[-1]["teachers"] == [load_model_directory(Path(_teacher(source))).digest]
    assert stages[-1]["options"]["phases"][0]["divergence"] == "forward_kl"
    assert stages[-1]["options"]["teachers"][0]["path"] == "teacher", "not where it lay"


@pytest.mark.long
def test_hidden_states_draw_a_changed_layer_back(
    source: Path, small_data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    draw = GeneratedSlates.draw
    monkeypatch.setattr(GeneratedSlates, "draw", lambda self, step, *sizes: draw(self, 0, *sizes))
    directory = load_model_directory(source)
    decoder = load_decoder(directory)
    layers_of(decoder)[0].mlp.down_proj.weight += 0.2
    changed = source.with_name("changed")
    save_model_directory(changed, decoder, source / "tokenizer.json", directory.card)
    phase = {"steps": 20, "soft_share": 1.0, "hidden_weight": 1.0}
    options = {"phases": [phase], "token_dropout": 0.0, "rate": 1e-4, "embedding_rate": 0.0}
    options |= SLATES | {"warmup": 10, "teachers": [{"path": str(source)}]}
    back = _run(changed, small_data, "back", options)
    losses = json.loads((source.with_name("back.work") / "losses.json").read_text())
    assert losses[-1] < 0.5 * losses[0]
    embeddings = "model.embed_tokens.weight"
    assert torch.equal(back[embeddings], decoder.state_dict()[embeddings])


def test_a_cache_answers_as_its_teacher_and_refuses_another(
    source: Path, small_data: Path, demo_data: Path, tmp_path: Path
) -> None:
    data = tmp_path / "requests"
    data.mkdir()
    for path in small_data.iterdir():
        (data / path.name).write_bytes(path.read_bytes())
    (data / "train.jsonl.gz").write_bytes((small_data / "valid.jsonl.gz").read_bytes())
    teacher = {"path": _teacher(source)}
    options = SLATES | {"phases": [{"steps": 2}], "slates_of": "requests"}
    asked = _run(source, data, "asked", options | {"teachers": [teacher]})
    cached = _run(source, data, "cached", options | {"teachers": [teacher | {"cache": True}]})
    assert all(np.allclose(asked[name], cached[name], atol=1e-6) for name in asked)
    other = options | {"teachers": [{"path": str(source), "cache": True}]}
    with pytest.raises(TeacherCacheError, match="its teacher is"):
        _run(source, data, "cached", other)


def test_kept_outcomes_teach_texts_as_the_whole_vocabulary_does(
    source: Path, text_data: Path
) -> None:
    teacher = {"path": _teacher(source), "kept": 256}
    options = TEXT | {"phases": [{"steps": 2}]}
    asked = _run(source, text_data, "asked", options | {"teachers": [teacher]})
    cached = _run(source, text_data, "cached", options | {"teachers": [teacher | {"cache": True}]})
    losses = [
        json.loads((source.with_name(f"{name}.work") / "losses.json").read_text())
        for name in ("asked", "cached")
    ]
    assert losses[1] == pytest.approx(losses[0], rel=1e-2)
    assert asked.keys() == cached.keys()
    fewer = options | {"teachers": [teacher | {"cache": True, "kept": 8}]}
    with pytest.raises(TeacherCacheError, match="its kept is 256"):
        _run(source, text_data, "cached", fewer)


def test_a_cache_cannot_teach_what_it_never_read(source: Path, text_data: Path) -> None:
    phase = {"steps": 1, "prefix_source": "student", "new_tokens": 3}
    teacher = {"path": _teacher(source), "kept": 8, "cache": True}
    with pytest.raises(RecipeError, match="prefix_source: data"):
        _run(source, text_data, "x", TEXT | {"phases": [phase], "teachers": [teacher]})


@pytest.mark.parametrize("share", [0.0, 0.3, 0.5, 1.0])
def test_the_sampled_share_of_steps_is_the_one_asked_for(share: float) -> None:
    phase = Phase(steps=1000, prefix_source="student", sampled_share=share)
    sampled = sum(is_sampled(step, phase) for step in range(1000))
    assert abs(sampled / 1000 - share) <= 0.001
    assert not any(is_sampled(step, Phase(steps=9)) for step in range(9))


def test_phases_follow_one_another() -> None:
    options = DistillOptions.parse({"phases": [{"steps": 2, "soft_share": 0.0}, {"steps": 3}]})
    assert [options.phase_of(step).soft_share for step in range(5)] == [0, 0, 0.9, 0.9, 0.9]
    assert options.steps == 5
    with pytest.raises(IndexError):
        options.phase_of(5)


def test_it_says_what_it_needs(source: Path, small_data: Path, text_data: Path) -> None:
    options = {"phases": [{"steps": 1, "soft_share": 0.0}]}
    stage = StageInput(None, small_data, source.with_name("x"), source.with_name("x.work"), 2, 1)
    with pytest.raises(RecipeError, match="starts from a model directory"):
        distill.run(stage, options)
    with pytest.raises(RecipeError, match="is no token"):
        _run(source, text_data, "x", TEXT | options | {"end": "no such"})
    with pytest.raises(ExamplesError, match="not gzipped"):
        _run(source, text_data, "x", TEXT | options | {"examples": "absent.gz"})
    cached = SLATES | {"phases": [{"steps": 1}], "teachers": [{"path": str(source), "cache": True}]}
    with pytest.raises(RecipeError, match="slates_of"):
        _run(source, small_data, "x", cached)


def test_a_wired_circuit_has_a_rate_of_its_own(tiny_decoder: Decoder) -> None:
    phases = [{"steps": 1, "soft_share": 0.0}]
    options = DistillOptions.parse({"phases": phases, "rate": 0.5, "wired_rate": 0.25})
    groups = distill.optimizer_of(tiny_decoder, options).param_groups
    rates = {weight: group["lr"] for group in groups for weight in group["params"]}
    assert len(rates) == len(list(tiny_decoder.parameters()))
    first, *_, last = layers_of(tiny_decoder)
    assert rates[first.mlp.up_proj.weight] == rates[last.self_attn.q_proj.weight] == 0.25
    assert rates[last.mlp.up_proj.weight] == rates[tiny_decoder.model.norm.weight] == 0.5


@pytest.mark.parametrize("value", [0.0, -1.0])
@pytest.mark.parametrize("name", ["temperature", "ranking_temperature", "sampling_temperature"])
def test_a_temperature_is_above_zero(name: str, value: float) -> None:
    with pytest.raises(RecipeError, match=rf"phase: {name} is {value}; use more than 0"):
        DistillOptions.parse({"phases": [{"steps": 1, name: value}]})


def test_more_outcomes_than_the_loss_compares_are_refused_beforehand() -> None:
    with pytest.raises(RecipeError, match="kept is 257; use 1 to 256"):
        DistillOptions.parse({"phases": [{"steps": 1}], "teachers": [{"kept": 257}]})


def test_only_rationales_leave_choices() -> None:
    with pytest.raises(RecipeError, match="choice_weight"):
        DistillOptions.parse({"phases": [{"steps": 1}], "choice_weight": 1.0})

"""The loss of texts and of their choices, alone and in two processes."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from compress.distillation import text_distillation
from compress.distillation.distill_options import DistillOptions
from compress.distillation.text_distillation import TextTask
from compress.reasons.example_grammar import ExampleGrammars
from compress.reasons.rationales import RationaleExamples
from compress.reasons.text_tokens import TextEncoder
from compress.stages import parallel
from models.checkpoint import load_decoder, load_model_directory
from models.reasons.grammar import END_OF_ANSWER

MODEL = Path("models/demo_reason")


@pytest.fixture(scope="module")
def examples(small_data: Path) -> RationaleExamples:
    return RationaleExamples.load(small_data, 3)


def task_of(examples: RationaleExamples, choice_weight: float) -> TextTask:
    directory = load_model_directory(MODEL)
    encoder = TextEncoder.of(directory, END_OF_ANSWER)
    grammars = ExampleGrammars(directory.prompt)
    phases = [{"steps": 2, "soft_share": 0.0}]
    options = {"task": "text", "teachers": [], "phases": phases, "batch": 4}
    parsed = DistillOptions.parse(options | {"choice_weight": choice_weight})
    return TextTask(
        load_decoder(directory),
        encoder,
        examples,
        [],
        parsed,
        1,
        lambda example: grammars.of(example).lattice(),
    )


@torch.no_grad()
def test_choices_weigh_in_beside_all_tokens(examples: RationaleExamples) -> None:
    plain, single, double = (float(task_of(examples, weight).loss(0)) for weight in (0, 1, 2))
    assert single > plain
    assert double - plain == pytest.approx(2 * (single - plain), rel=1e-4)


@torch.no_grad()
def test_two_processes_mean_what_one_does(
    examples: RationaleExamples, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = task_of(examples, 2.0)
    alone = float(task.loss(0))
    monkeypatch.setattr(parallel, "world", lambda: 2)
    monkeypatch.setattr(text_distillation, "world", lambda: 2)
    parts = []
    for rank in (0, 1):
        monkeypatch.setattr(parallel, "rank", lambda rank=rank: rank)
        parts.append(float(task.loss(0)))
    assert parts[0] != parts[1]
    assert sum(parts) / 2 == pytest.approx(alone, abs=1e-5)

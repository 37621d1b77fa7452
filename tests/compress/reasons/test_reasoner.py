"""The reasoner: its tokenizer, its directory, and what its evaluation says."""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path

import pytest
from tokenizers import Tokenizer

from compress.distillation import distill
from compress.distillation.distill_options import DistillOptions
from compress.distillation.teachers import VocabularyTeacher
from compress.reasons import evaluate_reason, reasoner
from compress.reasons.rationales import RationaleExamples
from compress.reasons.reasoner import ReasonerOptions, cased_tokenizer
from compress.reasons.text_tokens import TextEncoder
from compress.stages.stage import RecipeError, StageInput, parse_options
from models.checkpoint import load_model_directory
from models.directory import ModelDirectory
from models.reasons.grammar import END_OF_ANSWER

SMALL = {"vocab_size": 700}


@pytest.fixture(scope="module")
def directory(small_data: Path, tmp_path_factory: pytest.TempPathFactory) -> ModelDirectory:
    out = tmp_path_factory.mktemp("reasoner") / "first"
    stage = StageInput(None, small_data, out, out.with_suffix(".work"), 3, 1)
    reasoner.run(stage, SMALL)
    return load_model_directory(out)


def test_answers_read_back_as_they_were_written(
    directory: ModelDirectory, small_data: Path
) -> None:
    encoder = TextEncoder.of(directory, END_OF_ANSWER)
    examples = RationaleExamples.load(small_data, 2).draw(0, 40)
    for example, answer in zip(examples, encoder.answers(examples), strict=True):
        assert encoder.decode(answer) == example.answer


def test_a_fact_is_tokenized_alike_in_the_prompt_and_in_quotes() -> None:
    tokenizer = cased_tokenizer(["Skills: Welding, Nursing. Tools: Tin snips."] * 3, 400)

    def ids(text: str) -> list[int]:
        return list(tokenizer.encode(text).ids)

    fact = ids("Tin snips")
    for text in ("Tools: Tin snips.", "Use of “Tin snips” carries over."):
        whole = ids(text)
        assert any(whole[at : at + len(fact)] == fact for at in range(len(whole)))
    pieces = [*ids("Use of “"), *fact, *ids("” carries over to “"), *fact, *ids("”.")]
    assert ids("Use of “Tin snips” carries over to “Tin snips”.") == pieces


def test_a_source_gives_its_tokenizer(
    directory: ModelDirectory, small_data: Path, tmp_path: Path
) -> None:
    stage = StageInput(directory.path, small_data, tmp_path / "o", tmp_path / "w", 4, 1)
    reasoner.run(stage, SMALL | {"hidden_size": 448, "heads": 6, "kv_heads": 6})
    larger = load_model_directory(tmp_path / "o")
    assert VocabularyTeacher.load(larger.path, directory).decoder.config.hidden_size == 448


def test_an_evaluation_counts_form_grounding_and_relevance(
    directory: ModelDirectory,
    small_data: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    where = [str(directory.path), "--data", str(small_data), "--split", "test", "--json", "-"]
    monkeypatch.setattr(sys, "argv", ["evaluate_reason", *where, "--pairs", "4"])
    evaluate_reason.main()
    report = json.loads(capsys.readouterr().out)
    assert report["pairs"] == 4
    assert report["format_validity"] == report["grounded"] == 1.0  # untrained, held by the grammar
    assert report["free_grounded"] < 1
    assert 0 <= report["random_relevance"] <= report["rationale_relevance"] <= 1
    assert math.isfinite(report["validation_loss"])


def test_gates_read_the_same_figures(directory: ModelDirectory, small_data: Path) -> None:
    options = DistillOptions.parse({"task": "text", "phases": [{"steps": 1, "soft_share": 0.0}]})
    measured = distill.quality(options, directory.path, small_data)
    assert measured.keys() == {"validation_loss", "format_validity", "grounded"}


def test_quotes_and_the_end_are_single_tokens(directory: ModelDirectory) -> None:
    tokenizer = Tokenizer.from_file(str(directory.path / "tokenizer.json"))
    for text in ("“", "”", END_OF_ANSWER, "<reason>"):
        assert len(tokenizer.encode(text, add_special_tokens=False).ids) == 1


def test_digits_read_back_as_they_were_written() -> None:
    tokenizer = cased_tokenizer(["Tools: Maxon Cinema 4D, Windows 10."] * 3, 400)
    text = "Use of “Windows 10” carries over to “Maxon Cinema 4D”."
    assert tokenizer.decode(tokenizer.encode(text).ids) == text


@pytest.mark.parametrize("small", [{"layers": 3}, {"kv_heads": 2}, {"hidden_size": 256}])
def test_a_reasoner_too_small_to_be_wired_is_refused(small: dict[str, int]) -> None:
    with pytest.raises(RecipeError, match=next(iter(small))):
        parse_options(ReasonerOptions, small)

"""Teachers: what they answer, what is masked, and which ones are refused."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from tokenizers import Tokenizer

from compress.data.tokenizer import train_tokenizer
from compress.distillation.teachers import (
    DecoderTeacher,
    LogOdds,
    TeacherError,
    VocabularyTeacher,
    WeightedTeacher,
    open_teacher,
    rare_grades,
)
from compress.stages.ranker_card import new_card
from models.checkpoint import load_model_directory, save_model_directory
from models.decoder import Decoder

SLATE = ["Weld steel.", "Nurse patients.", "Write reports."]


@pytest.fixture
def directory(tmp_path: Path, wired: Decoder, word_tokenizer: Tokenizer) -> Path:
    return _saved(tmp_path / "model", wired, word_tokenizer)


def _saved(path: Path, decoder: Decoder, tokenizer: Tokenizer) -> Path:
    tokenizer.save(str(path.with_suffix(".json")))
    card = replace(new_card("small", "1"), lineage={"stages": []})
    save_model_directory(path, decoder, path.with_suffix(".json"), card)
    return path


class _Counting:
    """Answers 0, 1, 2 ... for every slate."""

    digest = "counting"

    def label_log_odds(
        self,
        prefixes: Sequence[str],
        candidates: Sequence[Sequence[str]],
        prompt: str | None = None,
    ) -> list[LogOdds]:
        return [np.arange(len(slate), dtype=np.float32) for slate in candidates]


def test_a_decoder_answers_in_both_directions(directory: Path) -> None:
    teacher = open_teacher(directory)
    assert isinstance(teacher, DecoderTeacher)
    one, other = teacher.label_log_odds(["Welder.", "Nurse."], [SLATE, SLATE[:2]])
    assert (one.shape, other.shape) == ((3,), (2,))
    inverted = teacher.label_log_odds(["Welder."], [SLATE], "job_to_members")[0]
    assert not np.allclose(one, inverted)


def test_masked_grades_are_not_judged() -> None:
    teacher = WeightedTeacher(_Counting(), 1.0, frozenset({4}))
    grades = np.array([[0, 4, 1]])
    targets = teacher.targets(["x"], [SLATE], grades)
    np.testing.assert_array_equal(np.isnan(targets), grades == 4)


def test_an_answer_of_another_size_is_refused() -> None:
    class _Short(_Counting):
        def label_log_odds(
            self,
            prefixes: Sequence[str],
            candidates: Sequence[Sequence[str]],
            prompt: str | None = None,
        ) -> list[LogOdds]:
            return [np.zeros(1, dtype=np.float32)]

    with pytest.raises(TeacherError, match="one each"):
        WeightedTeacher(_Short(), 1.0).targets(["x"], [SLATE], np.zeros((1, 3), dtype=np.int64))


def test_rare_grades_are_those_below_the_share() -> None:
    assert rare_grades([[0] * 90, [1] * 8, [2] * 2], 0.05) == {2}


def test_another_tokenizer_cannot_teach_tokens(
    tmp_path: Path, directory: Path, wired: Decoder
) -> None:
    other = _saved(tmp_path / "other", wired, train_tokenizer(["Quite other words."] * 3, 400))
    with pytest.raises(TeacherError, match="different tokenizers"):
        VocabularyTeacher.load(other, load_model_directory(directory))


def test_a_ranker_without_vocabulary_cannot_teach_tokens(tmp_path: Path, directory: Path) -> None:
    (tmp_path / "encoder").mkdir()
    (tmp_path / "encoder" / "scorer.json").write_text('{"module": "compress.x"}')
    with pytest.raises(TeacherError, match="scope: labels"):
        VocabularyTeacher.load(tmp_path / "encoder", load_model_directory(directory))

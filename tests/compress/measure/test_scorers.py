"""Opening what scores: a model directory, a teacher of another kind, and what is neither."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path

import pytest

from compress.data.requests import Request
from compress.measure.evaluation import evaluate
from compress.measure.scorers import DirectoryScorer, open_scorer, scored_by
from models.errors import ModelDirectoryError, NonFiniteLogitError

REQUESTS = [Request("g", "x", ("a", "bbb", "cc"), (0, 4, 1)), Request("h", "x", ("d", "e"), (2, 0))]


class LengthScorer:
    """Longer is better: stands for a teacher that no engine serves."""

    digest = "length"

    def raw_logits(self, requests: Sequence[Request]) -> list[list[float]]:
        return [[float(len(text)) for text in request.candidates] for request in requests]

    def probability(self, raw_logit: float) -> float:
        return raw_logit / 10


def test_a_model_directory_is_opened_as_it_is_served(tiny_model_dir: Path) -> None:
    scorer = open_scorer(tiny_model_dir)
    assert isinstance(scorer, DirectoryScorer)
    assert len(scorer.raw_logits(REQUESTS)[0]) == 3


def test_a_teacher_of_another_kind_is_measured_alike() -> None:
    report = evaluate(LengthScorer(), REQUESTS, resamples=3)
    assert report["gauc"]["value"] == pytest.approx(0.75)  # a tie in the second request
    assert report["digest"] == "length"
    assert "label_mass" not in report


@pytest.mark.parametrize("content", ["", "[]", '{"name": "x"}', '{"module": "os.path"}'])
def test_a_file_that_names_no_module_of_ours_is_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "scorer.json").write_text(content)
    with pytest.raises(ModelDirectoryError, match="write the teacher again"):
        open_scorer(tmp_path)


def test_a_named_module_opens_its_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from compress.measure import metrics

    monkeypatch.setattr(metrics, "open_scorer", lambda path: LengthScorer(), raising=False)
    (tmp_path / "scorer.json").write_text(json.dumps({"module": "compress.measure.metrics"}))
    assert open_scorer(tmp_path).digest == "length"


def test_a_score_that_is_no_number_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(LengthScorer, "raw_logits", lambda self, requests: [[1.0, math.nan]])
    with pytest.raises(NonFiniteLogitError, match="train it again"):
        scored_by(LengthScorer(), REQUESTS[1:])

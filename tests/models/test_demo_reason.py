"""The shipped reasoner: its size, and that what it says is in what it read."""

from __future__ import annotations

from pathlib import Path

import pytest

from compress.reasons.evaluate_reason import Trial, evaluate_reasons
from models.checkpoint import load_model_directory

MODEL = Path("models/demo_reason")
DATA = Path("models/demo/onet_jobs")
MOST_BYTES = 10_000_000


def test_it_is_small_enough_to_ship() -> None:
    assert sum(path.stat().st_size for path in MODEL.iterdir()) <= MOST_BYTES


def test_every_sentence_is_well_formed_and_grounded() -> None:
    trial = Trial.of(load_model_directory(MODEL), DATA, "valid", 6)
    written = trial.held()
    assert trial.checked(written) == {"format_validity": 1.0, "grounded": 1.0}
    assert len(set(written)) > 3


@pytest.mark.long
def test_it_says_what_matters_more_often_than_chance() -> None:
    report = evaluate_reasons(load_model_directory(MODEL), DATA, "valid", 100)
    assert report["relevance"] > 0.18  # 0.193, and 0.031 by chance
    assert report["grounded"] == 1.0

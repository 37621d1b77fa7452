"""What heads a card may declare, how they are written, and what their grades become."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from models.calibration import Calibration
from models.card import Labels, ModelCard, read_card, write_card
from models.errors import ModelDirectoryError
from models.head_card import HeadCard
from models.isotonic import IsotonicCalibration

STARS = HeadCard(labels={"a": 1, "b": 2, "c": 4})


def test_grades_are_scaled_and_scores_scaled_back() -> None:
    assert STARS.gains == pytest.approx((0, 1 / 3, 1))
    assert [STARS.grade(score) for score in (0, 1 / 3, 1)] == pytest.approx([1, 2, 4])
    single = HeadCard(classes={"3": 5})
    assert (single.gains, single.grade(0.5)) == ((1.0,), 2.5)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({}, "either labels or classes"),
        ({"labels": {"a": 1, "b": 0}, "classes": {"0": 1}}, "either labels or classes"),
        ({"labels": {"a": 1}}, "another to compare with"),
        ({"labels": {"a": 1, "b": 1}}, "all grades are 1"),
        ({"labels": {"a": "1", "b": 0}}, "grade of 'a' is '1'"),
        ({"labels": {"a": float("nan"), "b": 0}}, "grade of 'a' is nan"),
        ({"classes": {"first": 1}}, "class 'first' is no row"),
        ({"classes": {"9" * 5000: 1}}, "is no row"),
        ({"classes": {"-1": 1}}, "class '-1' is no row"),
    ],
)
def test_a_head_that_cannot_be_read_says_why(content: dict[str, Any], message: str) -> None:
    with pytest.raises(ModelDirectoryError, match=message):
        HeadCard.from_json(content)


def test_heads_and_their_calibrations_come_back(
    tiny_model_dir: Path, tiny_card: ModelCard, tmp_path: Path
) -> None:
    for path in tiny_model_dir.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    curve = IsotonicCalibration(raw_logits=(-1.0, 1.0), scores=(0.1, 0.9))
    click = HeadCard(labels={" yes": 1, " no": 0}, calibration=curve)
    card = replace(
        tiny_card,
        labels=None,
        calibration=Calibration(),
        heads={"stars": STARS, "click": click},
        tenant_calibrations={"acme": {"click": Calibration(scale=2.0)}},
    )
    written = write_card(tmp_path, card)
    read = read_card(tmp_path)
    assert read.digest == written.digest
    assert list(read.scoring_heads) == ["stars", "click"]
    assert read.calibration_of("click", "acme") == Calibration(scale=2.0)
    assert read.calibration_of("click", "other") == curve
    assert read.calibration_of("stars", "acme") == Calibration()


def test_two_labels_read_as_one_head(tiny_card: ModelCard) -> None:
    (name,) = tiny_card.scoring_heads
    head = tiny_card.scoring_heads[name]
    assert (name, head.gains, head.calibration) == ("score", (1.0, 0.0), tiny_card.calibration)
    assert "heads" not in tiny_card.to_json()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"heads": {"stars": STARS}}, "either labels and calibration, or heads"),
        ({"labels": None}, "either labels and calibration, or heads"),
        ({"labels": None, "heads": {"stars": STARS}}, "either labels and calibration, or heads"),
        ({"tenant_calibrations": {"acme": {"stars": Calibration()}}}, "unknown head 'stars'"),
        ({"labels": Labels(" yes", " yes")}, "the same token"),
    ],
)
def test_a_card_that_contradicts_itself_is_refused(
    tiny_card: ModelCard, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(ModelDirectoryError, match=message):
        _ = replace(tiny_card, **changes).scoring_heads

"""What clients read of a model: what it is, and the limits that a request has to keep."""

from __future__ import annotations

from dataclasses import replace

from models.calibration import Calibration
from models.card import ModelCard
from service.base.config import Settings
from service.slates.described import describe_card, identify


def test_a_card_of_another_calibration_is_another_model(tiny_card: ModelCard) -> None:
    assert identify(tiny_card) == {"name": "tiny", "version": "0.0.1", "digest": tiny_card.digest}
    changed = replace(tiny_card, calibration=Calibration(scale=0.8, shift=0.3))
    assert identify(changed)["digest"] != identify(tiny_card)["digest"]


def test_prompts_are_described_by_their_fields_in_order(tiny_card: ModelCard) -> None:
    described = describe_card(tiny_card, 7, Settings())
    assert described["prompts"] == {
        "member_to_jobs": {"context_fields": ["headline", "skills"]},
        "job_to_members": {"context_fields": []},
    }
    assert described["default_prompt"] == "member_to_jobs"


def test_limits_are_of_the_request_of_the_card_and_of_the_settings(tiny_card: ModelCard) -> None:
    settings = Settings(max_body_bytes=12_345, default_deadline_ms=1_234, max_deadline_ms=45_678)
    assert describe_card(tiny_card, 7, settings)["limits"] == {
        "max_candidates": 7,
        "max_body_bytes": 12_345,
        "max_context_tokens": 256,
        "max_candidate_tokens": 96,
        "default_deadline_ms": 1_234,
        "max_deadline_ms": 45_678,
    }

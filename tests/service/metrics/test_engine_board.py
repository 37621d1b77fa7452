"""What the board shows of engines, and when it warns that a model does not answer its labels."""

from __future__ import annotations

import logging

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry

from service.jobs.engine_report import EngineReport, decode_report, encode_report
from service.jobs.payload_bytes import PayloadError
from service.metrics.engine_board import LABEL_MASS_FLOOR, SAMPLES, WARNING_SECONDS, EngineBoard

INT8 = {"dtype": "int8", "reason": "avx512_vnni"}


def report(*label_mass: float, worker: str = "one") -> bytes:
    return encode_report(EngineReport(worker, INT8, label_mass))


def board(calibrated_mass: float | None = None) -> tuple[EngineBoard, CollectorRegistry]:
    registry = CollectorRegistry()
    return EngineBoard(calibrated_mass, registry), registry


@given(st.text(), st.dictionaries(st.text(), st.text()), st.lists(st.floats(0, 1)).map(tuple))
def test_a_report_comes_back_as_it_went(
    worker: str, description: dict[str, str], label_mass: tuple[float, ...]
) -> None:
    given_report = EngineReport(worker, description, label_mass)
    assert decode_report(encode_report(given_report)) == given_report


@pytest.mark.parametrize("payload", [b"", b"[]", b"[1, 2]", b'["a", {}, ["b"]]', b'["a", 1, []]'])
def test_a_damaged_report_is_refused_and_spoils_nothing(payload: bytes) -> None:
    with pytest.raises(PayloadError):
        decode_report(payload)
    shown, _ = board()
    shown.hear(payload)
    assert shown.describe()["engines"] == []


def test_engines_that_compute_alike_are_counted_while_they_live() -> None:
    shown, _ = board()
    shown.hear(report(worker="one"))
    shown.hear(report(worker="two"))
    shown.hear(encode_report(EngineReport("three", {"dtype": "float32"})))
    assert shown.describe()["engines"] == [{"count": 2, **INT8}, {"count": 1, "dtype": "float32"}]
    shown.forget_all_but({"two"})
    assert shown.describe()["engines"] == [{"count": 1, **INT8}]


def test_mass_below_the_floor_raises_the_alarm_and_recovers() -> None:
    shown, registry = board()
    assert shown.describe()["label_mass"] == {
        "mean": None,
        "samples": 0,
        "floor": LABEL_MASS_FLOOR,
        "alarm": False,
    }
    shown.hear(report(0.9, 0.94))
    assert shown.describe()["label_mass"]["alarm"]
    assert registry.get_sample_value("fairslate_label_mass_alarm") == 1
    assert registry.get_sample_value("fairslate_label_mass") == pytest.approx(0.92)
    shown.hear(report(*[0.99] * SAMPLES))
    assert not shown.describe()["label_mass"]["alarm"]
    assert registry.get_sample_value("fairslate_label_mass_alarm") == 0


def test_a_model_calibrated_below_the_floor_is_shown_without_alarm() -> None:
    shown, registry = board(calibrated_mass=1e-21)
    shown.hear(report(1e-20))
    assert shown.describe()["label_mass"]["mean"] == 1e-20
    assert shown.describe()["label_mass"]["floor"] is None
    assert registry.get_sample_value("fairslate_label_mass_alarm") == 0
    answering, _ = board(calibrated_mass=0.99)
    answering.hear(report(0.5))
    assert answering.alarm


def test_the_log_hears_of_it_once_a_minute(caplog: pytest.LogCaptureFixture) -> None:
    now = [0.0]
    shown = EngineBoard(None, CollectorRegistry(), lambda: now[0])
    with caplog.at_level(logging.WARNING, "fairslate.engines"):
        for second in range(int(WARNING_SECONDS) + 1):
            now[0] = float(second)
            shown.hear(report(0.2))
    assert [record.getMessage()[:40] for record in caplog.records] == [
        "the model puts 20.0 % of its probability"
    ] * 2

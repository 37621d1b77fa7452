"""The report: one file that needs no other, with what the card and the records say."""

from __future__ import annotations

import re
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from compress.recipes.page import render
from compress.recipes.records import MEASURED_NAME, Record, Speed, read_records, write_records
from compress.report import main
from models.card import ModelCard

SLICE = {"T11": {"requests": 12, "gauc": 0.71, "ndcg@10": 0.6, "ece": None, "logloss": 0.5}}
TEST = {
    "requests": 12,
    "pairs": 288,
    "gauc": {"value": 0.7, "low": 0.65, "high": 0.75},
    "calibration_curve": [[0.1, 0.12, 20], [0.8, 0.7, 20]],
    "slices": {"tenant": SLICE},
}


def _record(name: str, size: int) -> Record:
    metrics = {"gauc": 0.8123, "ndcg@10": 0.7, "ece": 0.02, "logloss": 0.4}
    speed, losses = Speed(1234.0, 5.5), (1.0, 0.5, 0.25)
    return Record(name, "train", "d", metrics, {}, ((0.5, 0.5, 9),), 100, size, speed, 3.0, losses)


def _card(card: ModelCard) -> ModelCard:
    layers = {"layers": {"layers.0.mlp": 0.01, "layers.1.mlp": 0.02}}
    lineage = {"stages": [{"stage": "train", "options": {"note": "<b>"}}]}
    return replace(card, metrics={"test": TEST, "quantize": layers}, lineage=lineage)


def test_it_holds_every_part_and_needs_no_other_file(tiny_card: ModelCard) -> None:
    page = render(_card(tiny_card), [_record("teacher", 9_000_000), _record("student", 1_000_000)])
    for part in ("teacher", "student", "1,234", "0.8123", "T11", "layers.1.mlp", "Calibration"):
        assert part in page
    assert page.count("<svg") == 6  # two trade-offs, calibration, layers, two losses
    assert not re.findall(r"<script|<img|<link|src=|href=", page)
    assert "<b>" not in page
    assert ">nan<" not in page


def test_a_card_alone_makes_a_shorter_report(tiny_card: ModelCard) -> None:
    page = render(tiny_card, [])
    assert "Lineage" in page
    assert "<svg" not in page


def test_records_are_read_as_they_were_written(tmp_path: Path) -> None:
    writer = Record("reasoner", "distill", "d", {"validation_loss": 0.5}, {}, (), 100, 1)
    for record in (_record("a", 1), writer):
        write_records(tmp_path / MEASURED_NAME, [record])
        (read,) = read_records(tmp_path / MEASURED_NAME)
        assert (read.metrics, read.speed, read.size) == (record.metrics, record.speed, record.size)
        assert list(read.losses) == list(record.losses)


def test_the_command_writes_the_file_and_says_what_is_no_model(
    tiny_model_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(tiny_model_dir, tmp_path / "model")
    write_records(tmp_path / "model" / MEASURED_NAME, [_record("first", 5), _record("last", 2)])
    out = tmp_path / "report.html"
    monkeypatch.setattr(sys, "argv", ["report", str(tmp_path / "model"), "--out", str(out)])
    assert main() == 0
    assert "first" in out.read_text(encoding="utf-8")
    monkeypatch.setattr(sys, "argv", ["report", str(tmp_path), "--out", str(out)])
    assert main() == 1


def test_an_earlier_page_is_replaced_and_no_other_file(
    tiny_model_dir: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    out = tmp_path / "report.html"
    monkeypatch.setattr(sys, "argv", ["report", str(tiny_model_dir), "--out", str(out)])
    assert (main(), main()) == (0, 0)
    out.write_text("<!doctype html><title>Mine</title>", encoding="utf-8")
    assert main() == 1
    assert f"{out} exists and is no such page; name another --out" in capsys.readouterr().err
    assert "Mine" in out.read_text(encoding="utf-8")


@pytest.mark.parametrize("out", ["/", ".", ""])
def test_an_out_without_a_name_is_refused(
    tiny_model_dir: Path, monkeypatch: pytest.MonkeyPatch, out: str
) -> None:
    monkeypatch.setattr(sys, "argv", ["report", str(tiny_model_dir), "--out", out])
    with pytest.raises(SystemExit) as caught:
        main()
    assert caught.value.code == 2

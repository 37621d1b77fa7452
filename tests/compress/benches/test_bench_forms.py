"""Forms of one model side by side, and the time of quantizing a whole one."""

from __future__ import annotations

from pathlib import Path

import pytest

from compress.benches import bench_forms, bench_quantize
from models.config import DecoderConfig
from tests.compress.slate_data import write_slates


def test_every_form_is_beside_the_model_itself(
    tiny_model_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small = {"candidates": 10, "method": "rtn"}
    forms = {
        "w8a8 rtn": small,
        "w4a16 rtn": small | {"scheme": "w4a16", "group_size": 16},
    }
    monkeypatch.setattr(bench_forms, "FORMS", forms)
    data = write_slates(tmp_path / "data")
    plain, eight, four = bench_forms.rows(tiny_model_dir, data, tmp_path / "work", 12, 1)
    assert (plain["form"], plain["tau"], plain["largest_difference"]) == ("fp32", 1, 0)
    assert plain["bytes"] > 2 * eight["bytes"] > 2 * four["bytes"]
    assert 0 < eight["largest_difference"] < four["largest_difference"]
    assert 0 < eight["layer_error"] < four["layer_error"]


def test_a_whole_model_is_quantized_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench_quantize, "QWEN3_27M", DecoderConfig(400, 64, 96, 1, 4, 2, 16))
    assert bench_quantize.seconds_to_quantize(count=2, sweeps=1) > 0

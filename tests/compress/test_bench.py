"""The bench prints a row for every method figure, and says honestly whether it was met."""

from __future__ import annotations

import json
from operator import ge, le

import pytest

from compress import bench


def test_a_figure_is_met_on_its_own_side_of_the_target() -> None:
    assert bench.figure("share", 0.9, 0.8, ge).met
    assert not bench.figure("seconds", 0.9, 0.8, le).met


def test_small_figures_are_recomputed_and_met(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, small in (("PROBLEMS", 10), ("INTERMEDIATE", 96), ("HIDDEN", 32), ("SWAPPED", 4)):
        monkeypatch.setattr(bench, name, small)
    monkeypatch.setattr(bench, "osscar_small", lambda: iter(()))  # its targets are for a hundred
    monkeypatch.setattr(bench, "quantease_large", lambda: iter(()))
    monkeypatch.setattr(bench, "TOKENS", 8)
    bench.main(["--threads", "1"])
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [row["name"] for row in rows] == [
        "downdate_rel_error",
        "prune_block_s",
        "quantease_vs_gptq",
    ]
    assert all(row["met"] for row in rows)
    assert 0 < rows[0]["value"] < 1e-8

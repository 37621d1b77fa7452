"""The page of the kept CSV shows every row, the fastest first, and the figures of the rows."""

from __future__ import annotations

from pathlib import Path

import pytest

from models.benches import report as bench_report
from models.benches.rows import Row, keep_rows

CONDITIONS = {"cpu": "a cpu", "cores": 2, "torch": "2", "commit": "c", "date": "2026-01-01"}


def test_the_page_shows_every_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [
        Row(
            "A",
            name,
            "int8",
            cache,
            rate,
            1,
            300,
            5,
            6,
            7,
            8,
            0.5,
            900,
            ndcg_10=ndcg_10,
            ndcg_10_all=0.9,
        )
        for cache in ("warm", "cold")
        for name, rate, ndcg_10 in (("slow", 20.0, 0.7), ("fast", 234.0, 0.8))
    ]
    rows.append(Row("A", "broken", "int8", "warm", note="cannot"))
    keep_rows(tmp_path / "cpu.csv", rows, CONDITIONS)
    monkeypatch.setattr(bench_report, "RESULTS", tmp_path)
    bench_report.main()
    page = (tmp_path / "README.md").read_text("utf-8")
    lines = [line for line in page.splitlines() if line.startswith("| ")][2:]
    named = [line.split("|")[1].strip() for line in lines]
    assert named == ["fast", "slow", "broken", "provider", "---", "slow", "fast"]
    assert "0.9" in lines[5]
    assert "234 (1-300)" in lines[0]
    assert "0.8" in lines[0]
    assert "| cannot | not measured |" in lines[2]
    assert (tmp_path / "cpu_A.png").read_bytes().startswith(b"\x89PNG")

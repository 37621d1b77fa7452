"""The bench prints a row for every method figure, and says honestly whether it was met."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from compress import bench
from compress.benches import bench_distillation
from compress.benches.kept_runs import KeptRun

ARMS = {"dense": 0.9, "pruned": 0.8, "recovered": 0.895}
KEPT = KeptRun("recovered_share", "gauc", "test", "d", ARMS, 0.09, 0.1, {}, "m", "n")


def test_small_figures_are_recomputed_and_met(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, small in (("PROBLEMS", 10), ("INTERMEDIATE", 96), ("HIDDEN", 32), ("SWAPPED", 4)):
        monkeypatch.setattr(bench, name, small)
    monkeypatch.setattr(bench, "osscar_small", lambda: iter(()))  # its targets are for a hundred
    monkeypatch.setattr(bench, "quantease_large", lambda: iter(()))
    monkeypatch.setattr(bench, "seconds_to_quantize", lambda slates, sweeps: 99.5)
    ways = {"chunked": {"peak_mb": 1.0, "seconds": 3.0}, "plain": {"peak_mb": 5.0, "seconds": 2.0}}
    monkeypatch.setattr(bench, "measured", lambda way, tokens, threads: ways[way])
    monkeypatch.setattr(bench, "read_runs", lambda: [KEPT])
    bench.main(["--threads", "1"])
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [row["name"] for row in rows] == [
        "downdate_rel_error",
        "prune_block_s",
        "quantease_vs_gptq",
        "quantize_27m_s",
        "kd_peak_ratio",
        "kd_time_ratio",
        "recovered_share",
    ]
    assert [row["met"] for row in rows] == [True, True, True, True, True, False, True]
    assert rows[-1]["value"] == 0.95
    assert 0 < rows[0]["value"] < 1e-8


def test_a_chunk_at_a_time_gives_the_gradients_of_all_at_once() -> None:
    operands = [torch.randn(rows, 8) for rows in (12, 40, 12, 40)]
    gradients = []
    for way in (bench_distillation.plain, bench_distillation.chunked):
        wanted = [operand.requires_grad_() for operand in operands[:2]]
        gradients.append(torch.autograd.grad(way(*operands), wanted))
    for one, other in zip(*gradients, strict=True):
        assert torch.allclose(one, other, atol=1e-6)


def test_rows_that_could_not_be_kept_are_not_computed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(bench, "osscar_small", lambda: pytest.fail("a bench ran"))
    for path in (tmp_path / "nowhere" / "x", tmp_path):
        with pytest.raises(SystemExit) as caught:
            bench.main(["--json", str(path)])
        assert caught.value.code == 2
        assert f"--json {path} cannot be written" in capsys.readouterr().err

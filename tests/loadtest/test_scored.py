"""The scorer's rows say what the kept CSV does, peers and limit included."""

from __future__ import annotations

from pathlib import Path

import pytest

from loadtest import scored

FIELDS = "shape,provider,dtype,cache,items_per_s,gemm_fraction,cores,cpu"
KEPT = """
A,fairslate,int8,warm,500,0.5,2,a cpu
A,fairslate,int8,cold,1,0.9,2,a cpu
A,fairslate,bf16,warm,300,0.75,2,a cpu
A,vllm,bf16,warm,250,0.4,2,a cpu
A,hf-shared,bf16,warm,,,2,a cpu
B,fairslate,int8,warm,30,0.8,2,a cpu
B,fairslate,bf16,warm,16.66,0.9,2,a cpu
B,vllm,bf16,warm,10,0.5,2,a cpu
"""


def test_rates_peers_and_the_aim_beside_the_limit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "cpu.csv").write_text(FIELDS + KEPT)
    monkeypatch.setattr(scored, "CPU_SCORER", tmp_path / "cpu.csv")
    small, large, aim, other_aim = scored.cpu_scorer_rows()
    assert small[1:] == (
        "500 / 300",
        "2 cores of a cpu, context warm, 50 and 75 % of a product's rate; in the same run "
        "vLLM bf16 250 ([all rows](models/results/README.md))",
    )
    assert large[1] == "30.0 / 16.7"
    assert aim[1] == "2.00x"
    assert "1,250 candidates per second, where 1,000 have their linear layers" in aim[2]
    assert other_aim[1] == "3.00x"
    assert "40.0 candidates per second, where 37.5" in other_aim[2]

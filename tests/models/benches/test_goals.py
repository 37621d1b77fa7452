"""What was aimed at is set beside kept rows as they are, and an aim beyond the limit named so."""

from __future__ import annotations

import pytest

from models.benches.goals import HEADS, Ratio, Share, goal_lines

Line = dict[str, str]


def row(provider: str, dtype: str, rate: float, share: float = 0.5, cache: str = "warm") -> Line:
    names = {"shape": "A", "provider": provider, "dtype": dtype, "cache": cache}
    figures = {"items_per_s": str(rate), "gemm_fraction": str(share), "limit_gops": "1000"}
    return names | figures


@pytest.mark.parametrize(
    ("rate", "peer", "verdict"),
    [
        pytest.param(400, 100, "kept", id="as hoped"),
        pytest.param(250, 100, "kept, not what was hoped for", id="the least"),
        pytest.param(190, 100, "missed", id="below"),
        pytest.param(190, 191, "missed: beyond the limit", id="limit 380, asked for 382"),
    ],
)
def test_a_ratio_is_held_to_its_aim_and_the_limit(rate: float, peer: float, verdict: str) -> None:
    aim = Ratio("A", "int8", "vllm", "bf16", 2, 3)
    ours = row("fairslate", "int8", rate)
    cells = aim.cells({("A", "fairslate", "int8"): ours, ("A", "vllm", "bf16"): row("", "", peer)})
    assert len(cells) == len(HEADS)
    assert cells[4:7] == [f"{rate / peer:.2f}x", f"{2 * peer:,.0f}", f"{2 * rate:,.0f}"]
    assert cells[-1] == verdict


@pytest.mark.parametrize(("share", "verdict"), [(0.7, "kept"), (0.5, "missed")])
def test_a_share_of_the_product(share: float, verdict: str) -> None:
    rows = {("A", "fairslate", "int8"): row("fairslate", "int8", 100, share)}
    cells = Share("A", "int8", 0.6).cells(rows)
    assert len(cells) == len(HEADS)
    assert (cells[2], cells[4], cells[-1]) == ("product, 1,000 Gop/s", f"{share:.2f}", verdict)


def test_aims_without_their_rows_have_no_line() -> None:
    rows = [row("fairslate", "int8", 100), row("vllm", "bf16", 30), row("vllm", "bf16", 1)]
    rows[2]["cache"] = "cold"
    assert [line[2] for line in goal_lines(rows)] == ["vllm bf16, 30.0", "product, 1,000 Gop/s"]
    assert list(goal_lines([])) == []

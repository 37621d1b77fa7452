"""The gate's README rows from hand-made measurements."""

from __future__ import annotations

from loadtest import gated


def test_a_lone_tenants_share_is_a_percentage() -> None:
    ((_, figure, _),) = gated.lone_rows({"share": 0.985, "shares": [0.98, 0.985, 0.99]})
    assert figure == "98.5 %"


def test_a_failover_is_shown_by_its_worst_lag() -> None:
    lag = {"quantum": 7, "quantum_parts": 1, "runs": 3, "bound": 20}
    lags = [
        lag | {"lag_claims": claims, "lag_cost": 10 * claims, "growth": growth, "gap": 9 + growth}
        for claims, growth in ((0, 1), (4, 8), (16, 2))
    ]
    one, other = gated.failover_rows([*lags, *[row | {"quantum": 8} for row in lags]])
    assert one[0].endswith("Q 7 in 1")
    assert one[1] == "by 8 tokens to 17"
    assert one[2].startswith("40 served in the lag")
    assert "0 to 16 claims; without any lag by 1;" in one[2]
    assert other == (one[0].replace("7", "8"), *one[1:])


def test_an_outage_is_shown_by_its_median_and_its_worst_round() -> None:
    row = {"how": "killed", "median_s": 0.104, "worst_s": 0.35, "rounds": 5}
    ((what, figure, _),) = gated.outage_rows([row])
    assert "killed" in what
    assert figure == "0.10 s (worst 0.35)"

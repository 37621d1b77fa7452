"""The README's figures are those of the kept files, and the table is made as it says."""

from __future__ import annotations

import pytest

from loadtest import report


def test_the_readme_holds_what_the_kept_files_say() -> None:
    stands = report.README.read_text(encoding="utf-8")
    assert report.with_table(stands, report.table(report.rows())) == stands


def test_the_table_replaces_what_stands_between_the_markers() -> None:
    text = f"before\n{report.BEGIN}\nold\n{report.END}\nafter\n"
    wanted = f"before\n{report.BEGIN}\n| new |\n{report.END}\nafter\n"
    assert report.with_table(text, "| new |\n") == wanted


def test_a_readme_without_markers_is_refused() -> None:
    with pytest.raises(ValueError, match="figures: begin"):
        report.with_table("no markers", "")


@pytest.mark.parametrize(("share", "wanted"), [(0.5, 9), (0.51, 20), (0.99, 100)])
def test_percentiles_count_requests_in_order_of_time(share: float, wanted: int) -> None:
    # The histogram's keys are strings: sorted as text, "100" would stand before "9".
    stats = {"num_requests": 100, "response_times": {"100": 5, "9": 50, "20": 45}}
    assert report.latency_ms(stats, share) == wanted


def test_a_quiet_tenants_rows_compare_with_its_time_alone() -> None:
    def quiet(beside: str, policy: str, p99: float) -> dict[str, object]:
        row = {"experiment": "quiet", "beside": beside, "policy": policy, "slates": 9, "errors": 1}
        return row | {"p50_ms": 50.0, "p99_ms": p99}

    shares = [{"experiment": "weights", "weight": w, "seconds": 60.0} for w in (1, 2)]
    deviations = [
        row | {"of_its_share": share} for row, share in zip(shares, (1.02, 0.99), strict=True)
    ]
    capacity = {"experiment": "capacity", "slates_per_s": 8.0}
    rows = [capacity, quiet("", "dlpm", 100.0), quiet("bulk", "fcfs", 900.0), *deviations]
    alone, beside, weights = report.fairness_rows({"rows": rows})
    assert alone[1] == "50 / 100 ms"
    assert "`fcfs`" in beside[0]
    assert beside[1] == "50 / 900 ms (9.00x alone)"
    assert weights[0].startswith("weights 1:2")
    assert weights[1] == "2.0 %"


def test_reasons_are_a_rate_and_a_charge() -> None:
    kept = {"reasons_per_s": 120.4, "output_weight": 40, "fair_output_weight": 41.2}
    kept |= {"extend_tokens": 74.9, "output_tokens": 30.2, "postings": 8}
    (_, rate, where), (_, charge, fair) = report.reason_rows(kept)
    assert (rate, charge) == ("120", "40")
    assert "75 tokens read and 30 written" in where
    assert fair.endswith("at 41")


def test_rows_are_read_with_their_conditions_and_without() -> None:
    rows = [{"a": 1}]
    assert report.rows_of(rows) == report.rows_of({"commit": "c", "rows": rows}) == rows

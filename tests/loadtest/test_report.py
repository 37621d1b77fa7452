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
    assert report.percentile(stats, share) == wanted

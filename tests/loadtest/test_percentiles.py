"""A percentile is a value that occurred: the first that so large a share does not exceed."""

from __future__ import annotations

import pytest

from loadtest.percentiles import percentile
from service.gate import bench


@pytest.mark.parametrize(
    ("values", "share", "wanted"),
    [
        ([3, 1, 2], 0.5, 2),
        ([4, 3, 2, 1], 0.5, 2),  # two of four do not exceed it
        ([4, 3, 2, 1], 0.51, 3),
        (range(1, 101), 0.99, 99),
        (range(1, 101), 0.07, 7),  # 0.07 * 100 is above 7 in floating point
        ([3.0], 0.99, 3.0),
        ([3.0], 0.0, 3.0),
    ],
)
def test_a_percentile_is_the_nearest_rank(values: list[float], share: float, wanted: float) -> None:
    assert percentile(list(values), share) == wanted
    assert bench.percentile(sorted(values), share) == wanted

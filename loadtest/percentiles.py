"""The one meaning of a percentile in the kept figures. Knows nothing of what was measured."""

from __future__ import annotations

import math
from collections.abc import Sequence

NOISE = 1e-9  # of share * count in floating point, which must not ask for one value more


def percentile(values: Sequence[float], share: float) -> float:
    """The least of the values that at least `share` of them do not exceed (nearest rank).

    There must be one at least; nothing is interpolated.
    """
    rank = math.ceil(share * len(values) - NOISE)
    return sorted(values)[max(0, rank - 1)]

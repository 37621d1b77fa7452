"""When to claim the next batch, so that it is there when the running one ends. Knows no batches.

Later is better: whoever comes before the claim is among those it chooses from. What a newcomer
waits for the batch in hand so grows by `lead`, a few milliseconds, and not by a second batch.
"""

from __future__ import annotations

KEPT = 7 / 8  # of what was believed before, at each new measurement
SPARE_SECONDS = 0.001  # what the end of a batch is off its forecast, about


class ClaimTimer:
    """Moving averages of what a batch takes per token, and of what a claim takes, in seconds."""

    def __init__(self) -> None:
        self._per_token = 0.0
        self._claim = 0.0

    @property
    def lead(self) -> float:
        """How long before a batch's end the next one is claimed: twice a claim's usual time."""
        return 2 * self._claim + SPARE_SECONDS

    def scored(self, tokens: int, seconds: float) -> None:
        """Takes in what a batch took."""
        self._per_token = _moved(self._per_token, seconds / max(1, tokens))

    def claimed(self, seconds: float) -> None:
        """Takes in what a claim took until its batch stood in line."""
        self._claim = _moved(self._claim, seconds)

    def due(self, began: float, tokens: int) -> float:
        """When to claim behind a batch that began at `began`; at once before the first is known."""
        return began + tokens * self._per_token - self.lead


def _moved(average: float, value: float) -> float:
    return KEPT * average + (1 - KEPT) * value if average else value

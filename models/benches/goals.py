"""What the scorer was to reach on a CPU, beside the kept rows. Knows no engine and no clock.

A ratio to a peer is out of reach where it asks for more than the limit: the rate at which a slate's
linear layers alone would run as one square product.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

Line = Mapping[str, str]
Rows = Mapping[tuple[str, str, str], Line]
HEADS = (
    "shape",
    "ours",
    "beside",
    "aim",
    "measured",
    "items/s it takes",
    "limit, items/s",
    "verdict",
)


@dataclass(frozen=True, slots=True)
class Ratio:
    """Times a peer's candidates a second, context warm."""

    shape: str
    dtype: str
    peer: str
    peer_dtype: str
    least: float
    goal: float | None = None  # hoped for beyond the least

    def cells(self, rows: Rows) -> list[str]:
        """A line of the table; KeyError where a row is not measured."""
        own, peer = rows[self.shape, "fairslate", self.dtype], self.beside(rows)
        rate, other = float(own["items_per_s"]), float(peer["items_per_s"])
        limit = rate / float(own["gemm_fraction"])
        aim = f"{self.least:g}x" + (f", {self.goal:g}x hoped for" if self.goal else "")
        return [
            *(self.shape, self.dtype, f"{self.peer} {self.peer_dtype}, {other:,.1f}", aim),
            f"{rate / other:.2f}x",
            f"{self.least * other:,.0f}",
            f"{limit:,.0f}",
            _verdict(rate / other, self.least, self.goal, limit / other),
        ]

    def beside(self, rows: Rows) -> Line:
        """The peer's row."""
        return rows[self.shape, self.peer, self.peer_dtype]


@dataclass(frozen=True, slots=True)
class Share:
    """Of the rate of one square product of the type."""

    shape: str
    dtype: str
    least: float
    goal: float | None = None

    def cells(self, rows: Rows) -> list[str]:
        """A line of the table; KeyError where the row is not measured."""
        own = rows[self.shape, "fairslate", self.dtype]
        share, rate = float(own["gemm_fraction"]), float(own["items_per_s"])
        limit = rate / share
        aim = f"{self.least:g}" + (f", {self.goal:g} hoped for" if self.goal else "")
        return [
            *(self.shape, self.dtype, f"product, {float(own['limit_gops']):,.0f} Gop/s", aim),
            f"{share:.2f}",
            f"{self.least * limit:,.0f}",
            f"{limit:,.0f}",
            _verdict(share, self.least, self.goal, 1),
        ]


GOALS: Sequence[Ratio | Share] = (
    Ratio("A", "int8", "hf-shared", "bf16", 2.4, 3.2),
    Ratio("A", "bf16", "hf-shared", "bf16", 1.5),
    Ratio("A", "int8", "vllm", "bf16", 5),
    Ratio("A", "int8", "ort-pairs", "int8", 3),
    Ratio("B", "int8", "hf-shared", "bf16", 2.0),
    Ratio("B", "bf16", "hf-shared", "bf16", 1.2),
    Ratio("B", "int8", "vllm", "bf16", 4),
    Share("A", "int8", 0.45, 0.60),
    Share("A", "bf16", 0.60),
    Share("B", "int8", 0.60, 0.75),
    Share("B", "bf16", 0.70),
)


def goal_lines(rows: Sequence[Line]) -> Iterator[list[str]]:
    """Cells of HEADS for every aim whose rows are kept."""
    warm = {
        (row["shape"], row["provider"], row["dtype"]): row
        for row in rows
        if row["cache"] == "warm" and row["items_per_s"]
    }
    for goal in GOALS:
        try:
            yield goal.cells(warm)
        except KeyError:  # one of the two was not measured
            continue


def _verdict(found: float, least: float, goal: float | None, most: float) -> str:
    if found < least:
        return "missed: beyond the limit" if least > most else "missed"
    return "kept" if goal is None or found >= goal else "kept, not what was hoped for"

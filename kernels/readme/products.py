"""How fast products in eight bits were, all of them and those the dispatcher takes. Times nothing.

A shape is a layer of a model at a number of rows; its gain is bf16's time over another's.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from kernels.bench.gemm_rivals import layers
from kernels.catalogue.shapes import MODELS
from kernels.eight_bits.gemm_choice import measured_choice
from kernels.kept.figures import Group, Groups, over, value

PREFIX = "quantized_gemm "
BF16 = "bf16"
FEWEST_ROWS = 512
# Who of a row a product of the dispatcher's is. torch's int8 product knows no scales, so that its
# row stands for nobody's.
ROW_OF = {
    "int8": {"ours": "ours int8"},
    "fp8": {"ours": "ours fp8", "vendor": "torch fp8 coarse"},
}


@dataclass(frozen=True, slots=True)
class Product:
    """What was measured of one shape in one kind of eight bits."""

    fastest: float  # gain of the fastest in eight bits
    taken: float | None  # gain of what the dispatcher takes; None if that was not timed
    dense: bool  # whether it takes bf16


def products(groups: Groups, kind: str) -> list[Product]:
    """All shapes of enough rows that were timed in that kind."""
    return [
        found
        for key, group in groups.items()
        if key[0].startswith(PREFIX) and int(key[3]) >= FEWEST_ROWS
        for found in _product(key, group, kind)
    ]


def _product(key: tuple[str, ...], group: Group, kind: str) -> Iterator[Product]:
    gains = {
        name: over(value(group, BF16), value(group, row)) for name, row in ROW_OF[kind].items()
    }
    timed = [gain for gain in gains.values() if gain]
    if timed:
        choice = _choice(key, group, kind)
        yield Product(max(timed), {"dense": 1.0, **gains}.get(choice), choice == "dense")


def _choice(key: tuple[str, ...], group: Group, kind: str) -> str:
    """Empty for a layer that the dispatcher's table does not hold."""
    op, _, model, rows = key
    shapes = (layers(known) for known in MODELS if known.name == model)
    columns, depth = next(shapes, {}).get(op.removeprefix(PREFIX), (0, 0))
    return measured_choice(group[BF16]["gpu"], kind, int(rows), columns, depth) or ""

"""Which tile of a product of eight-bit matrices one program computes. Knows no kernel.

By a rule of thumb for the Hopper generation, from sizes alone: nothing is tried or timed.
"""

from __future__ import annotations

import torch

MULTIPROCESSORS = 132  # of an H100 or H200
Tile = tuple[int, int, int, int, int]  # rows, columns, depth, warps, stages
# How fast a multiprocessor multiplies by tiles of a kind, one at a time or two side by side: one
# multiplies while the other loads or stores. As int8 products of an H200 showed it.
SPEEDS: dict[Tile, tuple[float, float]] = {
    (128, 128, 128, 8, 3): (0.60, 1.0),
    (64, 128, 128, 4, 4): (0.56, 0.82),
    (64, 64, 128, 4, 4): (0.39, 0.55),
}
# With fp8's two sums or a residual in registers there is no room for two.
CROWDED: dict[Tile, tuple[float, float]] = {
    (128, 128, 128, 8, 4): (0.85, 0.0),
    (128, 64, 128, 4, 4): (0.65, 0.0),
    (64, 64, 128, 4, 4): (0.45, 0.0),
}


def block_sizes(
    rows: int, columns: int, dtype: torch.dtype, *, residual: bool = False
) -> dict[str, int]:
    """The tile, warps and stages that finish soonest by a rule of thumb."""
    tiles = CROWDED if dtype.is_floating_point or residual else SPEEDS
    names = ("BLOCK_ROWS", "BLOCK_COLUMNS", "BLOCK_DEPTH", "num_warps", "num_stages")
    soonest = min(tiles, key=lambda tile: _time(rows, columns, tile, tiles[tile]))
    return dict(zip(names, soonest, strict=True))


def _time(rows: int, columns: int, tile: Tile, speeds: tuple[float, float]) -> float:
    """Tiles run in rounds over the multiprocessors, two side by side where there are enough."""
    count = -(-rows // tile[0]) * -(-columns // tile[1])
    together = 2 if speeds[1] and count > MULTIPROCESSORS else 1
    rounds = -(-count // (together * MULTIPROCESSORS))
    return rounds * together * tile[0] * tile[1] / speeds[together - 1]

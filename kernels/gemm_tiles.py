"""Which tile of a product of eight-bit matrices one program computes. Knows no kernel.

By a rule of thumb for the Hopper generation, from sizes alone: nothing is tried or timed.
"""

from __future__ import annotations

import torch

MULTIPROCESSORS = 132  # of an H100 or H200
Tile = tuple[int, int, int, int, int]  # rows, columns, depth, warps, stages
# How fast each tile multiplies next to the largest.
SPEEDS: dict[Tile, float] = {
    (128, 256, 128, 8, 3): 1.0,
    (128, 128, 128, 8, 4): 0.85,
    (128, 64, 128, 4, 4): 0.65,
    (64, 64, 128, 4, 4): 0.45,
}
TWICE_SUMMED = 128 * 128  # the largest tile with registers for fp8's two sums, or a residual


def block_sizes(
    rows: int, columns: int, dtype: torch.dtype, *, residual: bool = False
) -> dict[str, int]:
    """The tile, warps and stages that finish soonest by a rule of thumb.

    Tiles run in waves over the multiprocessors; large ones load less for each product.
    """
    crowded = dtype.is_floating_point or residual
    tiles = [tile for tile in SPEEDS if not crowded or tile[0] * tile[1] <= TWICE_SUMMED]

    def waves(tile: Tile) -> float:
        count = -(-rows // tile[0]) * -(-columns // tile[1])
        return -(-count // MULTIPROCESSORS) * tile[0] * tile[1] / SPEEDS[tile]

    names = ("BLOCK_ROWS", "BLOCK_COLUMNS", "BLOCK_DEPTH", "num_warps", "num_stages")
    soonest = min(tiles, key=waves)
    return dict(zip(names, soonest, strict=True))

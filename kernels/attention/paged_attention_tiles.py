"""Tiles, steps and warps of paged attention, as an H200 was fastest with. Knows no kernel."""

from __future__ import annotations

import torch

MIN_ROWS, MAX_ROWS = 16, 128  # of a program's query tile: tokens x query heads of one key head
MULTIPROCESSORS = 132  # of an H100 or H200
WARPS = {16: 4, 32: 4, 64: 4, 128: 8}  # by rows
# Keys of a step, steps loaded ahead and, of eight warps, a thread's registers; by the longest head
# they are for. With 128 two programs of long heads fit a multiprocessor: one multiplies while the
# other weighs, which gains more than the few registers they spill cost.
STEPS: dict[int, tuple[int, int, int | None]] = {64: (64, 3, None), 128: (64, 2, 128)}
# The same without a spill: shorter steps behind the prefix, and bounds read again there.
LEAN, LEAN_KEYS = False, 32  # compiled, not timed on a GPU yet
SPILLED = 320  # bytes: 312 by Triton 3.9, 188 by 3.6, three stores and loads of them in a step
WIDE_ROWS, WIDE_WARPS, WIDE_STEP = 16, 4, (32, 2, None)  # of fp32


def tile_tokens(tokens: int, heads: int, kv_heads: int, dtype: torch.dtype) -> int:
    """Tokens of a query tile for a layout of `tokens`.

    Large tiles read the prefix less often, and small ones reach the limit of what L2 can deliver,
    but each multiprocessor must have one; fp32 has registers for small ones only.
    """
    group_rows = power_of_two(heads // kv_heads)
    programs = -(-tokens * group_rows // MAX_ROWS) * kv_heads
    rows = MAX_ROWS if programs >= MULTIPROCESSORS else MAX_ROWS // 2
    if dtype == torch.float32:
        rows = WIDE_ROWS
    return max(1, rows // group_rows)


def block_sizes(
    group: int, head_dim: int, tile_tokens: int, dtype: torch.dtype, *, lean: bool | None = None
) -> dict[str, int | None]:
    """Tile, warps, pipeline depth and registers, as they were measured to be fastest."""
    group_rows, wide = power_of_two(group), dtype == torch.float32
    rows = max(MIN_ROWS, tile_tokens * group_rows)
    fitting = STEPS[min(longest for longest in STEPS if longest >= head_dim)]
    keys, stages, registers = WIDE_STEP if wide else fitting
    warps = WIDE_WARPS if wide else WARPS[rows]
    lean = head_dim > 64 and (LEAN if lean is None else lean)
    return {
        "GROUP": group,
        "GROUP_ROWS": group_rows,
        "BLOCK_ROWS": rows,
        "BLOCK_KEYS": keys,
        "LAST_KEYS": min(LEAN_KEYS, keys) if lean else keys,
        "LEAN": lean,
        "AHEAD": head_dim <= 64,  # of longer heads too few registers are left
        "num_warps": warps,
        "num_stages": stages,
        "maxnreg": registers if warps == 8 else None,
    }


def power_of_two(count: int) -> int:
    """The smallest power of two that is at least `count`."""
    return 1 << (count - 1).bit_length()

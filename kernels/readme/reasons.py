"""Says why a rival is faster or a goal is missed, as far as it was found out. Measures nothing."""

from __future__ import annotations

from collections.abc import Sequence
from fnmatch import fnmatchcase

from kernels.kept.figures import COPY, Group, Row, value

UNKNOWN = "not known yet"

FP32_SUMS = (
    "the weight's gradient is summed over chunks in float32, theirs written once in bf16; from "
    "8,192 tokens on half the memory, see MB"
)
ROUNDED = "a fiftieth, which is about what runs differ by"
SHORT = "short, and tuned for 8,192 tokens; how near it is to a copy stands in its row"
SHORT_US = 35.0

# By shell patterns of "operation mode models tokens"; the first that fits is taken.
ROWS = (
    ("linear_cross_entropy forward+backward *", FP32_SUMS),
    ("add_rms_norm_quantize int8 forward Qwen3-0.6B 8192", ROUNDED),
)
# By shell patterns of "operation provider commit": what was changed since a row was timed.
CHANGES = (
    (
        "quantized_gemm * ours int8 *",
        "the tile, after a sweep of four shapes, at each of which it is the fastest",
    ),
    ("paged_attention * ours 385b22a", "keys of a step and steps ahead, 64 and 2 after 32 and 3"),
    ("* int8 ours 051d2bb", "rounding to int8, kept apart from the product so that it is exact"),
)
# By the beginning of what was asked.
GOALS = (
    (
        "`score_head` 64 x 1024, K = 2, alone",
        "a kernel that reads and writes one value takes 4.8 us there; with eight warps a row 5.4, "
        "but many rows want four, and a row must score the same in any company",
    ),
    ("no slower than", "the rows and their reasons stand below"),
)


def reason(key: Sequence[str], group: Group) -> str:
    """Why a row (op, mode, model, tokens) is slower than a rival's."""
    label = " ".join(key)
    return next((why for pattern, why in ROWS if fnmatchcase(label, pattern)), _by_length(group))


def _by_length(group: Group) -> str:
    """For calls of microseconds that were timed beside a copy."""
    ours = value(group, "ours")
    if ours is None or ours > SHORT_US or value(group, COPY) is None:
        return UNKNOWN
    return SHORT


def reason_of_goal(asked: str) -> str:
    """Why what was asked is missed."""
    return next((why for start, why in GOALS if asked.startswith(start)), UNKNOWN)


def reason_of_change(row: Row) -> str:
    """What was changed in the code or settings of a row of ours since it was timed."""
    label = f"{row['op']} {row['provider']} {row['commit']}"
    return next((why for pattern, why in CHANGES if fnmatchcase(label, pattern)), UNKNOWN)

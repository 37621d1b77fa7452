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
TWENTIETH = "one microsecond of 21; 0.98x at 32,768 tokens"
SHORT = "short, and tuned for 8,192 tokens; how near it is to a copy stands in its row"
SHORT_US = 35.0

# By shell patterns of "operation mode models tokens"; the first that fits is taken.
ROWS = (
    ("linear_cross_entropy forward+backward *", FP32_SUMS),
    ("add_rms_norm_quantize int8 forward Qwen3-0.6B 8192", TWENTIETH),
)
# By shell patterns of "operation provider commit": what was changed since a row was timed.
CHANGES: tuple[tuple[str, str], ...] = ()
# By the beginning of what was asked.
GOALS = (
    (
        "`score_head` 64 x 1024, K = 2, alone",
        "a kernel that reads and writes one value takes 4.8 us there; with eight warps a row 5.4, "
        "but many rows want four, and a row must score the same in any company",
    ),
    (
        "`add_rms_norm_quantize",
        "it moves its own bytes at 87 % (fp8: 90 %) of a copy's rate and the pair its own, 1.57 "
        "times as many, at 107 % (110 %): the rows in between, 17 MB, fit the cache of 50 MB",
    ),
    (
        "int8 products 1.3x",
        "those below are of depth 1,024 and 2,048, sums of 8 and 16 steps before a tile in bf16 is "
        "written; all that are deeper reach it. What they wait for was not measured",
    ),
    ("fp8 products 1.3x", "it is the shortest of all products, of 14 us"),
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

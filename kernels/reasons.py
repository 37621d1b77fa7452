"""Says why a rival is faster or a goal is missed, as far as it was found out. Measures nothing."""

from __future__ import annotations

from collections.abc import Sequence
from fnmatch import fnmatchcase

from kernels.figures import Group

UNKNOWN = "not known yet"

HOST = "timed by events, so the host's launches count: its bytes take a tenth of that"
CHUNKS = (
    "kept for its memory, see MB: logits a chunk at a time, the weight's gradient summed in fp32"
)
IN_PLACE = "kept for its memory, see MB; measured when the gradient was scaled in a pass of its own"
WITH_GRADIENT = "the gradient is computed with the loss, wanted or not"
FEW_GROUPS = "a program a group: 85 groups of 97 leave a third of the GPU idle"
DIVIDED = "measured when each value was divided by its row's scale, not multiplied by the inverse"

# By shell patterns of "operation mode models tokens"; the first that fits is taken.
ROWS = (
    ("cross_entropy in place forward+backward *", IN_PLACE),
    ("linear_cross_entropy forward+backward *", CHUNKS),
    ("add_rms_norm forward+backward *", HOST),
    ("ranking_loss * forward *", WITH_GRADIENT),
    ("ranking_loss *", FEW_GROUPS),
    ("*quantize* forward *", DIVIDED),
)
# By the beginning of what was asked.
GOALS: tuple[tuple[str, str], ...] = (
    (
        "`score_head` 64 x 1024, K = 2, alone",
        "a graph of one launch: see a kernel that writes one value",
    ),
    ("attention 4x", "2,048 queries of two heads a group fill the tensor cores by half"),
    ("int8 products", "reached by the dispatcher, which takes the fastest measured"),
    ("fp8 products", "reached by the dispatcher, which takes the vendor's product"),
    ("training step, Llama-3.2-1B: 40 %", "weights, gradients and AdamW are 10 GB of it for all"),
    ("no slower than", "the rows and their reasons stand below"),
)


def reason(key: Sequence[str], group: Group) -> str:
    """Why a row (op, mode, model, tokens) is slower than a rival's."""
    label = " ".join(key)
    return next((why for pattern, why in ROWS if fnmatchcase(label, pattern)), UNKNOWN)


def reason_of_goal(asked: str) -> str:
    """Why what was asked is missed."""
    return next((why for start, why in GOALS if asked.startswith(start)), UNKNOWN)

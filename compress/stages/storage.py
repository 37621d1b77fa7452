"""The dtypes that weights may be stored in, by the names that options have. Knows no stage."""

from __future__ import annotations

import torch

STORAGE = {"float16": torch.float16, "bfloat16": torch.bfloat16, "float32": torch.float32}

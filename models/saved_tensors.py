"""Writes tensors to a safetensors file that others may read as its folder. Knows no model."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from safetensors.torch import save_file
from torch import Tensor


def save_tensors(
    tensors: dict[str, Tensor], path: Path, metadata: Mapping[str, str] | None = None
) -> None:
    """Raises OSError. safetensors itself leaves a file that only its owner can read, and a service
    often runs as another user.
    """
    save_file(tensors, path, dict(metadata) if metadata else None)
    mask = os.umask(0)
    os.umask(mask)
    path.chmod(0o666 & ~mask)

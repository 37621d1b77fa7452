"""What was saved can be read by whoever may read its folder, and is what was given."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from safetensors import safe_open

from models.saved_tensors import save_tensors


@pytest.mark.parametrize(("mask", "mode"), [(0o022, 0o644), (0o077, 0o600)])
def test_a_file_has_the_rights_of_any_other_new_file(tmp_path: Path, mask: int, mode: int) -> None:
    path, before = tmp_path / "x.safetensors", os.umask(mask)
    try:
        save_tensors({"x": torch.arange(3.0)}, path, {"format": "pt"})
    finally:
        assert os.umask(before) == mask
    assert path.stat().st_mode & 0o777 == mode
    with safe_open(path, "pt") as file:
        assert (file.metadata(), file.get_tensor("x").tolist()) == ({"format": "pt"}, [0, 1, 2])

"""What was saved can be read by whoever may read its folder, and is what was given."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest
import torch
from safetensors import safe_open

from models.saved_tensors import save_tensors
from tests.full_disk import no_file_above


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


def test_a_full_disk_is_an_error_of_the_system_and_leaves_nothing(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    with no_file_above(20_000), pytest.raises(OSError, match=r"x\.safetensors") as caught:
        save_tensors({"x": torch.zeros(100_000)}, path)
    assert caught.value.errno == errno.EFBIG
    assert not list(tmp_path.iterdir())


def test_the_same_content_makes_the_same_bytes(tmp_path: Path) -> None:
    path, names = tmp_path / "x", ["prompt", "reader", "format", "vectors", 'é\n"\x1f\x7f']
    written = set()
    for turn in range(12):  # each order of 5 keys comes once in 120 by itself
        metadata = {name: f"{name} is" for name in names[turn % 5 :] + names[: turn % 5]}
        save_tensors({"x": torch.arange(3.0), "a": torch.ones(5).half()}, path, metadata)
        written.add(path.read_bytes())
    assert len(written) == 1
    with safe_open(path, "pt") as file:
        assert file.metadata() == {name: f"{name} is" for name in names}
        assert (file.get_tensor("a").tolist(), file.get_tensor("x").tolist()) == (
            [1] * 5,
            [0, 1, 2],
        )

"""A start that must be refused: at once, with a reason, leaving nothing behind."""

from __future__ import annotations

import shutil
from pathlib import Path

from tests.e2e.server import free_port, spawn


def test_damaged_model_directory_ends_the_start(tmp_path: Path, tiny_model_dir: Path) -> None:
    model = Path(shutil.copytree(tiny_model_dir, tmp_path / "model"))
    weights = model / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"!")
    process = spawn(tmp_path, {"model": str(model)}, free_port())
    assert process.wait(timeout=60) == 1
    assert f"fairslate refuses to start: {weights}" in (tmp_path / "serve.log").read_text()
    assert not (tmp_path / "redis").exists(), "no process was started"

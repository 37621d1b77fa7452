"""Prunings so small that a test has them in a second. Knows no expected results."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from compress.pruning.prune import run
from models.checkpoint import load_model_directory
from models.directory import ModelDirectory
from tests.compress.slate_data import stage_input

SMALL = {"slates": 12, "candidates": 10, "multiple": 8}


def pruned(source: Path, data: Path, out: Path, **options: Any) -> ModelDirectory:
    """What the stage makes of `source`."""
    run(stage_input(source, data, out), SMALL | options)
    return load_model_directory(out)

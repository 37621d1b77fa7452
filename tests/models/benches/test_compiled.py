"""The compiled layers compute what the eager ones do."""

from __future__ import annotations

from pathlib import Path

import pytest

from models.benches.compiled import compiled_runner
from models.benches.random_models import save_random_model
from models.benches.shapes import TINY_SLATE
from models.benches.slates import random_slates
from models.checkpoint import load_model_directory
from models.engines.fairslate import FairslateEngine, RunnerEngine
from models.native.library import find_compiler

# Twice the largest difference measured.
TOLERANCE = {"float32": 4e-6, "int8": 0.1}


@pytest.mark.long
@pytest.mark.skipif(find_compiler() is None, reason="needs a C++ compiler")
@pytest.mark.parametrize("dtype", TOLERANCE)
def test_slates_score_as_without_compiling(dtype: str, tmp_path: Path) -> None:
    directory = load_model_directory(save_random_model(tmp_path / "model", TINY_SLATE))
    compiled = RunnerEngine(compiled_runner(directory, 1 << 20, dtype))
    eager = FairslateEngine(directory, 1 << 20, dtype=dtype)
    slates = random_slates(TINY_SLATE, 1, warm=False)
    for slate in (next(slates) for _ in range(3)):
        (got,), (want,) = compiled.score([slate.job]), eager.score([slate.job])
        assert got.raw_logits == pytest.approx(want.raw_logits, abs=TOLERANCE[dtype], rel=0)

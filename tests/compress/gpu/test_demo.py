"""All phases of the run on a lent GPU, rehearsed on a CPU with a tiny encoder."""

from __future__ import annotations

import json
import tarfile
from dataclasses import replace
from pathlib import Path

import pytest

from compress.gpu.demo import GpuDemo
from compress.gpu.settings import RESUMED, TINY, Settings
from models.checkpoint import load_model_directory
from tests.compress.small_encoders import write_encoder

pytestmark = pytest.mark.long


def _phases(out: Path) -> dict[str, dict[str, object]]:
    rows = [json.loads(line) for line in (out / "results.jsonl").read_text().splitlines()]
    return {row["phase"]: row for row in rows}


def test_every_phase_leaves_its_result_and_a_student_goes_on(
    small_data: Path, tmp_path: Path
) -> None:
    encoder = write_encoder(tmp_path / "encoder", hidden=256, layers=1)
    settings = replace(Settings(10.0), **TINY, layers=(3,))
    for out in (tmp_path / "first", tmp_path / "second"):
        out.mkdir()
    GpuDemo(encoder, small_data, tmp_path / "first", settings).run()
    first = _phases(tmp_path / "first")
    assert not [row for row in first.values() if "error" in row]
    assert {"towers best", "joint best", "labels", "bags best", "full best", "end"} <= first.keys()
    again = replace(settings, resume=tmp_path / "first", **RESUMED)
    GpuDemo(encoder, small_data, tmp_path / "second", again).run()
    second = _phases(tmp_path / "second")
    assert second["taken up"]["ndcg"] == pytest.approx(first["blend"]["ndcg"], abs=0.05)
    with tarfile.open(tmp_path / "second" / "student_layers3.tar.gz") as archive:
        archive.extractall(tmp_path / "student", filter="data")
    assert load_model_directory(tmp_path / "student" / "layers3").card.default_prompt

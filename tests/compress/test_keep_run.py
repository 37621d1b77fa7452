"""Keeping a training figure: every arm measured on the same data, with its model's lineage."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from compress.benches.kept_runs import KeptRun, KeptRunError
from compress.data.requests import load_requests
from compress.keep_run import keep_run, main
from compress.measure.intervals import values
from compress.measure.scorers import DirectoryScorer, scored_by
from models.checkpoint import load_model_directory


def test_arms_are_measured_on_the_data_and_named_by_their_lineage(
    tiny_model_dir: Path, small_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "run.json"
    arguments = ["keep_run", "kd_minus_sft_auc", "--metric", "gauc", "--data", str(small_data)]
    arguments += ["--split", "test", "--note", "one model twice", "--out", str(out)]
    arguments += ["--arm", f"kd={tiny_model_dir}", "--arm", f"sft={tiny_model_dir}"]
    monkeypatch.setattr(sys, "argv", arguments)
    assert main() == 0
    run = KeptRun(**json.loads(out.read_text()))
    directory = load_model_directory(tiny_model_dir)
    scored = scored_by(DirectoryScorer(directory), load_requests(small_data, "test"))
    assert run.arms["kd"] == pytest.approx(values(scored)["gauc"])
    assert (run.value, run.low, run.high, run.met) == (0, 0, 0, False)
    assert run.manifest["sft"][0]["digest"] == directory.digest


def test_arms_of_unequal_number_are_refused(tiny_model_dir: Path, small_data: Path) -> None:
    arms = {"kd": [tiny_model_dir, tiny_model_dir], "sft": [tiny_model_dir]}
    with pytest.raises(KeptRunError, match="as many models"):
        keep_run("kd_minus_sft_auc", "auc", arms, small_data, "test", "")

"""The evaluation command: its output, and that nothing but the texts reaches the model."""

from __future__ import annotations

import gzip
import json
import subprocess
import sys
from pathlib import Path

import pytest

from compress.data import Request, load_requests, read_rows
from compress.evaluate import evaluate, raw_logits, score
from models.checkpoint import ModelDirectory

ROOT = Path(__file__).parents[2]
METRICS = ("gauc", "auc", "ndcg@1", "ndcg@5", "ndcg@10", "ece", "logloss", "brier", "mrr")


def _run(model: Path, data: Path, split: str, target: str) -> str:
    command = [sys.executable, "-m", "compress.evaluate", str(model), "--data", str(data)]
    command += ["--split", split, "--json", target, "--threads", "1"]
    return subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout


def test_it_prints_one_json_object_with_intervals(tiny_model_dir: Path, small_data: Path) -> None:
    report = json.loads(_run(tiny_model_dir, small_data, "test", "-"))
    for name in METRICS:
        assert report[name]["low"] <= report[name]["value"] <= report[name]["high"]
    assert report["pairs"] == 24 * report["requests"]


def test_only_prefix_and_item_texts_reach_the_model(
    tiny_directory: ModelDirectory, small_data: Path, tmp_path: Path
) -> None:
    rows = list(read_rows(small_data / "test.jsonl.gz"))[:2]
    items = list(read_rows(small_data / "items.jsonl.gz"))
    bare_rows = [{name: row[name] for name in ("qid", "prefix", "cand", "grade")} for row in rows]
    bare_items = [{name: item[name] for name in ("id", "text")} for item in items]
    for name, content in (("test", bare_rows), ("items", bare_items)):
        with gzip.open(tmp_path / f"{name}.jsonl.gz", "wt", encoding="utf-8") as file:
            file.writelines(json.dumps(row) + "\n" for row in content)
    full = raw_logits(tiny_directory, load_requests(small_data, "test")[:2])
    assert raw_logits(tiny_directory, load_requests(tmp_path, "test")) == full


def test_scores_are_calibrated_and_independent_of_the_batch(
    tiny_directory: ModelDirectory, small_data: Path
) -> None:
    requests = load_requests(small_data, "test")[:6]
    together = score(tiny_directory, requests)
    for request, item in zip(requests, together, strict=True):
        (alone,) = score(tiny_directory, [request])
        assert alone.scores == pytest.approx(item.scores, abs=1e-5)
    calibrate = tiny_directory.card.calibration.calibrate
    logits = raw_logits(tiny_directory, requests[:1])[0]
    assert [calibrate(value) for value in logits] == pytest.approx(together[0].scores)


def test_a_report_counts_what_it_saw(tiny_directory: ModelDirectory) -> None:
    request = Request("u", "Welder", ("Roofer", "Nurse"), (1, 0), binary=True)
    report = evaluate(tiny_directory, [request, request], resamples=3)
    counts = [report[name] for name in ("requests", "groups", "pairs", "positives")]
    assert counts == [2, 1, 4, 2]

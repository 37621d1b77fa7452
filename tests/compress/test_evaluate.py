"""The evaluation command: its output, and that nothing but the texts reaches the model."""

from __future__ import annotations

import errno
import gzip
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from compress.data.requests import Request, load_requests, read_rows
from compress.evaluate import main
from compress.measure.evaluation import evaluate
from compress.measure.scorers import DirectoryScorer, scored_by
from compress.measure.slices import slice_names
from models.checkpoint import ModelDirectory

ROOT = Path(__file__).parents[2]
RANKING = ("gauc", "auc", "ndcg@1", "ndcg@5", "ndcg@10", "mrr")
METRICS = (*RANKING, "ece", "logloss", "normalised_entropy", "brier")


def _run(model: Path, data: Path, split: str, target: str, *more: str) -> str:
    command = [sys.executable, "-m", "compress.evaluate", str(model), "--data", str(data)]
    command += ["--split", split, "--json", target, "--threads", "1", *more]
    return subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout


def test_it_prints_one_json_object_with_intervals(tiny_model_dir: Path, small_data: Path) -> None:
    against = ("--against", str(tiny_model_dir), "--resamples", "20")
    report = json.loads(_run(tiny_model_dir, small_data, "test", "-", *against))
    for name in METRICS:
        assert report[name]["low"] <= report[name]["value"] <= report[name]["high"]
        assert report["against"][name] == {"value": 0, "low": 0, "high": 0}
    assert report["pairs"] == 24 * report["requests"]
    assert report["against"]["kl_to_against"]["value"] == 0
    assert report["against"]["kendall_tau"]["value"] == pytest.approx(1)
    assert {"tenant", "profile", "job_zone"} == set(report["slices"])
    for slices in report["slices"].values():
        assert sum(part["requests"] for part in slices.values()) == report["requests"]


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("--resamples", "-1"),
        ("--threads", "0"),
        ("--threads", str(2**40)),
        ("--json", "absent/x.json"),
    ],
)
def test_a_wrong_option_is_refused_before_anything_is_scored(
    option: str,
    value: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    given = ["no-model", "--data", "no-data", "--split", "valid", "--json", "-", option, value]
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["evaluate", *given])
    with pytest.raises(SystemExit) as caught:
        main()
    assert caught.value.code == 2
    assert option in capsys.readouterr().err.splitlines()[-1]


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
    full = DirectoryScorer(tiny_directory).raw_logits(load_requests(small_data, "test")[:2])
    bare = DirectoryScorer(tiny_directory).raw_logits(load_requests(tmp_path, "test"))
    assert bare == full
    assert slice_names(tmp_path, "test") == [{}, {}]


def test_scores_are_calibrated_and_independent_of_the_batch(
    tiny_directory: ModelDirectory, small_data: Path
) -> None:
    requests = load_requests(small_data, "test")[:6]
    scorer = DirectoryScorer(tiny_directory)
    together = scored_by(scorer, requests)
    for request, item in zip(requests, together, strict=True):
        (alone,) = scored_by(scorer, [request])
        assert alone.scores == pytest.approx(item.scores, abs=1e-5)
    calibrate = tiny_directory.card.calibration.calibrate
    logits = scorer.raw_logits(requests[:1])[0]
    assert [calibrate(value) for value in logits] == pytest.approx(together[0].scores)


def test_a_report_counts_what_it_saw(tiny_directory: ModelDirectory) -> None:
    request = Request("u", "Welder", ("Roofer", "Nurse"), (1, 0), binary=True)
    report = evaluate(DirectoryScorer(tiny_directory), [request, request], resamples=3)
    counts = [report[name] for name in ("requests", "groups", "pairs", "positives")]
    assert counts == [2, 1, 4, 2]


def test_a_model_that_is_none_is_refused_in_one_line(
    tmp_path: Path,
    small_data: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    arguments = ["evaluate", str(tmp_path), "--data", str(small_data), "--split", "test"]
    monkeypatch.setattr(sys, "argv", [*arguments, "--json", "-"])
    assert main() == 1
    monkeypatch.setattr(sys, "argv", [*arguments[:-1], "nowhere", "--json", "-"])
    assert main() == 1
    assert "Traceback" not in capsys.readouterr().err


def test_a_report_that_cannot_be_written_is_said_in_one_line(
    tiny_model_dir: Path,
    small_data: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    arguments = ["evaluate", str(tiny_model_dir), "--data", str(small_data), "--split", "test"]
    arguments += ["--resamples", "2", "--json", "/dev/full"]
    monkeypatch.setattr(sys, "argv", arguments)
    assert main() == 1
    assert "cannot write the report" in capsys.readouterr().err


def _measure(monkeypatch: pytest.MonkeyPatch, model: Path, data: Path, target: Path | str) -> int:
    arguments = ["evaluate", str(model), "--data", str(data), "--split", "test"]
    monkeypatch.setattr(sys, "argv", [*arguments, "--resamples", "2", "--json", str(target)])
    return main()


def test_a_full_disk_leaves_the_old_report(
    tiny_model_dir: Path,
    small_data: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    target, write = tmp_path / "report.json", Path.write_text
    target.write_text("old")

    def half(path: Path, text: str, **options: str) -> int:
        write(path, text[: len(text) // 2], **options)
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as full:
        full.setattr(Path, "write_text", half)
        assert _measure(full, tiny_model_dir, small_data, target) == 1
    assert "cannot write the report" in capsys.readouterr().err
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [
        ("report.json", "old")
    ]
    link = tmp_path / "link.json"
    link.symlink_to(target)
    assert _measure(monkeypatch, tiny_model_dir, small_data, link) == 0
    assert link.is_symlink()
    assert json.loads(target.read_text())["requests"]


def test_a_pipe_stays_a_pipe(
    tiny_model_dir: Path, small_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    end = os.open(pipe, os.O_RDWR)  # holds 64 kB, more than a report
    try:
        assert _measure(monkeypatch, tiny_model_dir, small_data, pipe) == 0
        assert pipe.is_fifo()
        assert os.read(end, 1) == b"{"
    finally:
        os.close(end)


def test_an_interrupt_is_said_in_one_line(
    tiny_model_dir: Path,
    small_data: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("compress.evaluate.evaluate", interrupted)
    assert _measure(monkeypatch, tiny_model_dir, small_data, "-") == 130
    assert capsys.readouterr().err == "interrupted; give the same command again\n"

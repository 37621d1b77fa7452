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


@pytest.mark.parametrize(
    "arms",
    [
        {"kd": ["a"]},
        {"kd": ["a"], "stf": ["b"]},
        {"kd": ["a"], "sft": ["b"], "more": ["c"]},
        {"kd": [], "sft": []},
    ],
    ids=str,
)
def test_arms_that_are_not_the_figures_are_refused(
    arms: dict[str, list[Path]], small_data: Path
) -> None:
    with pytest.raises(KeptRunError, match=r"the arms kd, sft|one or more"):
        keep_run("kd_minus_sft_auc", "auc", arms, small_data, "test", "")


def test_an_unknown_metric_is_refused_before_a_model_scores(small_data: Path) -> None:
    nowhere = {"kd": [Path("nowhere")], "sft": [Path("nowhere")]}
    with pytest.raises(KeptRunError, match="'nosuch' is unknown; use one of auc, brier"):
        keep_run("kd_minus_sft_auc", "nosuch", nowhere, small_data, "test", "")


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--arm", "kd=b"], "--arm kd is given twice"),
        ([], "is of the arms kd, sft, not kd"),
        (["--arm", "sft=b", "--data", "nowhere"], "nowhere"),
    ],
)
def test_what_cannot_be_kept_is_said_in_one_line(
    more: list[str],
    said: str,
    small_data: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    arguments = ["keep_run", "kd_minus_sft_auc", "--metric", "auc", "--data", str(small_data)]
    arguments += ["--split", "test", "--note", "", "--out", str(tmp_path / "run.json")]
    monkeypatch.setattr(sys, "argv", [*arguments, "--arm", "kd=a", *more])
    assert main() == 1
    assert said in capsys.readouterr().err


@pytest.mark.parametrize(("option", "value"), [("--threads", str(2**40)), ("--out", "absent/x")])
def test_a_wrong_option_is_refused_before_anything_is_scored(
    option: str, value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = ["keep_run", "kd_minus_sft_auc", "--metric", "auc", "--data", "none", "--split"]
    arguments += ["test", "--note", "", "--out", "run.json", "--arm", "kd=a", option, value]
    monkeypatch.setattr(sys, "argv", arguments)
    with pytest.raises(SystemExit) as caught:
        main()
    assert caught.value.code == 2

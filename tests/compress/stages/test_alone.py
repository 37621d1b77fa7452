"""The command line of one stage: what it refuses, and that no run goes on in another's work."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from compress.stages.alone import run_alone
from compress.stages.stage import RecipeError, StageInput


def _stage(inputs: StageInput, options: Mapping[str, Any]) -> None:
    """Goes on from what its work holds, as a training does from a checkpoint."""
    state = inputs.work / "state"
    if options.get("refused"):
        raise RecipeError("no such option")
    if not state.exists():
        state.write_text(json.dumps(options))
    if options.get("full"):
        raise OSError(28, "No space left on device")
    inputs.out.mkdir()
    (inputs.out / "weights").write_text(state.read_text())


@pytest.fixture
def start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    (tmp_path / "data").mkdir()

    def call(out: str, **options: Any) -> int:
        line = ["stage", "--data", str(tmp_path / "data"), "--out", out]
        monkeypatch.setattr("sys.argv", [*line, "--options", json.dumps(options)])
        try:
            run_alone("stage", _stage)
        except SystemExit as ended:
            return int(str(ended.code))
        return 0

    return call


def test_other_options_do_not_go_on_from_the_work_of_these(
    start: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert start(str(out), rate=1) == 0
    assert capsys.readouterr().err == f"stage: wrote {out}\n"
    assert start(str(out), rate=1) == 1
    assert "exists; remove it" in capsys.readouterr().err
    (out / "weights").unlink()
    out.rmdir()
    assert start(str(out), rate=2) == 1
    assert not out.exists()
    assert "another recipe" in capsys.readouterr().err
    assert start(str(out), rate=1) == 0


def test_what_was_refused_leaves_nothing_in_the_way(start: Any, tmp_path: Path) -> None:
    assert start(str(tmp_path / "out"), refused=True) == 1
    assert not (tmp_path / "out.work").exists()
    assert start(str(tmp_path / "out"), rate=1) == 0


def test_what_is_no_place_to_write_is_refused(
    start: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "link").symlink_to("nowhere")
    assert start(str(tmp_path / "link")) == 1
    assert start("") == 1
    assert "names no directory" in capsys.readouterr().err
    assert start(str(tmp_path / "out"), full=True) == 1
    assert "No space left" in capsys.readouterr().err

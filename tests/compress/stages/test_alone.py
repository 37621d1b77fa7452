"""The command line of one stage: what it refuses, and that no run goes on in another's work."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from compress.stages import alone, own_work
from compress.stages.alone import run_alone
from compress.stages.stage import RecipeError, StageInput, StageKind

LATE: list[BaseException] = []  # what a stage ends with instead of its end


@dataclass(frozen=True, slots=True)
class Options:
    """rate, end: of training. teacher and examples are places; the others have the stage fail."""

    rate: int = 0
    end: str = ""
    teacher: str = ""
    examples: str = ""
    refused: bool = False
    full: bool = False


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
    if LATE:
        raise LATE.pop()


KIND = StageKind(
    _stage,
    Options,
    named=lambda options: [options.teacher] if options.teacher else [],
    reads=lambda options: [options.examples] if options.examples else [],
)


@pytest.fixture
def start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    (tmp_path / "data").mkdir()

    def call(out: str, *more: str, **options: Any) -> int:
        line = ["stage", "--data", str(tmp_path / "data"), "--out", out, *more]
        monkeypatch.setattr("sys.argv", [*line, "--options", json.dumps(options)])
        try:
            run_alone("stage", KIND)
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


@pytest.mark.parametrize("place", ["teacher/weights", "data/examples.jsonl"])
def test_what_options_name_by_path_may_not_be_swapped_before_it_goes_on(
    start: Any,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    place: str,
) -> None:
    (tmp_path / "teacher").mkdir()
    for name in ("teacher/weights", "data/examples.jsonl"):
        (tmp_path / name).write_text("one")
    out, named = str(tmp_path / "out"), {"teacher": str(tmp_path / "teacher")}
    LATE.append(RecipeError("killed"))
    assert start(out, **named, examples="examples.jsonl") == 1
    (tmp_path / place).write_text("two")
    assert start(out, **named, examples="examples.jsonl") == 1
    assert "another recipe or of other data" in capsys.readouterr().err
    (tmp_path / place).write_text("one")
    assert start(out, **named, examples="examples.jsonl") == 0


def test_a_text_that_happens_to_be_a_path_is_no_more_than_a_text(
    start: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for folder in (tmp_path, tmp_path / "data"):
        (folder / "models").mkdir()
        (folder / "models" / "other").write_text("one")
    LATE.append(RecipeError("killed"))
    assert start("out", end="models") == 1
    for folder in (tmp_path, tmp_path / "data"):
        (folder / "models" / "other").write_text("two")
    assert start("out", end="models") == 0


def test_options_that_the_stage_does_not_know_begin_no_work(
    start: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert start(str(tmp_path / "out"), rat=1) == 1
    assert "option 'rat' is unknown; options are: rate" in capsys.readouterr().err
    assert not (tmp_path / "out.work").exists()


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


@pytest.mark.parametrize(
    ("ending", "code", "said"),
    [
        (RecipeError("no labels"), 1, "no labels"),
        (OSError(28, "No space left on device"), 1, "give the same command again"),
        (KeyboardInterrupt(), 130, "interrupted; give the same command again, which goes on from"),
    ],
    ids=["refused", "full", "interrupted"],
)
def test_a_stage_that_fails_late_leaves_no_out_and_the_same_command_goes_on(
    start: Any,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    ending: BaseException,
    code: int,
    said: str,
) -> None:
    out = tmp_path / "out"
    LATE.append(ending)
    assert start(str(out), rate=1) == code
    (line,) = capsys.readouterr().err.splitlines()
    assert said in line
    assert not out.exists()
    assert not list(tmp_path.rglob("weights"))
    (tmp_path / "out.work" / "state").write_text("of the run before")
    assert start(str(out), rate=1) == 0
    assert (out / "weights").read_text() == "of the run before"
    assert not list(out.with_name("out.work").rglob("weights"))


def test_what_a_killed_run_left_half_written_is_not_mixed_in(start: Any, tmp_path: Path) -> None:
    LATE.append(RecipeError("no labels"))
    assert start(str(tmp_path / "out")) == 1
    left = tmp_path / "out.work" / alone.UNFINISHED
    left.mkdir()
    (left / "half").touch()
    assert start(str(tmp_path / "out")) == 0
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["weights"]


def test_an_out_that_another_run_just_made_is_left_alone(
    start: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out, enter = tmp_path / "out", own_work.alone_in

    def waited(work: Path) -> Any:
        out.mkdir()
        return enter(work)

    monkeypatch.setattr(alone, "alone_in", waited)
    assert start(str(out)) == 1
    assert "exists; remove it" in capsys.readouterr().err
    assert not list(out.iterdir())


@pytest.mark.parametrize(
    "wrong", [("--threads", "0"), ("--threads", "4000"), ("--seed", "-5"), ("--seed", str(2**63))]
)
def test_a_number_that_torch_would_not_take_is_refused(
    start: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str], wrong: tuple[str, str]
) -> None:
    assert start(str(tmp_path / "out"), *wrong) == 2
    assert "--threads takes 1 to 1024, --seed 0 to" in capsys.readouterr().err
    assert not (tmp_path / "out.work").exists()

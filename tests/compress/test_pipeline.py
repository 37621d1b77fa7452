"""The pipeline: a small recipe end to end, its gate, its resume after a kill, its refusals."""

from __future__ import annotations

import fcntl
import json
import os
import resource
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from compress.pipeline import main
from compress.recipes import places
from compress.recipes.records import MEASURED_NAME, read_records
from models.checkpoint import load_model_directory
from tests.compress.small_recipe import DISTILL, ROOT, TRAIN, stages, write_recipe


def _recipe(directory: Path, data: Path, minimum: float, **lexicon: int) -> Path:
    return write_recipe(directory, data, stages(minimum, **lexicon))


def _start(recipe: Path, out: Path) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "compress.pipeline", str(recipe), "--out", str(out)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.Popen(command, cwd=ROOT, env=environment, stderr=subprocess.DEVNULL)


def _wait_for(path: Path, process: subprocess.Popen[Any]) -> None:
    deadline = time.monotonic() + 120
    while not path.exists():
        assert process.poll() is None, "the pipeline ended before its first checkpoint"
        assert time.monotonic() < deadline
        with suppress(subprocess.TimeoutExpired):
            process.wait(0.01)


@pytest.mark.long
def test_a_failed_gate_leaves_no_artefact_and_may_be_changed_but_nothing_else(
    tmp_path: Path,
    small_data: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    recipe, out = _recipe(tmp_path, small_data, 1.01, steps=2), tmp_path / "model"
    monkeypatch.setattr(sys, "argv", ["pipeline", str(recipe), "--out", str(out)])
    assert main() == 1
    assert "train: valid gauc is" in capsys.readouterr().err
    assert not out.exists()
    assert not list(tmp_path.glob("model.work/unfinished"))
    assert not list(tmp_path.glob("model.work/1-train"))
    _recipe(tmp_path, small_data, 1.01, steps=3)
    assert main() == 1
    assert "holds a run of another recipe" in capsys.readouterr().err
    lexicon, *others = stages(0.3, steps=2)
    write_recipe(tmp_path, small_data, [lexicon | {"gates": ["gauc >= 1.01"]}, *others])
    assert main() == 1
    assert "lexicon: valid gauc is" in capsys.readouterr().err
    weights = tmp_path / "model.work" / "0-lexicon" / "model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    assert main() == 1
    assert f"in the card; remove {weights.parent} and " in capsys.readouterr().err
    weights.write_bytes(whole)
    *begun, calibrate = stages(0.3, steps=2)  # which has not: it may be another
    write_recipe(tmp_path, small_data, [*begun, calibrate | {"options": {"version": "2"}}])
    assert main() == 0
    assert load_model_directory(out).card.version == "2"


def test_the_card_tells_where_the_model_came_from(tmp_path: Path, small_data: Path) -> None:
    out = tmp_path / "model"
    assert _start(_recipe(tmp_path, small_data, 0.3, steps=4), out).wait() == 0
    card = load_model_directory(out).card
    assert [entry["stage"] for entry in card.lineage["stages"]] == ["lexicon", "train", "calibrate"]
    assert card.metrics["test"]["gauc"]["low"] <= card.metrics["test"]["gauc"]["value"]
    assert set(card.metrics) == {"lexicon", "train", "calibrate", "label_mass", "test"}
    assert 0 < card.metrics["train"]["valid"]["ndcg@10"] < 1
    measured = read_records(out / MEASURED_NAME)
    assert [record.name for record in measured] == ["lexicon", "train", "calibrate"]
    assert all(record.speed and record.speed.items_per_s > 0 for record in measured)
    parents = [entry.get("parent") for entry in card.lineage["stages"]]
    assert [*parents, card.digest] == [None, *(record.digest for record in measured)]
    assert len(measured[1].losses) == TRAIN["steps"]
    page = (tmp_path / "model.html").read_text(encoding="utf-8")
    assert page.count("<svg") >= 4
    assert "float16" in json.loads((out / "config.json").read_text())["dtype"]
    assert not (tmp_path / "model.work").exists()


@pytest.mark.parametrize("out", ["", ".", "/"])
def test_an_out_without_a_name_is_refused(
    out: str, tmp_path: Path, small_data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = _recipe(tmp_path, small_data, 0.3)
    monkeypatch.setattr(sys, "argv", ["pipeline", str(recipe), "--out", out])
    with pytest.raises(SystemExit) as caught:
        main()
    assert caught.value.code == 2


@pytest.mark.long
def test_a_run_from_given_directories_compares_with_them(
    tmp_path: Path, small_data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    entries = [{"stage": "calibrate", "gates": ["gauc drop <= 0.01 against source"]}]
    recipe, out = write_recipe(tmp_path, small_data, entries), tmp_path / "model"
    demo = ROOT / "models" / "demo"
    recipe.write_text(recipe.read_text() + f"source: {demo}\nteacher: {demo}\n")
    monkeypatch.setattr(sys, "argv", ["pipeline", str(recipe), "--out", str(out)])
    assert main() == 0
    names = [record.name for record in read_records(out / MEASURED_NAME)]
    assert names == ["teacher", "source", "calibrate"]
    card = load_model_directory(out).card
    assert card.lineage["parent"] == load_model_directory(demo).digest
    assert card.metrics["source"]["valid"]["gauc"] > 0.8


def _listen() -> None:
    """A shell's background jobs, and so their children, are deaf to Ctrl-C."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def test_an_interrupted_run_says_how_to_go_on(tmp_path: Path, small_data: Path) -> None:
    recipe = _recipe(tmp_path, small_data, 0.3, steps=4000)
    command = [sys.executable, "-m", "compress.pipeline", str(recipe)]
    run = subprocess.Popen(
        [*command, "--out", str(tmp_path / "model")],
        cwd=ROOT,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=_listen,
    )
    _wait_for(tmp_path / "model.work" / "0-lexicon.state" / "lexicon.pt", run)
    run.send_signal(signal.SIGINT)
    _, said = run.communicate(timeout=60)
    assert run.returncode == 130
    assert said.splitlines()[0] == "stage 1 of 3: lexicon"
    assert "the same command goes on from" in said.splitlines()[-1]
    assert "Traceback" not in said


def test_a_second_run_of_the_same_out_is_refused_and_touches_nothing(
    tmp_path: Path,
    small_data: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    recipe, work = _recipe(tmp_path, small_data, 0.3), tmp_path / "model.work"
    (work / "unfinished").mkdir(parents=True)
    held = os.open(work, os.O_RDONLY)
    fcntl.flock(held, fcntl.LOCK_EX)  # as the first run does
    monkeypatch.setattr(sys, "argv", ["pipeline", str(recipe), "--out", str(tmp_path / "model")])
    try:
        assert main() == 1
    finally:
        os.close(held)
    assert "another run is at work" in capsys.readouterr().err
    assert list(work.iterdir()) == [work / "unfinished"]


def test_a_teacher_that_changed_since_is_not_gone_on_with(
    tmp_path: Path,
    small_data: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    teacher = tmp_path / "teacher"
    teacher.mkdir()
    (teacher / "config.json").write_text("{}")
    lexicon, *_ = stages(0.3, steps=2)
    options = DISTILL | {"teachers": [{"path": str(teacher)}]}
    recipe = write_recipe(tmp_path, small_data, [lexicon, {"stage": "distill", "options": options}])
    monkeypatch.setattr(sys, "argv", ["pipeline", str(recipe), "--out", str(tmp_path / "model")])
    assert main() == 1
    assert "model_card.json: is missing" in capsys.readouterr().err
    (teacher / "config.json").write_text("{ }")  # no stage that it teaches has begun
    assert main() == 1
    assert "model_card.json: is missing" in capsys.readouterr().err
    (tmp_path / "model.work" / "1-distill.state").mkdir()
    (teacher / "config.json").write_text("{  }")
    assert main() == 1
    assert "holds a run of another recipe from stage 'distill' on" in capsys.readouterr().err


def test_files_that_another_keeps_under_a_name_of_the_run_are_refused_and_stay(
    tmp_path: Path,
    small_data: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    recipe, mine = _recipe(tmp_path, small_data, 0.3), tmp_path / "model.work" / "mine"
    mine.mkdir(parents=True)
    monkeypatch.setattr(sys, "argv", ["pipeline", str(recipe), "--out", str(tmp_path / "model")])
    assert main() == 1
    assert "holds files, but no run" in capsys.readouterr().err
    mine.rmdir()
    page = tmp_path / "model.html"
    page.touch()
    assert main() == 1
    assert f"{page} exists" in capsys.readouterr().err
    assert list(mine.parent.iterdir()) == []


@pytest.mark.parametrize("flag", [(), ("--dry-run",)])
def test_a_teacher_that_is_nowhere_is_refused_before_anything_is_priced_or_started(
    tmp_path: Path,
    small_data: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    flag: tuple[str, ...],
) -> None:
    lexicon, *_ = stages(0.3, steps=2)
    distill = {"stage": "distill", "options": DISTILL | {"teachers": [{"path": "lexicn"}]}}
    recipe = write_recipe(tmp_path, small_data, [lexicon, distill])
    out = tmp_path / "model"
    monkeypatch.setattr(sys, "argv", ["pipeline", str(recipe), "--out", str(out), *flag])
    assert main() == 1
    assert "distill: 'lexicn' is no stage before it" in capsys.readouterr().err
    assert not out.with_name("model.work").exists()


def test_a_dry_run_tells_the_cost_and_starts_nothing(
    tmp_path: Path,
    small_data: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    recipe, out = _recipe(tmp_path, small_data, 0.3), tmp_path / "model"
    monkeypatch.setattr(sys, "argv", ["pipeline", str(recipe), "--out", str(out), "--dry-run"])
    assert main() == 0
    said = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in said] == ["name", "lexicon", "train", "calibrate", "about"]
    assert list(tmp_path.iterdir()) == [recipe]
    out.mkdir()
    assert main() == 0
    assert f"a run would be refused: {out} exists" in capsys.readouterr().err


def test_an_interruption_of_the_last_clearing_up_says_that_the_model_is_finished(
    tmp_path: Path,
    small_data: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    recipe = write_recipe(tmp_path, small_data, [{"stage": "calibrate"}])
    recipe.write_text(recipe.read_text() + f"source: {ROOT / 'models' / 'demo'}\n")
    out = tmp_path / "model"

    def interrupted(_out: Path) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(places, "_clear_up", interrupted)
    monkeypatch.setattr(sys, "argv", ["pipeline", str(recipe), "--out", str(out)])
    assert main() == 130
    assert f"{out} is finished; remove {out}.work" in capsys.readouterr().err
    assert load_model_directory(out).card.metrics["calibrate"]


def test_a_full_disk_is_said_and_leaves_nothing_that_loads(
    tmp_path: Path, small_data: Path
) -> None:
    recipe, out = _recipe(tmp_path, small_data, 0.3), tmp_path / "model"

    def limit() -> None:  # no file may grow beyond 200 kB, which no checkpoint fits in
        resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))

    command = [sys.executable, "-m", "compress.pipeline", str(recipe), "--out", str(out)]
    run = subprocess.run(command, cwd=ROOT, preexec_fn=limit, capture_output=True, text=True)
    assert run.returncode == 1
    assert "make room" in run.stderr.splitlines()[-1]
    assert "Traceback" not in run.stderr
    assert not out.exists()
    left = [path for path in tmp_path.rglob("*") if path.suffix in {".writing", ".safetensors"}]
    assert left == []

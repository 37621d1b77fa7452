"""Where a run writes: what lies there and is another's is refused and stays."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from compress.recipes import places
from compress.recipes.places import page_of, publish, refuse_taken, work_of
from compress.stages.stage import RecipeError


def _dangling(path: Path) -> None:
    path.symlink_to(path.with_name("nothing"))


def _linked_folder(path: Path) -> None:
    (path.parent / "elsewhere").mkdir()
    path.symlink_to(path.parent / "elsewhere")


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "model"


@pytest.fixture
def last(out: Path, tiny_model_dir: Path) -> Path:
    """The finished last stage of a run that makes OUT."""
    return Path(shutil.copytree(tiny_model_dir, work_of(out) / "0-train"))


@pytest.mark.parametrize(
    ("suffix", "make"),
    [
        ("", Path.mkdir),
        ("", _dangling),
        (".work", _linked_folder),
        (".work", _dangling),
        (".work", Path.touch),
        (".html", Path.touch),
        (".html", _dangling),
    ],
)
def test_a_name_that_is_taken_is_refused_and_left_alone(
    out: Path, suffix: str, make: Callable[[Path], None]
) -> None:
    taken = out.with_name(out.name + suffix)
    make(taken)
    with pytest.raises(RecipeError, match=f"{taken} .*remove it or name another --out"):
        refuse_taken(out)
    assert os.path.lexists(taken)


def test_a_name_too_long_for_the_page_is_refused_and_the_longest_that_is_not_is_published(
    tmp_path: Path, tiny_model_dir: Path
) -> None:
    most = os.pathconf(tmp_path, "PC_NAME_MAX") - len(".html.writing")
    with pytest.raises(RecipeError, match=r"2 bytes too long .*; name a shorter --out"):
        refuse_taken(tmp_path / "not there yet" / ("é" + "n" * most))
    out = tmp_path / ("n" * most)
    refuse_taken(out)
    publish(Path(shutil.copytree(tiny_model_dir, work_of(out) / "0-train")), out)
    assert page_of(out).is_file()


def test_a_run_killed_between_page_and_model_knows_its_own_page(
    out: Path, last: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(places, "write_report", lambda _, page: page.write_text("first"))
        patch.setattr(Path, "rename", _full)
        with pytest.raises(OSError, match="full"):
            publish(last, out)
    assert page_of(out).exists()
    refuse_taken(out)
    publish(last, out)
    assert out.is_dir()
    assert "<html" in page_of(out).read_text()
    assert not work_of(out).exists()


def test_a_page_that_came_meanwhile_is_not_written_over(out: Path, last: Path) -> None:
    page_of(out).write_text("of another")
    with pytest.raises(RecipeError, match=f"{page_of(out)} exists"):
        publish(last, out)
    assert page_of(out).read_text() == "of another"
    assert not out.exists()


def test_a_folder_that_cannot_be_removed_does_not_fail_a_finished_run(
    out: Path, last: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(shutil, "rmtree", _full)
    publish(last, out)
    assert out.is_dir()
    assert f"is finished; remove {work_of(out)} by hand" in capsys.readouterr().err


def _full(*_: object) -> None:
    raise OSError("full")

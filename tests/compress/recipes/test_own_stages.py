"""A recipe may be mended behind what has begun; what has begun goes on as it was, or not at all."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from compress.recipes.own_stages import refuse_damaged, refuse_others_stages
from compress.recipes.records import folder_digests
from compress.stages.own_work import ORIGIN_NAME
from compress.stages.stage import RecipeError, StageError

FIRST: list[Any] = ["first", "lexicon", {"steps": 2}, []]
SECOND: list[Any] = ["second", "train", {"steps": 4}, []]
THIRD: list[Any] = ["third", "prune", {"slates": 128}, []]
OTHER: list[Any] = ["third", "prune", {"slates": 20}, []]


def _begun(work: Path, *names: str) -> None:
    refuse_others_stages(["data", 3], [FIRST, SECOND, THIRD], work)
    for name in names:
        (work / name).mkdir()


@pytest.mark.parametrize(
    "stages", [[FIRST, SECOND, OTHER], [FIRST, SECOND], [FIRST, SECOND, OTHER, THIRD]]
)
def test_stages_that_have_not_begun_may_be_others(tmp_path: Path, stages: list[Any]) -> None:
    _begun(tmp_path, "0-first", "1-second.state")
    refuse_others_stages(["data", 3], stages, tmp_path)
    assert json.loads((tmp_path / ORIGIN_NAME).read_text())["stages"] == stages
    (tmp_path / "2-third.state").mkdir()  # now it has begun as it is
    if stages[2:] != [THIRD]:
        refuse_others_stages(["data", 3], stages, tmp_path)
    if OTHER in stages:
        with pytest.raises(RecipeError, match="from stage 'third' on"):
            refuse_others_stages(["data", 3], [FIRST, SECOND, THIRD], tmp_path)


@pytest.mark.parametrize("left", ["2-third", "2-third.state", "2-third.state.rank1"])
def test_what_has_begun_must_stay_as_it_is(tmp_path: Path, left: str) -> None:
    _begun(tmp_path, "0-first", "1-second", left)
    with pytest.raises(RecipeError, match=f"only what that .* left: {tmp_path / left}$"):
        refuse_others_stages(["data", 3], [FIRST, SECOND, OTHER], tmp_path)
    (tmp_path / left).rmdir()
    refuse_others_stages(["data", 3], [FIRST, SECOND, OTHER], tmp_path)


@pytest.mark.parametrize(
    "stages",
    [
        [["first", "lexicon", {"steps": 3}, []], SECOND, THIRD],
        [["first", "lexicon", {"steps": 2}, ["sha256:of another teacher"]], SECOND, THIRD],
        [["other", "lexicon", {"steps": 2}, []], SECOND, THIRD],
        [FIRST, THIRD],
        [FIRST],
        [SECOND, FIRST, THIRD],
    ],
)
def test_a_stage_stands_on_all_before_it(tmp_path: Path, stages: list[Any]) -> None:
    _begun(tmp_path, "0-first", "1-second.state")
    before = (tmp_path / ORIGIN_NAME).read_bytes()
    with pytest.raises(RecipeError, match="holds a run of another recipe"):
        refuse_others_stages(["data", 3], stages, tmp_path)
    assert (tmp_path / ORIGIN_NAME).read_bytes() == before


@pytest.mark.parametrize("start", [["other data", 3], ["data", 4], ["data", 3, "cuda"]])
def test_another_start_is_another_run_though_no_stage_has_begun(
    tmp_path: Path, start: list[Any]
) -> None:
    _begun(tmp_path)
    with pytest.raises(RecipeError, match="another recipe or of other data"):
        refuse_others_stages(start, [FIRST, SECOND, THIRD], tmp_path)


def test_a_damaged_stage_says_what_to_remove(tiny_model_dir: Path, tmp_path: Path) -> None:
    done, record = tmp_path / "0-first", tmp_path / "0-first.json"
    shutil.copytree(tiny_model_dir, done)
    refuse_damaged(done, record, {})
    weights = next(done.glob("*.safetensors"))
    weights.write_bytes(weights.read_bytes()[:-1] + b"\x01")
    with pytest.raises(StageError) as caught:
        refuse_damaged(done, record, {})
    assert str(caught.value).endswith(
        f"; remove {done} and {record}, and give the same command again"
    )
    assert "export" not in str(caught.value)


@pytest.mark.parametrize("content", [b"half", None])
def test_what_lies_in_a_folder_of_a_stage_may_be_damaged_too(
    tiny_model_dir: Path, tmp_path: Path, content: bytes | None
) -> None:
    done, record = tmp_path / "0-first", tmp_path / "0-first.json"
    shutil.copytree(tiny_model_dir, done)
    inside = done / "item_encoder" / "encoder.safetensors"
    inside.parent.mkdir()
    inside.write_bytes(b"whole")
    folders = folder_digests(done)
    assert set(folders) == {"item_encoder/encoder.safetensors"}
    refuse_damaged(done, record, folders)
    inside.unlink() if content is None else inside.write_bytes(content)
    said = f"{inside} is not as the stage wrote it; remove {done} and {record}, and give"
    with pytest.raises(StageError, match=said):
        refuse_damaged(done, record, folders)

"""What a model card refuses, and what its digest covers."""

from __future__ import annotations

import errno
import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from models.calibration import Calibration
from models.card import CARD_NAME, ModelCard, PromptTemplate, Truncation, read_card, write_card
from models.errors import ModelDirectoryError


@pytest.fixture
def copied(tiny_model_dir: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_model_dir, tmp_path / "model"))


def edit(directory: Path, **changes: Any) -> None:
    path = directory / CARD_NAME
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_a_card_is_read_as_it_was_written(tiny_card: ModelCard, copied: Path) -> None:
    card = replace(tiny_card, lineage={"seed": 3, "stages": ["é"]}, metrics={"gauc": 0.1 + 0.2})
    written = write_card(copied, card)
    assert read_card(copied) == written
    assert replace(written, files={}) == card
    assert read_card(copied).digest == written.digest


def test_a_card_is_written_whole_or_not_at_all(
    tiny_card: ModelCard, copied: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, names = read_card(copied), sorted(copied.iterdir())

    def full(path: Path, text: str, encoding: str) -> None:
        path.write_bytes(text.encode()[:10])
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(OSError, match="No space"):
        write_card(copied, replace(tiny_card, lineage={"seed": 4}))
    assert read_card(copied) == before
    assert sorted(copied.iterdir()) == names


@pytest.mark.parametrize(
    "change",
    [
        {"calibration": Calibration(scale=0.9)},
        {"truncation": Truncation(255, 96)},
        {"lineage": {"seed": 1}},
        {"files": {"config.json": "sha256:0"}},
    ],
)
def test_the_digest_covers_everything(tiny_card: ModelCard, change: dict[str, Any]) -> None:
    assert replace(tiny_card, **change).digest != tiny_card.digest


def test_the_digest_covers_the_order_in_which_fields_are_rendered(tiny_card: ModelCard) -> None:
    fields = {"a": "A {value}", "b": "B {value}"}
    swapped = dict(reversed(fields.items()))
    digests = {
        replace(
            tiny_card,
            prompts={"p": PromptTemplate("{context}", "{candidate}", f)},
            default_prompt="p",
        ).digest
        for f in (fields, swapped)
    }
    assert len(digests) == 2


def test_only_regular_visible_files_are_listed(tiny_card: ModelCard, copied: Path) -> None:
    (copied / ".hidden").write_text("x")
    (copied / "folder").mkdir()
    (copied / "folder" / "data").write_text("x")
    assert set(write_card(copied, tiny_card).files) == {
        "config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
    }


@pytest.mark.parametrize(
    "changes",
    [
        {"version": "0.0.2"},
        {"digest": "0" * 64},
        {"surprise": 1},
        {"prompts": {}},
        {"name": 5},
        {"block_size": True},
        {"block_size": 0},
        {"block_size": 10**30},
        {"dtype": "float16"},
        {"calibration": {"kind": "isotonic", "scale": 1.0, "shift": 0.0}},
        {"calibration": {"kind": "platt", "scale": 10**400, "shift": 0.0}},
        {"calibration": {"kind": "platt", "scale": 1.0, "shift": 10**400}},
        {"lineage": {"loss": float("nan")}},
        {"labels": {"yes": " yes"}},
        {"files": []},
        {"truncation": "long"},
    ],
)
def test_an_edited_card_is_refused_by_name(copied: Path, changes: dict[str, Any]) -> None:
    edit(copied, **changes)
    with pytest.raises(ModelDirectoryError, match=CARD_NAME):
        read_card(copied, verify=False)


@pytest.mark.parametrize("text", ["", "[]", "null", "{", '{"digest": 1}', "\ud800", "[" * 100_000])
def test_a_card_that_is_no_card_is_refused_by_name(copied: Path, text: str) -> None:
    (copied / CARD_NAME).write_text(text, errors="surrogatepass")
    with pytest.raises(ModelDirectoryError, match=CARD_NAME):
        read_card(copied)


@pytest.mark.parametrize(
    ("context", "candidate", "fields"),
    [
        ("no slot", "{candidate}", {}),
        ("{context}{context}", "{candidate}", {}),
        ("{context}", "no slot", {}),
        ("{context}", "{candidate}", {"title": "Title:"}),
    ],
)
def test_a_template_without_its_slot_is_refused(
    context: str, candidate: str, fields: dict[str, str]
) -> None:
    with pytest.raises(ModelDirectoryError, match="exactly once"):
        PromptTemplate(context, candidate, fields)

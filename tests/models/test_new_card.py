"""The way of a plain directory to a served one: what the refusal says is what works."""

from __future__ import annotations

import json
import shlex
import shutil
from pathlib import Path

import pytest

from models.card import CARD_NAME
from models.directory import load_model_directory
from models.errors import ModelDirectoryError
from models.new_card import main
from tests.full_disk import no_file_above
from tests.models.families import random_model

TEMPLATE = ["--context", "Member: {context}\\n", "--candidate", "Job: {candidate}\\nMatch:"]
LIMITS = ["--max-context-tokens", "128", "--max-candidate-tokens", "64"]


@pytest.fixture
def plain(tiny_tokenizer_path: Path, tmp_path: Path) -> Path:
    """A language model as transformers stores it."""
    random_model("llama", {"max_position_embeddings": 1024}).save_pretrained(tmp_path)
    shutil.copyfile(tiny_tokenizer_path, tmp_path / "tokenizer.json")
    return tmp_path


@pytest.fixture
def classifier(tiny_tokenizer_path: Path, tmp_path: Path) -> Path:
    random_model("qwen2", {}, labels=3).save_pretrained(tmp_path)
    shutil.copyfile(tiny_tokenizer_path, tmp_path / "tokenizer.json")
    return tmp_path


def test_the_refusal_of_a_plain_directory_is_the_command_that_helps(plain: Path) -> None:
    with pytest.raises(ModelDirectoryError, match=CARD_NAME) as caught:
        load_model_directory(plain)
    command = str(caught.value).partition("python -m models.new_card ")[2]
    assert main(shlex.split(command)) == 0
    directory = load_model_directory(plain)
    assert directory.card.prompts["default"].context == "Member: {context}\n"
    assert directory.card.name == plain.name


def test_a_classifier_is_graded_by_its_classes(classifier: Path) -> None:
    assert main([str(classifier), *TEMPLATE, *LIMITS]) == 0
    (head,) = load_model_directory(classifier).card.scoring_heads.values()
    assert head.classes == {"0": 0, "1": 1, "2": 2}


def test_heads_are_written_as_they_are_given(plain: Path) -> None:
    heads = {"click": {"labels": {" yes": 1, " no": 0}}, "stars": {"labels": {"a": 1, "b": 5}}}
    given = [part for name in heads for part in ("--head", f"{name}={json.dumps(heads[name])}")]
    assert main([str(plain), *TEMPLATE, *LIMITS, *given]) == 0
    assert list(load_model_directory(plain).card.scoring_heads) == ["click", "stars"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([], "say what answers"),
        (["--labels", " yes", " no", "--head", 'x={"classes": {"0": 1}}'], "say what answers"),
        (["--labels", " yes", "unlikely one"], "choose a single one"),
        (["--head", "click"], "is not NAME=JSON"),
        (["--head", "click=[]"], "is not NAME=JSON"),
        (["--head", 'a={"classes": {"0": 1}}'] * 2, "--head a is given twice; give each head once"),
        (["--labels", " yes", " no", "--name", "\udcff"], "\\udcff' is no Unicode text; give"),
        (["--head", 'x={"labels": {"\\ud800": 1, " no": 0}}'], "is no Unicode text; give"),
        (["--head", 'click={"labels": {"a": 1}}'], "another to compare with"),
        (["--head", 'click={"classes": {"0": 1}}'], "is no classifier"),
        (["--labels", " yes", " no", "--max-context-tokens", "2000"], "lower the card's"),
    ],
)
def test_what_would_not_be_served_leaves_no_card(
    plain: Path, capsys: pytest.CaptureFixture[str], options: list[str], message: str
) -> None:
    assert main([str(plain), *TEMPLATE, *options]) == 1
    assert message in capsys.readouterr().err
    assert not (plain / CARD_NAME).exists()


def test_a_card_that_cannot_be_written_is_said(
    plain: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with no_file_above(100):
        assert main([str(plain), *TEMPLATE, *LIMITS, "--labels", " yes", " no"]) == 1
    assert "cannot be written ([Errno 27] File too large); make room" in capsys.readouterr().err
    assert not list(plain.glob("*card*"))


def test_a_card_is_never_overwritten(
    tiny_model_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = Path(shutil.copytree(tiny_model_dir, tmp_path / "model"))
    before = (path / CARD_NAME).read_bytes()
    assert main([str(path), *TEMPLATE, "--labels", " yes", " no"]) == 1
    assert "exists; remove it" in capsys.readouterr().err
    assert (path / CARD_NAME).read_bytes() == before

"""What is wrong with a later stage is said before the first one has trained, dry or not."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from compress.recipes.beforehand import refuse_what_cannot_work
from compress.recipes.recipe import Recipe
from compress.stages.stage import RecipeError
from models.calibration import Calibration
from models.card import read_card, write_card
from models.head_card import HeadCard
from tests.compress.small_encoders import write_encoder
from tests.compress.small_recipe import (
    DISTILL,
    LEXICON,
    PRUNE,
    QUANTIZE,
    TRAIN,
    every_stage,
    write_recipe,
)

FIRST = {"stage": "lexicon", "options": LEXICON}
HUNDRED = {"slates": 1, "candidates": 24}
UNTAUGHT = {"teachers": [], "phases": [{"steps": 1, "soft_share": 0.0}]}
BY_FIRST = DISTILL | {"teachers": [{"path": "lexicon"}]}
WORDS = {"phases": [{"steps": 1, "scope": "vocabulary"}], "teachers": [{"path": "teacher"}]}
GRADUAL = {"prune": PRUNE, "recover": UNTAUGHT, "steps": 2}


def _recipe(directory: Path, data: Path, entries: list[dict[str, Any]], **top: Any) -> Path:
    path = write_recipe(directory, data, entries)
    path.write_text(path.read_text() + (yaml.safe_dump(top) if top else ""))
    return path


def _refuse(directory: Path, data: Path, entries: list[dict[str, Any]], **top: Any) -> None:
    recipe = Recipe.load(_recipe(directory, data, entries, **top))
    recipe.refuse_missing()
    refuse_what_cannot_work(recipe)


@pytest.mark.parametrize(
    ("stage", "options", "said"),
    [
        ("prune", PRUNE | {"slates": 128}, "prune: .* has 24 requests of train, but 128 slates"),
        ("prune", PRUNE | {"mlp_share": 0.75}, "prune: 75% of the MLP neurons would go at once"),
        ("prune", PRUNE | {"drop_layers": 3, "force": True}, "prune: 3 of 2 layers cannot go"),
        ("prune", PRUNE | {"drop_layers": 2, "force": True}, "prune: 2 of 2 layers cannot go"),
        ("prune", PRUNE | {"split": "test"}, "prune: split is 'test'; .* test stays unseen"),
        ("prune", PRUNE | HUNDRED, "prune: down_proj .* 24 answers at most, fewer than its 512"),
        ("prune", PRUNE | HUNDRED | {"split": "generated"}, "prune: down_proj .* reads 24 answers"),
        (
            "prune",
            {"mlp_share": 0.25, "kv_share": 0.1, "slates": 23, "candidates": 24},
            "prune: kv_share 0.1 takes none of 2 KV groups; set it to 0.5 or more, or to 0",
        ),
        ("prune", PRUNE | {"mlp_share": 0.01}, "prune: mlp_share 0.01 takes none of 512 neurons"),
        ("gradual", GRADUAL | {"prune": {"kv_share": 0.1}}, "gradual: .* takes none of 2 KV gro"),
        ("prune", PRUNE | {"fit_to": "teacher"}, "prune: fit_to is teacher and there is no model"),
        ("quantize", QUANTIZE | {"slates": 128}, "quantize: .* 24 requests of train"),
        ("quantize", QUANTIZE | HUNDRED, "quantize: o_proj of the last layer reads 24 answers"),
        (
            "quantize",
            QUANTIZE | {"scheme": "w4a16", "group_size": 96},
            "quantize: q_proj has 256 inputs, which groups of 96",
        ),
        ("gradual", GRADUAL | {"prune": {"slates": 128}}, "gradual: .* 24 requests of train"),
        (
            "gradual",
            GRADUAL | {"prune": PRUNE | {"mlp_share": 0.875}},
            "gradual: .* of the MLP neurons would go at once",
        ),
        (
            "distill",
            BY_FIRST | {"slates_of": "requests", "labelled_share": 1e-9},
            "distill: labelled_share 1e-09 holds no request",
        ),
        (
            "distill",
            UNTAUGHT | {"task": "text", "examples": "nope.json"},
            "distill: .*nope.json is missing, and this stage reads it",
        ),
        ("embed_items", {"prompt": "x"}, "embed_items: prompt 'x' is unknown; use one of member"),
        ("imitate", {}, "imitate learns from an encoder teacher"),
        (
            "calibrate",
            {"heads": {"fit": "compress"}},
            "calibrate: head 'fit' is not one of the model's: score; name those",
        ),
        (
            "calibrate",
            {"tenants": {"acme": {"score": "compress", "fit": "compress"}}},
            "calibrate: head 'fit' is not",
        ),
        ("calibrate", {"heads": {"score": "compress"}}, "calibrate reads compress/items.jsonl.gz"),
    ],
    ids=str,
)
def test_a_stage_that_cannot_work_is_refused_by_its_title(
    tmp_path: Path, small_data: Path, stage: str, options: dict[str, Any], said: str
) -> None:
    with pytest.raises(RecipeError, match=f"^{said}"):
        _refuse(tmp_path, small_data, [FIRST, {"stage": stage, "options": options}])


def test_what_works_is_not_refused(tmp_path: Path, small_data: Path) -> None:
    _refuse(tmp_path, small_data, every_stage())
    two = PRUNE | {"mlp_share": 0.5, "fit_to": "source"}
    again = {"stage": "prune", "name": "again", "options": two}  # a half, and a half of it
    gradual = {"stage": "gradual", "options": GRADUAL | {"prune": PRUNE | {"mlp_share": 0.5}}}
    _refuse(tmp_path, small_data, [FIRST, {"stage": "prune", "options": two}, again])
    _refuse(tmp_path, small_data, [FIRST, gradual])


@pytest.mark.parametrize("stage", ["train", "recover", "prune", "quantize", "gradual", "lexicon"])
def test_an_item_encoder_is_not_trained_to_be_thrown_away(
    tmp_path: Path, small_data: Path, stage: str
) -> None:
    items: dict[str, Any] = {"stage": "embed_items", "name": "items"}
    last: dict[str, Any] = {"stage": "calibrate"}
    options = {"recover": BY_FIRST, "gradual": GRADUAL}.get(stage, {})
    lost: dict[str, Any] = {"stage": stage, "name": "later", "options": options}
    said = r"^later: changes the weights that 'items' .*; put 'items' last, with nothing but cal"
    with pytest.raises(RecipeError, match=said):
        _refuse(tmp_path, small_data, [FIRST, items, last, lost])
    _refuse(tmp_path, small_data, [FIRST, items, last])
    _refuse(tmp_path, small_data, [FIRST, last, items])


@pytest.mark.parametrize("stage", ["train", "distill", "prune", "quantize", "calibrate", "gradual"])
def test_a_teacher_is_no_model_to_start_from(tmp_path: Path, small_data: Path, stage: str) -> None:
    options = {"distill": DISTILL | {"teachers": [{"path": "teacher"}]}, "gradual": GRADUAL}
    entry = {"stage": stage, "options": options.get(stage, {})}
    with pytest.raises(RecipeError, match=f"^{stage}.* starts from a model directory"):
        _refuse(tmp_path, small_data, [entry], teacher=FIRST)


def test_an_encoder_is_no_model_to_start_from(tmp_path: Path, small_data: Path) -> None:
    encoder = {"encoder": str(write_encoder(tmp_path / "encoder"))}
    teacher: dict[str, Any] = {"stage": "encoder_teacher", "options": encoder}
    entries = [FIRST, teacher, {"stage": "calibrate"}]
    with pytest.raises(RecipeError, match=r"^calibrate starts from a model directory"):
        _refuse(tmp_path, small_data, entries)
    distill = {"stage": "distill", "options": DISTILL | WORDS}
    with pytest.raises(RecipeError, match=r"^distill: the recipe's teacher is no model directory"):
        _refuse(tmp_path, small_data, [FIRST, distill], teacher=teacher)
    _refuse(tmp_path, small_data, [{"stage": "imitate"}, {"stage": "calibrate"}], teacher=teacher)
    with pytest.raises(RecipeError, match=r"^imitate learns from an encoder teacher"):
        _refuse(tmp_path, small_data, [{"stage": "imitate"}], teacher=FIRST)


@pytest.fixture
def other_words(tiny_model_dir: Path, tmp_path: Path) -> Path:
    """The same model, but that its tokenizer.json is another one."""
    other = Path(shutil.copytree(tiny_model_dir, tmp_path / "other"))
    tokenizer = other / "tokenizer.json"
    tokenizer.write_text(tokenizer.read_text("utf-8") + " ", encoding="utf-8")
    write_card(other, read_card(other, verify=False))
    return other


OWN = {"path": "teacher"}
WORDY: dict[str, dict[str, Any]] = {
    "distill": WORDS,
    "recover": {"phases": [{"steps": 1, "hidden_weight": 1}], "teachers": [OWN]},
    "prune": {"fit_to": "teacher", "slates": 23, "candidates": 24, "multiple": 8},
    "gradual": {"prune": PRUNE | {"multiple": 8}, "recover": WORDS, "steps": 1},
}


@pytest.mark.parametrize("stage", WORDY)
def test_a_teacher_of_other_words_is_refused_where_both_are_there_already(
    tmp_path: Path, small_data: Path, tiny_model_dir: Path, other_words: Path, stage: str
) -> None:
    entries: list[dict[str, Any]] = [
        {"stage": "train", "options": TRAIN},
        {"stage": stage, "options": WORDY[stage]},
    ]
    given = {"source": str(tiny_model_dir), "teacher": str(other_words)}
    with pytest.raises(RecipeError, match=rf"^{stage}: {other_words} and .* different tokenizers"):
        _refuse(tmp_path, small_data, entries, **given)
    _refuse(tmp_path, small_data, entries, **given | {"source": str(other_words)})
    _refuse(tmp_path, small_data, [FIRST, *entries], **given)  # what `lexicon` will know is open


def test_a_teacher_is_known_by_its_path_and_by_the_stages_before_it(
    tmp_path: Path, small_data: Path, tiny_model_dir: Path, other_words: Path
) -> None:
    train = {"stage": "train", "options": TRAIN}

    def refuse(path: str) -> None:
        options = WORDS | {"teachers": [{"path": path}]}
        entries = [train, {"stage": "distill", "options": options}]
        _refuse(tmp_path, small_data, entries, source=str(tiny_model_dir))

    with pytest.raises(RecipeError, match=r"^distill: .* have different tokenizers"):
        refuse(str(other_words))
    refuse("train")
    refuse("source")
    refuse(str(tiny_model_dir))
    (other_words / "scorer.json").touch()
    with pytest.raises(RecipeError, match=r"^distill: .* has no vocabulary at its output"):
        refuse(str(other_words))


def test_heads_are_those_of_the_source_that_a_recipe_starts_from(
    tmp_path: Path, small_data: Path, tiny_model_dir: Path
) -> None:
    two = Path(shutil.copytree(tiny_model_dir, tmp_path / "two"))
    heads = {name: HeadCard(labels={" yes": 1.0, " no": 0.0}) for name in ("fit", "reply")}
    write_card(two, replace(read_card(two), labels=None, calibration=Calibration(), heads=heads))

    def refuse(name: str) -> None:
        options = {"heads": {name: str(small_data)}}
        entries = [{"stage": "train", "options": TRAIN}, {"stage": "calibrate", "options": options}]
        _refuse(tmp_path, small_data, entries, source=str(two))

    refuse("reply")
    with pytest.raises(RecipeError, match="head 'score' is not one of the model's: fit, reply"):
        refuse("score")


@pytest.mark.parametrize(
    ("stage", "options"),
    [
        ("train", TRAIN),
        ("distill", UNTAUGHT),
        ("embed_items", {}),
        ("gradual", GRADUAL | {"prune": PRUNE | {"multiple": 8}}),
    ],
)
def test_a_student_that_does_not_answer_with_two_labels_is_refused(
    tmp_path: Path, small_data: Path, tiny_model_dir: Path, stage: str, options: dict[str, Any]
) -> None:
    """A classifier and a model of three labels, also after a stage that keeps the head."""
    graded = Path(shutil.copytree(tiny_model_dir, tmp_path / "graded"))
    heads = {"stars": HeadCard(labels={" yes": 2, " no": 1, "e": 0})}
    write_card(
        graded, replace(read_card(graded), labels=None, calibration=Calibration(), heads=heads)
    )
    classifier = Path(shutil.copytree(tiny_model_dir, tmp_path / "classifier"))
    config = json.loads((classifier / "config.json").read_text("utf-8"))
    named = {"architectures": ["Qwen3ForSequenceClassification"], "num_labels": 2}
    (classifier / "config.json").write_text(json.dumps(config | named), encoding="utf-8")
    heads = {"s": HeadCard(classes={"0": 0, "1": 1})}
    write_card(classifier, replace(read_card(graded), heads=heads))
    quantize = {"stage": "quantize", "options": QUANTIZE | {"group_size": 32}}
    entry = {"stage": stage, "options": options}
    for source, outputs in ((graded, "labels  yes,  no, e"), (classifier, "classes 0, 1")):
        said = rf"^{stage}.* trains two labels .* answers with {outputs}; start from"
        for entries in ([entry], [quantize, entry]):
            with pytest.raises(RecipeError, match=said):
                _refuse(tmp_path, small_data, entries, source=str(source))
    _refuse(tmp_path, small_data, [FIRST, entry], source=str(graded))


def test_a_teacher_is_not_published(tmp_path: Path, small_data: Path) -> None:
    encoder: dict[str, Any] = {"stage": "encoder_teacher", "options": {"encoder": "somewhere"}}
    with pytest.raises(RecipeError, match="the last stage makes no model that can be published"):
        Recipe.load(_recipe(tmp_path, small_data, [encoder]))

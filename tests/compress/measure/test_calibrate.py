"""The calibrating stage: kinds, heads and tenants, each from its own labels, and its refusals."""

from __future__ import annotations

import gzip
import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from compress.measure import calibrate, evaluation
from compress.measure.calibrate import run
from compress.stages.stage import RecipeError, StageError, StageInput
from models.calibration import Calibration
from models.card import CARD_NAME, ModelCard
from models.checkpoint import load_model_directory, save_model_directory
from models.decoder import Decoder
from models.directory import ModelDirectory
from models.engines.base import ScoreJob
from models.engines.fairslate import FairslateEngine
from models.errors import CalibrationError, ModelDirectoryError
from models.head_card import HeadCard
from models.isotonic import IsotonicCalibration
from models.item_encoder import (
    ENCODER_PATH,
    ItemEncoder,
    encoder_digest,
    load_item_encoder,
    save_item_encoder,
)

REQUESTS, CANDIDATES = 60, 12
CONTEXTS = [f"Member {number}" for number in range(REQUESTS)]
TEXTS = [f"Job {number}: {word}" for number in range(4) for word in ("nurse", "welder", "roofer")]


def write(path: Path, rows: list[dict[str, Any]]) -> None:
    with gzip.open(path, "wt", encoding="utf-8") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)


@pytest.fixture(scope="module")
def logits(tiny_directory: ModelDirectory) -> NDArray[np.float64]:
    """(REQUESTS, CANDIDATES) raw logits of the tiny model itself."""
    prompt, block_size = tiny_directory.prompt, tiny_directory.card.block_size
    candidates = tuple(one.ids for one in prompt.encode_candidates(TEXTS))
    jobs = []
    for context in CONTEXTS:
        ids = prompt.encode_context(context).ids
        jobs.append(ScoreJob(ids, prompt.block_hashes(ids, block_size), candidates))
    scores = FairslateEngine(tiny_directory, 1 << 20).score(jobs)
    return np.array([one.raw_logits for one in scores], dtype=np.float64)


@pytest.fixture
def make_data(tmp_path: Path, logits: NDArray[np.float64]) -> Callable[..., Path]:
    """Labels drawn from the law sigmoid(scale z + shift) of the standardised raw logits z."""
    law = (logits - logits.mean()) / logits.std()

    def make(name: str, scale: float, shift: float, requests: int = REQUESTS) -> Path:
        generator = np.random.default_rng(3)
        directory = tmp_path / name
        directory.mkdir()
        drawn = generator.random(law.shape) < 1 / (1 + np.exp(-(scale * law + shift)))
        rows = [
            {
                "qid": context,
                "prefix": context,
                "cand": list(range(CANDIDATES)),
                "label": labels.astype(int).tolist(),
            }
            for context, labels in zip(CONTEXTS, drawn, strict=True)
        ]
        write(directory / "items.jsonl.gz", [{"id": i, "text": t} for i, t in enumerate(TEXTS)])
        write(directory / "valid.jsonl.gz", rows[:requests])
        write(directory / "test.jsonl.gz", rows[:4])
        return directory

    return make


def calibrated(tmp_path: Path, source: Path, data: Path, **options: Any) -> ModelCard:
    out = tmp_path / "out"
    run(StageInput(source, data, out, tmp_path / "work", seed=1, threads=1), options)
    return load_model_directory(out).card


def test_the_law_of_the_labels_is_found_and_the_label_mass_recorded(
    tmp_path: Path,
    tiny_model_dir: Path,
    make_data: Callable[..., Path],
    logits: NDArray[np.float64],
) -> None:
    card = calibrated(tmp_path, tiny_model_dir, make_data("data", 2.0, 0.5))
    found = card.calibration
    assert isinstance(found, Calibration)
    # About 360 labels: three standard errors.
    assert found.scale * logits.std() == pytest.approx(2.0, rel=0.5)
    assert found.shift + found.scale * logits.mean() == pytest.approx(0.5, abs=0.5)
    assert 0 <= card.metrics["label_mass"]["mean"] < 0.5, "random weights favour no label"
    assert card.metrics["label_mass"]["samples"] >= 4
    (entry,) = card.lineage["stages"]
    assert (entry["stage"], entry["options"]["kind"]) == ("calibrate", "platt")


def test_the_kind_is_chosen(
    tmp_path: Path, tiny_model_dir: Path, make_data: Callable[..., Path]
) -> None:
    data = make_data("data", 2.0, 0.0)
    card = calibrated(tmp_path, tiny_model_dir, data, kind="temperature")
    assert isinstance(card.calibration, Calibration)
    assert (card.calibration.kind, card.calibration.shift) == ("temperature", 0.0)


def test_a_model_has_a_name_and_a_version_of_its_own_when_asked(
    tiny_model_dir: Path, make_data: Callable[..., Path], tmp_path: Path
) -> None:
    before = load_model_directory(tiny_model_dir).card
    cards = []
    for number, options in enumerate(({}, {"name": "smaller", "version": "9"})):
        stage = StageInput(
            tiny_model_dir,
            make_data(f"data{number}", 1.0, 0.0),
            tmp_path / f"out{number}",
            tmp_path / "work",
            seed=1,
            threads=1,
        )
        run(stage, options)
        cards.append(load_model_directory(stage.out).card)
    assert [(card.name, card.version) for card in cards] == [
        (before.name, before.version),
        ("smaller", "9"),
    ]


def test_an_item_encoder_goes_along_and_still_holds(
    tmp_path: Path, tiny_directory: ModelDirectory, make_data: Callable[..., Path]
) -> None:
    source = Path(shutil.copytree(tiny_directory.path, tmp_path / "source"))
    encoder = ItemEncoder(tiny_directory.config.hidden_size, vectors=1, inner=8)
    save_item_encoder(source / ENCODER_PATH, encoder, tiny_directory, "member_to_jobs")
    calibrated(tmp_path, source, make_data("data", 2.0, 0.5), storage="float16")
    after = load_model_directory(tmp_path / "out")
    _, prompt = load_item_encoder(after.path / ENCODER_PATH, after)
    assert prompt == "member_to_jobs"
    assert encoder_digest(after.path / ENCODER_PATH) == encoder_digest(source / ENCODER_PATH)


def test_heads_and_tenants_learn_from_their_own_labels(
    tmp_path: Path,
    make_data: Callable[..., Path],
    tiny_card: ModelCard,
    tiny_decoder: Decoder,
    tiny_tokenizer_path: Path,
    logits: NDArray[np.float64],
) -> None:
    labels = {" yes": 1.0, " no": 0.0}
    heads = {"click": HeadCard(labels=labels), "apply": HeadCard(labels=labels)}
    card = replace(tiny_card, labels=None, calibration=Calibration(), heads=heads)
    source = tmp_path / "two heads"
    save_model_directory(source, tiny_decoder, tiny_tokenizer_path, card)
    often, seldom = make_data("often", 2.0, 1.0), make_data("seldom", 2.0, -1.0)
    card = calibrated(
        tmp_path,
        source,
        often,
        heads={"apply": str(seldom)},
        tenants={"ada": {"click": str(seldom)}},
    )
    click, apply = (card.scoring_heads[name].calibration for name in ("click", "apply"))
    middle = float(logits.mean())
    assert click.calibrate(middle) > 0.6 > 0.4 > apply.calibrate(middle)
    assert card.calibration_of("click", "ada") == apply
    assert card.calibration_of("apply", "ada") == apply
    assert card.calibration_of("click", "bob") == click
    (entry,) = card.lineage["stages"]
    assert str(tmp_path) not in json.dumps(entry)


def test_too_few_labels_leave_no_card(
    tmp_path: Path, tiny_model_dir: Path, make_data: Callable[..., Path]
) -> None:
    data = make_data("data", 2.0, 0.0)
    with pytest.raises(CalibrationError, match="needs 200 labels of each class"):
        calibrated(tmp_path, tiny_model_dir, data, kind="isotonic")
    assert (tmp_path / "out" / "model.safetensors").exists()
    with pytest.raises(ModelDirectoryError, match=r"model_card\.json: is missing"):
        load_model_directory(tmp_path / "out")


def test_isotonic_is_served_from_a_card(
    tmp_path: Path,
    tiny_model_dir: Path,
    make_data: Callable[..., Path],
    logits: NDArray[np.float64],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from models import calibration

    few = replace(calibration.KINDS["isotonic"], fewest=20)
    monkeypatch.setitem(calibration.KINDS, "isotonic", few)
    card = calibrated(tmp_path, tiny_model_dir, make_data("data", 2.0, 0.0), kind="isotonic")
    assert isinstance(card.calibration, IsotonicCalibration)
    low, high = (card.calibration.calibrate(float(end)) for end in (logits.min(), logits.max()))
    assert low < 0.3 < 0.7 < high


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"kind": "beta"}, "temperature, platt, isotonic"),
        ({"storage": "int4"}, "float16"),
        ({"heads": {"buy": "data"}}, "'buy' is not one of the model's: score"),
        ({"tenants": {"ada": {"buy": "data"}}}, "'buy' is not one of"),
        ({"kin": "platt"}, "options are: storage, kind"),
    ],
)
def test_a_wrong_option_is_named(
    tmp_path: Path, tiny_model_dir: Path, options: dict[str, Any], complaint: str
) -> None:
    with pytest.raises(RecipeError, match=complaint):
        calibrated(tmp_path, tiny_model_dir, tmp_path, **options)


@pytest.mark.parametrize("name", ["test", "valid"])
def test_data_that_are_not_there_are_refused_before_anything_is_written(
    tmp_path: Path, tiny_model_dir: Path, make_data: Callable[..., Path], name: str
) -> None:
    data = make_data("data", 2.0, 0.5)
    (data / f"{name}.jsonl.gz").unlink()
    with pytest.raises(RecipeError, match=rf"{name}\.jsonl\.gz, and it is not there"):
        calibrated(tmp_path, tiny_model_dir, data)
    assert not (tmp_path / "out").exists()


def test_labels_of_a_head_that_are_nowhere_are_refused_before_anything_is_written(
    tmp_path: Path, tiny_model_dir: Path, make_data: Callable[..., Path]
) -> None:
    data = make_data("data", 2.0, 0.5)
    for options in ({"heads": {"score": "/no"}}, {"tenants": {"a": {"score": "/no"}}}):
        with pytest.raises(RecipeError, match=r"/no/valid\.jsonl\.gz, and it is not there"):
            calibrated(tmp_path, tiny_model_dir, data, **options)
        assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("where", ["data", "others"])
def test_labels_that_change_while_they_are_learnt_from_are_told(
    tmp_path: Path,
    tiny_model_dir: Path,
    make_data: Callable[..., Path],
    monkeypatch: pytest.MonkeyPatch,
    where: str,
) -> None:
    data, others = (make_data(name, 2.0, 0.5) for name in ("data", "others"))

    def measured(*arguments: Any) -> dict[str, Any]:
        (tmp_path / where / "valid.jsonl.gz").write_bytes(b"")
        return evaluation.evaluate(*arguments)

    monkeypatch.setattr(calibrate, "evaluate", measured)
    tenants = {"acme": {"score": str(others)}}
    with pytest.raises(StageError, match=rf"{where}/valid\.jsonl\.gz changed while"):
        calibrated(tmp_path, tiny_model_dir, data, tenants=tenants)
    assert not (tmp_path / "out" / CARD_NAME).exists()

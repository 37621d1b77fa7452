"""Items become a catalogue: each the same in any company, bad lines named, other models refused."""

from __future__ import annotations

import gzip
import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from models.catalogue import load_catalogue
from models.checkpoint import load_decoder
from models.directory import ModelDirectory, load_model_directory
from models.encode_catalogue import main
from models.engines.base import ScoreJob
from models.engines.fairslate import FairslateEngine
from models.errors import CatalogueError
from models.extended_embedding import stored_vectors
from models.item_encoder import (
    ENCODER_PATH,
    encoder_digest,
    item_features,
    load_item_encoder,
    save_item_encoder,
)
from models.prompt import block_hashes
from tests.models.catalogues import PROMPT, random_encoder, write_encoder, write_items

DEMO = Path(__file__).parents[2] / "models" / "demo"
ITEMS = [
    {"id": "nurse", "text": "Registered nurse, night shift", "title": "left alone"},
    {"id": "welder", "text": "Welder in a shipyard. Duties: weld."},
    {"id": "long", "text": "Roofer " * 200},
]


@pytest.fixture
def encoder_path(tmp_path: Path, tiny_directory: ModelDirectory) -> Path:
    return write_encoder(tmp_path / "encoder" / "encoder.safetensors", tiny_directory)


def encode(directory: ModelDirectory, encoder: Path, items: Path, out: Path) -> int:
    arguments = ["--items", items, "--out", out, "--encoder", encoder, "--threads", "1"]
    return main([str(directory.path), *map(str, arguments)])


def test_items_become_vectors_that_an_engine_scores(
    tmp_path: Path, tiny_directory: ModelDirectory, encoder_path: Path
) -> None:
    items = write_items(tmp_path / "items.jsonl.gz", ITEMS)
    assert encode(tiny_directory, encoder_path, items, tmp_path / "catalogue") == 0
    catalogue = load_catalogue(tmp_path / "catalogue", tiny_directory)
    assert list(catalogue.rows) == ["nurse", "welder", "long"]
    engine = FairslateEngine(tiny_directory, 1 << 20, catalogue=catalogue)
    frame = tiny_directory.prompt.frame_candidate
    ids = [frame(catalogue.token_ids(entry, PROMPT), PROMPT).ids for entry in catalogue.rows]
    context = tiny_directory.prompt.encode_context("Nurse").ids
    (scores,) = engine.score([ScoreJob(context, block_hashes(context, 16), tuple(ids))])
    assert len(set(scores.raw_logits)) == 3
    template = len(frame((), PROMPT).ids)
    assert scores.candidate_tokens == 3 * (template + 2)


def test_an_item_has_the_same_vectors_in_any_company(
    tmp_path: Path, tiny_directory: ModelDirectory, encoder_path: Path
) -> None:
    """Within bfloat16: products of other sizes differ in their last bits."""
    found = []
    for name, rows in {"all": ITEMS, "some": ITEMS[:0:-1]}.items():
        items = write_items(tmp_path / f"{name}.jsonl", rows)
        encode(tiny_directory, encoder_path, items, tmp_path / name)
        catalogue = load_catalogue(tmp_path / name, tiny_directory)
        vectors = stored_vectors(catalogue)
        assert vectors is not None
        rows_of = vectors.view(-1, 2, vectors.shape[1])
        found.append(rows_of[[catalogue.rows["welder"], catalogue.rows["long"]]].float())
    torch.testing.assert_close(*found, atol=4e-3, rtol=8e-3)


def test_features_are_means_and_the_last_state(tiny_directory: ModelDirectory) -> None:
    decoder = load_decoder(tiny_directory)
    one, two = (3, 8, 1), (7, 2, 9, 30, 4)
    features = item_features(decoder, [one, two])
    assert features.shape == (2, 4 * 64 + 1)
    embedding = decoder.model.embed_tokens.weight
    torch.testing.assert_close(features[0, :64], embedding[list(one)].mean(0))
    torch.testing.assert_close(features[:, -1].exp(), torch.tensor([3.0, 5.0]))
    torch.testing.assert_close(item_features(decoder, [two])[0], features[1], atol=1e-5, rtol=1e-5)
    longer = item_features(decoder, [(*two, 6)])
    assert not torch.allclose(longer[0, 192:256], features[1, 192:256], atol=1e-2)


BROKEN = [
    ('{"id": "a", "text": "x"}\n{"id": "a", "text": "y"}\n', "'a' stands there 2 times"),
    ('{"id": "a", "text": "x"}\n{"id": "b"}\n', "line 2 is no object"),
    ('{"id": "a", "text": "x"}\nnot JSON\n', "line 2 is no object"),
    ("[1]\n", "line 1 is no object"),
    ('{"id": 3, "text": "x"}\n', "line 1: id and text must be strings"),
    ('{"id": "a", "text": " "}\n', "line 1: id and text must be strings"),
    ("", "holds no items"),
    ('{"id": "\\ud800", "text": "x"}\n', "line 1: id and text must be Unicode"),
    ('{"id": "a", "text": "\\ud800"}\n', "line 1: id and text must be Unicode"),
    ("[" * 100_000, "line 1 is no object"),
]


@pytest.mark.parametrize(("content", "message"), BROKEN, ids=range(len(BROKEN)))
def test_bad_lines_are_named_and_nothing_is_written(
    content: str,
    message: str,
    tmp_path: Path,
    tiny_directory: ModelDirectory,
    encoder_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    items = tmp_path / "items.jsonl"
    items.write_text(content, encoding="utf-8")
    assert encode(tiny_directory, encoder_path, items, tmp_path / "catalogue") == 1
    assert re.search(message, capsys.readouterr().err)
    assert not list(tmp_path.glob("catalogue*"))


def test_a_place_that_cannot_be_written_is_said(
    tmp_path: Path,
    tiny_directory: ModelDirectory,
    encoder_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    items = tmp_path / "items.jsonl"
    items.write_text('{"id": "a", "text": "x"}\n', encoding="utf-8")
    (tmp_path / "folder").mkdir()
    for out in (tmp_path / "folder", tmp_path / "absent" / "catalogue"):
        assert encode(tiny_directory, encoder_path, items, out) == 1
        assert "cannot be written" in capsys.readouterr().err
    assert not list(tmp_path.rglob("*.writing"))


@pytest.mark.parametrize("name", ["items.jsonl", "link", "encoder/encoder.safetensors"])
def test_a_file_that_is_no_catalogue_is_not_written_over(
    name: str,
    tmp_path: Path,
    tiny_directory: ModelDirectory,
    encoder_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    items = write_items(tmp_path / "items.jsonl", ITEMS)
    (tmp_path / "link").symlink_to(items)
    before = (tmp_path / name).read_bytes()
    assert encode(tiny_directory, encoder_path, items, tmp_path / name) == 1
    assert "is no catalogue; name another --out" in capsys.readouterr().err
    assert (tmp_path / name).read_bytes() == before


def test_an_earlier_catalogue_is_replaced(
    tmp_path: Path, tiny_directory: ModelDirectory, encoder_path: Path
) -> None:
    out = tmp_path / "catalogue"
    for rows in (ITEMS, ITEMS[:1]):
        items = write_items(tmp_path / "items.jsonl", rows)
        assert encode(tiny_directory, encoder_path, items, out) == 0
    assert list(load_catalogue(out, tiny_directory).rows) == ["nurse"]


@pytest.mark.parametrize("threads", ["-3", "0", "100000000000"])
def test_a_number_of_threads_that_no_machine_has_is_refused(
    threads: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = [str(tmp_path), "--items", "absent", "--out", "out", f"--threads={threads}"]
    with pytest.raises(SystemExit, match="2"):
        main(given)
    assert "--threads takes 1 to 1024" in capsys.readouterr().err


def test_a_damaged_archive_and_an_absent_file_are_refused(
    tmp_path: Path,
    tiny_directory: ModelDirectory,
    encoder_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "items.jsonl.gz").write_bytes(gzip.compress(b'{"id": "a"}' * 99)[:40])
    content = bytearray(gzip.compress(bytes(range(256)) * 9))
    content[14:40] = b"\xff" * 26
    (tmp_path / "damaged.jsonl.gz").write_bytes(content)
    for name in ("items.jsonl.gz", "damaged.jsonl.gz", "absent.jsonl"):
        assert encode(tiny_directory, encoder_path, tmp_path / name, tmp_path / "out") == 1
        assert "cannot be read" in capsys.readouterr().err


def test_an_encoder_of_another_model_is_refused(
    tmp_path: Path, tiny_directory: ModelDirectory, encoder_path: Path
) -> None:
    card = tiny_directory.card
    other = replace(tiny_directory, card=replace(card, files={**card.files, "config.json": "x"}))
    with pytest.raises(CatalogueError, match=r"was trained for a model of digest .* not for"):
        load_item_encoder(encoder_path, other)
    with pytest.raises(CatalogueError, match="is no item encoder"):
        load_item_encoder(tiny_directory.path / "model.safetensors", tiny_directory)
    with pytest.raises(CatalogueError, match="is no item encoder"):
        load_item_encoder(tmp_path / "absent", tiny_directory)


def test_an_encoder_of_a_model_of_another_width_is_told_apart_from_damage(
    tiny_directory: ModelDirectory, encoder_path: Path
) -> None:
    config = replace(tiny_directory.config, hidden_size=32)
    card = replace(tiny_directory.card, files={"config.json": "x"})
    with pytest.raises(CatalogueError, match="was trained for a model"):
        load_item_encoder(encoder_path, replace(tiny_directory, config=config, card=card))


def test_an_encoder_of_other_shapes_is_refused(
    tmp_path: Path, tiny_directory: ModelDirectory, encoder_path: Path
) -> None:
    with safe_open(encoder_path, framework="pt") as stored:
        metadata = stored.metadata()
    del metadata["digest"]
    weights = load_file(encoder_path)
    absent = {name: weight for name, weight in weights.items() if name != "outer.weight"}
    flat = weights | {"inner.weight": torch.zeros(())}
    other = weights | {"direct.weight": torch.zeros(3, 3)}
    for changed in (absent, flat, other):
        save_file(changed, tmp_path / "other", metadata)
        with pytest.raises(CatalogueError, match="is no item encoder"):
            load_item_encoder(tmp_path / "other", tiny_directory)


def test_an_encoder_that_was_changed_since_is_refused(
    tmp_path: Path, tiny_directory: ModelDirectory
) -> None:
    path, encoder = tmp_path / "encoder.safetensors", random_encoder(64)
    save_item_encoder(path, encoder, tiny_directory, PROMPT)
    content = path.read_bytes()
    save_item_encoder(path, encoder, tiny_directory, PROMPT)
    assert path.read_bytes() == content
    load_item_encoder(path, tiny_directory)
    renamed = content.replace(b'"vectors":"2"', b'"vectors":"3"')
    for changed in (content[:-1] + bytes([content[-1] ^ 1]), renamed):
        assert changed != content
        path.write_bytes(changed)
        with pytest.raises(CatalogueError, match="was changed after it was written"):
            load_item_encoder(path, tiny_directory)


def test_the_shipped_encoder_is_of_the_shipped_ranker() -> None:
    encoder, prompt = load_item_encoder(DEMO / ENCODER_PATH, load_model_directory(DEMO))
    assert (encoder.vectors, prompt) == (1, PROMPT)
    with safe_open(DEMO / ENCODER_PATH, framework="pt") as stored:
        assert stored.metadata()["digest"] == encoder_digest(DEMO / ENCODER_PATH)


def test_vectors_that_are_not_finite_are_not_written(
    tmp_path: Path,
    tiny_directory: ModelDirectory,
    capsys: pytest.CaptureFixture[str],
) -> None:
    encoder, path = random_encoder(64), tmp_path / "encoder.safetensors"
    encoder.direct.bias.fill_(float("nan"))
    save_item_encoder(path, encoder, tiny_directory, PROMPT)
    items = write_items(tmp_path / "items.jsonl", ITEMS)
    assert encode(tiny_directory, path, items, tmp_path / "catalogue") == 1
    assert "the vectors of 'nurse' are not finite" in capsys.readouterr().err
    assert not (tmp_path / "catalogue").exists()

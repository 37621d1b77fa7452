"""A catalogue goes through its file unharmed, and no other model, prompt or damage gets through."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from models.calibration import Calibration
from models.catalogue import load_catalogue, reader_digest
from models.catalogue_file import CatalogueOrigin, content_digest, read_ids, write_catalogue
from models.directory import ModelDirectory
from models.errors import CatalogueError, StoredCandidateError
from models.extended_embedding import stored_vectors

IDS = ["job-17", "späti", "c"]
PROMPT = "member_to_jobs"


@pytest.fixture
def origin(tiny_directory: ModelDirectory) -> CatalogueOrigin:
    return CatalogueOrigin(reader_digest(tiny_directory.card, PROMPT), PROMPT, "ab" * 32, 2, 64)


def vectors_of(origin: CatalogueOrigin, entries: int = len(IDS)) -> torch.Tensor:
    shape = (entries, origin.vectors, origin.width)
    return torch.randn(shape, generator=torch.Generator().manual_seed(1)).bfloat16()


def write(path: Path, origin: CatalogueOrigin, ids: list[str] = IDS) -> Path:
    vectors = vectors_of(origin, len(ids))
    pieces = (row.view(torch.uint8).numpy().tobytes() for row in vectors)
    write_catalogue(path, origin, ids, pieces)
    return path


def test_entries_and_vectors_come_back(
    tmp_path: Path, tiny_directory: ModelDirectory, origin: CatalogueOrigin
) -> None:
    path = write(tmp_path / "catalogue", origin)
    catalogue = load_catalogue(path, tiny_directory)
    assert (catalogue.origin, list(catalogue.rows), catalogue.tokens) == (origin, IDS, 6)
    first = tiny_directory.config.vocab_size
    assert list(catalogue.token_ids("späti", PROMPT)) == [first + 2, first + 3]
    vectors = stored_vectors(catalogue)
    assert vectors is not None
    assert torch.equal(vectors, vectors_of(origin).flatten(0, 1))
    assert torch.equal(load_file(path)["vectors"], vectors_of(origin)), "a plain safetensors file"
    assert catalogue.describe()["entries"] == 3
    assert list(tmp_path.iterdir()) == [path]


def test_vectors_are_mapped_and_not_copied(
    tmp_path: Path, tiny_directory: ModelDirectory, origin: CatalogueOrigin
) -> None:
    catalogue = load_catalogue(write(tmp_path / "mapped catalogue", origin), tiny_directory)
    vectors = stored_vectors(catalogue)
    assert vectors is not None
    mapped = [
        line for line in Path("/proc/self/maps").read_text().splitlines() if "mapped cat" in line
    ]
    bounds = [[int(end, 16) for end in line.split()[0].split("-")] for line in mapped]
    assert any(start <= vectors.data_ptr() < stop for start, stop in bounds)


def test_a_digest_names_the_content(tmp_path: Path, origin: CatalogueOrigin) -> None:
    same = [content_digest(write(tmp_path / name, origin)) for name in ("a", "b")]
    other = content_digest(write(tmp_path / "c", origin, ["x", "y", "z"]))
    assert same[0] == same[1] != other


def test_a_model_calibrated_anew_reads_as_before(tiny_directory: ModelDirectory) -> None:
    card = tiny_directory.card
    digest = reader_digest(card, PROMPT)
    assert reader_digest(replace(card, calibration=Calibration(2.0, 1.0)), PROMPT) == digest
    assert reader_digest(replace(card, metrics={"auc": 1}), PROMPT) == digest
    assert reader_digest(card, "job_to_members") != digest
    files = {**card.files, "model.safetensors": "sha256:00"}
    assert reader_digest(replace(card, files=files), PROMPT) != digest


CHANGES = [
    ({"reader": "cd" * 32}, "cdcdcdcdcdcdcdcd.* not for"),
    ({"width": 32}, "width 32, the model's are 64"),
    ({"prompt": "nobody's"}, "nobody's.* member_to_jobs, job_to_members"),
    ({"vectors": 95}, "95 vectors an entry, the limit is"),
]


@pytest.mark.parametrize(("changes", "message"), CHANGES)
def test_what_was_made_for_others_is_refused(
    changes: dict[str, object],
    message: str,
    tmp_path: Path,
    tiny_directory: ModelDirectory,
    origin: CatalogueOrigin,
) -> None:
    path = write(tmp_path / "catalogue", replace(origin, **changes))  # type: ignore[arg-type]
    with pytest.raises(CatalogueError, match=message):
        load_catalogue(path, tiny_directory)


def test_token_ids_must_fit_their_type(
    tmp_path: Path,
    tiny_directory: ModelDirectory,
    origin: CatalogueOrigin,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    last = tiny_directory.config.vocab_size + 5
    path = write(tmp_path / "catalogue", origin)
    monkeypatch.setattr("models.catalogue.MAX_TOKEN_ID", last)
    load_catalogue(path, tiny_directory)
    monkeypatch.setattr("models.catalogue.MAX_TOKEN_ID", last - 1)
    with pytest.raises(CatalogueError, match=f"token id {last}, the limit is {last - 1}"):
        load_catalogue(path, tiny_directory)


def test_damage_is_found(
    tmp_path: Path, tiny_directory: ModelDirectory, origin: CatalogueOrigin
) -> None:
    path = write(tmp_path / "catalogue", origin)
    content = path.read_bytes()
    at = int.from_bytes(content[:8], "little") + 8 + 5  # inside the vectors
    swapped = content.replace(b"job-17", b"job-71")
    broken = {
        "vector": content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :],
        "name": swapped,
        "encoder": content.replace(b"abab", b"cdcd", 1),
    }
    for name, damaged in broken.items():
        path.write_bytes(damaged)
        with pytest.raises(CatalogueError, match="was changed"):
            load_catalogue(path, tiny_directory)
        load_catalogue(path, tiny_directory, verify=False)
        assert damaged != content, name
    for short in (b"", content[:30], content[:-1], b"{}" * 40, content[:8] + b"[" + content[9:]):
        path.write_bytes(short)
        with pytest.raises(CatalogueError):
            load_catalogue(path, tiny_directory)
    with pytest.raises(CatalogueError, match="No such file"):
        load_catalogue(tmp_path / "absent", tiny_directory)


@pytest.mark.parametrize(
    ("field", "value"),
    [("shape", ["a", 1, 64]), ("shape", [-1, 1, 64]), ("reader", 5), ("prompt", ["a"])],
)
def test_a_header_of_wrong_types_is_refused(
    field: str,
    value: Any,
    tmp_path: Path,
    tiny_directory: ModelDirectory,
    origin: CatalogueOrigin,
) -> None:
    path = write(tmp_path / "catalogue", origin)
    content = path.read_bytes()
    stop = 8 + int.from_bytes(content[:8], "little")
    header = json.loads(content[8:stop])
    header["vectors" if field == "shape" else "__metadata__"][field] = value
    changed = json.dumps(header).encode()
    path.write_bytes(len(changed).to_bytes(8, "little") + changed + content[stop:])
    with pytest.raises(CatalogueError, match="no catalogue"):
        load_catalogue(path, tiny_directory)


def test_names_must_be_as_many_as_entries(
    tmp_path: Path, tiny_directory: ModelDirectory, origin: CatalogueOrigin
) -> None:
    path = write(tmp_path / "catalogue", origin, ["a", "a", "b"])
    with pytest.raises(CatalogueError, match="2 names for 3 entries"):
        load_catalogue(path, tiny_directory)


def test_another_safetensors_file_is_no_catalogue(tiny_directory: ModelDirectory) -> None:
    with pytest.raises(CatalogueError, match=r"cannot be read|no catalogue"):
        load_catalogue(tiny_directory.path / "model.safetensors", tiny_directory)


def test_too_few_vectors_are_not_written(tmp_path: Path, origin: CatalogueOrigin) -> None:
    with pytest.raises(CatalogueError, match="got 256 bytes of vectors, not 768"):
        write_catalogue(tmp_path / "catalogue", origin, IDS, [bytes(256)])
    assert not (tmp_path / "catalogue").exists()


def test_an_entry_is_looked_up_for_its_prompt_alone(
    tmp_path: Path, tiny_directory: ModelDirectory, origin: CatalogueOrigin
) -> None:
    catalogue = load_catalogue(write(tmp_path / "catalogue", origin), tiny_directory)
    with pytest.raises(StoredCandidateError, match="'job-18' is none of the catalogue's 3 entries"):
        catalogue.token_ids("job-18", PROMPT)
    with pytest.raises(StoredCandidateError, match="for prompt 'member_to_jobs', not for"):
        catalogue.token_ids("job-17", "job_to_members")


def test_ids_are_read_in_order(tmp_path: Path, origin: CatalogueOrigin) -> None:
    assert read_ids(write(tmp_path / "catalogue", origin)) == IDS
    assert json.dumps(read_ids(write(tmp_path / "none", origin, []))) == "[]"

"""The device of a stage: what is asked for, what is there, and what a card says of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch

from compress.stages.stage import (
    RecipeError,
    StageError,
    StageInput,
    device_of,
    directory_digest,
    lineage_entry,
)


@dataclass(frozen=True)
class _Options:
    steps: int = 1


def _given(data: Path) -> StageInput:
    return StageInput(None, data, data / "out", data / "work", seed=1, threads=2)


def _has_gpu(monkeypatch: pytest.MonkeyPatch, there: bool) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: there)


def test_a_gpu_that_is_not_there_is_refused_and_auto_takes_the_cpu(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    _has_gpu(monkeypatch, False)
    assert device_of("cpu").type == device_of("auto").type == "cpu"
    with pytest.raises(RecipeError, match="set it to auto or cpu"):
        device_of("cuda")
    with pytest.raises(RecipeError, match="use one of cpu, cuda, auto"):
        device_of("gpu")


def test_each_process_of_torchrun_has_its_own_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    _has_gpu(monkeypatch, True)
    monkeypatch.setenv("LOCAL_RANK", "3")
    assert device_of("auto") == device_of("cuda") == torch.device("cuda", 3)
    assert device_of("cpu").type == "cpu"


def test_only_a_gpu_is_worth_other_processes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.cpu_count", lambda: 8)
    assert _given(tmp_path).workers == 0
    assert replace(_given(tmp_path), device=torch.device("cuda")).workers == 6


def test_a_card_names_a_device_that_is_no_cpu(tmp_path: Path) -> None:
    assert "device" not in lineage_entry("x", _given(tmp_path), _Options())
    elsewhere = replace(_given(tmp_path), device=torch.device("cuda", 0))
    assert lineage_entry("x", elsewhere, _Options())["device"] == "cuda"


def _tasks(data: Path) -> Path:
    return data / "tasks.csv.gz"


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda data: _tasks(data).write_bytes(b"two"), "tasks"),
        (lambda data: (data / "new.csv.gz").write_bytes(b"two"), "new"),
        (lambda data: _tasks(data).unlink(), "tasks"),
    ],
    ids=["changed", "added", "removed"],
)
def test_a_card_never_names_data_that_changed_under_the_stage(
    tmp_path: Path, change: Callable[[Path], object], named: str
) -> None:
    _tasks(tmp_path).write_bytes(b"one")
    given, before = _given(tmp_path), directory_digest(tmp_path)
    (tmp_path / "notes.txt").write_text("not read by any stage")
    assert lineage_entry("x", given, _Options())["data"] == before
    change(tmp_path)
    said = f"put it back as it was, remove {given.work} and .*, or .* remove all of OUT.work and"
    for begun in (given, replace(given, seed=2)):  # the latter as a stage of several steps does
        with pytest.raises(StageError, match=rf"{named}\.csv\.gz changed while .*; {said}"):
            lineage_entry("x", begun, _Options())
    again = lineage_entry("x", _given(tmp_path), _Options())
    assert again["data"] == directory_digest(tmp_path) != before

"""Starts that cannot succeed end before any process is started."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import kernels
from service.base.config import Settings, SettingsError
from service.preflight import ForeignPackageError, check_packages, check_start, try_engine


def take_the_template(directory: Path) -> None:
    card = directory / "model_card.json"
    content = json.loads(card.read_text())
    del content["prompts"]
    card.write_text(json.dumps(content))


def take_the_tokenizer(directory: Path) -> None:
    (directory / "tokenizer.json").unlink()


def damage_the_weights(directory: Path) -> None:
    weights = directory / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"!")


@pytest.fixture
def model(tmp_path: Path, tiny_model_dir: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    copy = Path(shutil.copytree(tiny_model_dir, tmp_path / "model"))
    monkeypatch.setenv("FAIRSLATE_MODEL", str(copy))
    return copy


@pytest.mark.parametrize(
    ("damage", "named"),
    [
        (damage_the_weights, "model.safetensors"),
        (take_the_template, "model_card.json"),
        (take_the_tokenizer, "tokenizer.json"),
    ],
)
def test_damaged_model_directory_is_named(
    model: Path, damage: Callable[[Path], None], named: str
) -> None:
    check_start()
    damage(model)
    with pytest.raises(SystemExit, match=f"refuses to start: FAIRSLATE_MODEL: {model / named}"):
        check_start()


def test_mistyped_setting_and_missing_tenants_end_the_start(
    model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAIRSLATE_TENANTS_FILE", str(model / "none.yaml"))
    with pytest.raises(SystemExit, match=r"none\.yaml"):
        check_start()
    monkeypatch.setenv("FAIRSLATE_QUANTUN", "1")
    with pytest.raises(SystemExit, match="did you mean FAIRSLATE_QUANTUM"):
        check_start()


def test_foreign_package_is_named() -> None:
    check_packages(kernels)
    with pytest.raises(ForeignPackageError, match="package json was found"):
        check_packages(json)


def test_an_engine_is_tried_where_its_type_is_named_and_only_there(
    tiny_model_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried = []
    run = subprocess.run

    def counted(command: list[str], **options: Any) -> subprocess.CompletedProcess[str]:
        tried.append(command)
        return run(command, **options)

    monkeypatch.setattr(subprocess, "run", counted)
    monkeypatch.setenv("FAIRSLATE_MODEL", str(tiny_model_dir))
    try_engine(Settings())
    assert not tried
    monkeypatch.setenv("FAIRSLATE_DTYPE", "float32")
    try_engine(Settings(dtype="float32"))
    assert len(tried) == 1
    monkeypatch.setenv("FAIRSLATE_CATALOGUE", "/no/such/catalogue")
    with pytest.raises(SettingsError, match=r"as the settings ask: .*such"):
        try_engine(Settings(dtype="float32"))

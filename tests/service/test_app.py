"""Starts that cannot succeed end before any process is started."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import kernels
from service.app import check_start
from service.processes import ForeignPackageError, check_packages


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
    with pytest.raises(SystemExit, match=f"refuses to start: {model / named}"):
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


@pytest.mark.parametrize(("disabled", "recording"), [("", False), ("false", True)])
def test_spans_are_recorded_only_for_who_asks(disabled: str, recording: bool) -> None:
    program = (
        "import service.app\n"
        "from bentoml._internal.configuration.containers import BentoMLContainer\n"
        "tracer = BentoMLContainer.tracer_provider.get().get_tracer('test')\n"
        "print(tracer.start_span('span').is_recording())"
    )
    environment = {k: v for k, v in os.environ.items() if k != "OTEL_SDK_DISABLED"}
    environment |= {"OTEL_SDK_DISABLED": disabled} if disabled else {}
    command = [sys.executable, "-c", program]
    run = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert run.stdout == f"{recording}\n"

"""What both kinds of process start alike. Knows no server."""

from __future__ import annotations

import gc
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from models.errors import ModelDirectoryError
from service.config import Settings, SettingsError
from service.processes import (
    FORCED_PASS_SECONDS,
    IDLE_PASS_SECONDS,
    IDLE_REQUESTS,
    Housekeeper,
    open_reasoner,
    try_engine,
)


def test_what_lives_at_the_start_is_exempt_from_garbage_collection() -> None:
    program = (
        "import gc\n"
        "from service.processes import Housekeeper, spare_collector\n"
        "before = gc.get_threshold()\n"
        "spare_collector()\n"
        "print(len(gc.get_objects()) < 1_000 < gc.get_freeze_count())\n"
        "print(gc.get_threshold() == before)\n"
        "Housekeeper().take_over()\n"
        "print(gc.get_threshold()[:2] == before[:2], gc.get_threshold()[2])"
    )
    run = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert run.stdout == "True\nTrue\nTrue 1000000\n"
    assert gc.get_freeze_count() == 0  # this process still collects its own


def test_a_full_pass_waits_for_few_requests_but_not_for_ever() -> None:
    now = [0.0]
    housekeeper = Housekeeper(lambda: now[0])
    assert not housekeeper.tidy(0)
    now[0] = IDLE_PASS_SECONDS
    assert not housekeeper.tidy(IDLE_REQUESTS + 1)
    assert housekeeper.tidy(IDLE_REQUESTS)
    assert not housekeeper.tidy(0)
    now[0] += FORCED_PASS_SECONDS
    assert housekeeper.tidy(10**6)


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


def test_a_ranker_is_no_reasoner() -> None:
    with pytest.raises(ModelDirectoryError, match=r"FAIRSLATE_REASONER=models/demo is no reasoner"):
        open_reasoner(Settings(reasoner="models/demo"))
    assert open_reasoner(Settings(reasoner="")) is None

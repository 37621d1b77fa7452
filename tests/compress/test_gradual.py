"""Gradual pruning: what each step takes, recovery after each, and going on after a kill."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from compress import distill
from compress.gradual import GradualOptions, run
from compress.stage import RecipeError, StageInput, parse_options
from models.checkpoint import load_model_directory
from tests.compress.slate_data import stage_input, write_slates

PRUNE = {"mlp_share": 0.5, "kv_share": 0.5, "multiple": 16, "slates": 12, "candidates": 10}
RECOVER = {
    "phases": [{"steps": 2}], "slates_of": "requests", "batch": 2, "candidates": 4, "warmup": 1,
}  # fmt: skip
OPTIONS = {"prune": PRUNE, "recover": RECOVER, "steps": 2}


def test_every_step_takes_as_much() -> None:
    options = GradualOptions(prune={"mlp_share": 0.6}, recover=RECOVER, steps=3)
    left = 1.0
    for expected, step in zip((0.8, 0.6, 0.4), options.prune_options(), strict=True):
        left *= 1 - step["mlp_share"]
        assert left == pytest.approx(expected)
        assert step["kv_share"] == 0


@pytest.mark.long
def test_steps_are_pruned_and_recovered_in_turn_and_resumed(
    tiny_model_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = write_slates(tmp_path / "data")
    run(stage_input(tiny_model_dir, data, tmp_path / "straight"), OPTIONS)
    whole = load_model_directory(tmp_path / "straight")
    stages = [entry["stage"] for entry in whole.card.lineage["stages"]]
    assert stages == ["prune", "distill"] * 2
    assert (whole.config.intermediate_size, whole.config.num_key_value_heads) == (48, 1)

    calls: list[str] = []

    def dying(stage: StageInput, options: Mapping[str, Any]) -> None:
        calls.append(stage.work.name)
        if len(calls) == 2:
            raise KeyboardInterrupt
        distill_run(stage, options)

    distill_run = distill.run
    monkeypatch.setattr(distill, "run", dying)
    again = stage_input(tiny_model_dir, data, tmp_path / "resumed")
    with pytest.raises(KeyboardInterrupt):
        run(again, OPTIONS)
    assert not again.out.exists()
    run(again, OPTIONS)
    assert calls == ["1-recovered.state", "2-recovered.state", "2-recovered.state"]
    assert load_model_directory(again.out).digest == whole.digest


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"steps": 0}, "at least 1"),
        ({"prune": {"drop_layers": 1}}, "dropped at once"),
        ({"prune": {"width": 1}}, "options are"),
        ({"recover": {"phases": []}}, "phases is empty"),
    ],
)
def test_wrong_options_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        parse_options(GradualOptions, OPTIONS | options)

"""Kept training figures: how they follow from their arms, and that damaged files are refused."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from compress.benches.kept_runs import RUNS, KeptRun, KeptRunError, read_runs

RUN: dict[str, Any] = {
    "figure": "kd_minus_sft_auc",
    "metric": "auc",
    "split": "test",
    "data": "sha256:0",
    "arms": {"kd": 0.9, "sft": 0.88},
    "low": 0.01,
    "high": 0.03,
    "manifest": {},
    "machine": "any",
    "note": "equal steps",
}


def _keep(folder: Path, **changes: Any) -> Path:
    (folder / "run.json").write_text(json.dumps(RUN | changes))
    return folder


def test_a_run_is_read_as_it_was_kept(tmp_path: Path) -> None:
    (run,) = read_runs(_keep(tmp_path))
    assert asdict(run) == RUN
    assert run.value == pytest.approx(0.02)
    assert run.met


@pytest.mark.parametrize(
    ("figure", "arms", "low", "value", "met"),
    [
        ("kd_minus_sft_auc", {"kd": 0.9, "sft": 0.88}, -0.001, 0.02, False),
        ("recovered_share", {"dense": 0.9, "pruned": 0.8, "recovered": 0.895}, 0, 0.95, True),
        ("recovered_share", {"dense": 0.9, "pruned": 0.8, "recovered": 0.88}, 0, 0.8, False),
        (
            "allocated_recovered_share",
            {"dense": 0.9, "pruned": 0.8, "allocated": 0.895},
            0,
            0.95,
            True,
        ),
        ("gradual_minus_oneshot", {"gradual": 0.9, "oneshot": 0.9}, -0.1, 0.0, True),
        ("gradual_minus_oneshot", {"gradual": 0.89, "oneshot": 0.9}, -0.1, -0.01, False),
    ],
)
def test_a_figure_follows_from_its_arms(
    figure: str, arms: dict[str, float], low: float, value: float, met: bool
) -> None:
    run = KeptRun(**(RUN | {"figure": figure, "arms": arms, "low": low}))
    assert run.value == pytest.approx(value)
    assert run.met is met


@pytest.mark.parametrize(
    "changes", [{"figure": "speed"}, {"arms": {"kd": 0.9}}, {"colour": "red"}, {"figure": None}]
)
def test_what_is_no_run_is_refused(tmp_path: Path, changes: dict[str, Any]) -> None:
    with pytest.raises(KeptRunError):
        read_runs(_keep(tmp_path, **changes))


def test_the_runs_that_are_kept_are_readable() -> None:
    for run in read_runs(RUNS):
        assert run.low <= run.high
        assert set(run.manifest) >= set(run.arms)


def test_a_share_of_no_loss_is_refused(tmp_path: Path) -> None:
    arms = {"dense": 0.8, "pruned": 0.8, "recovered": 0.8}
    (run,) = read_runs(_keep(tmp_path, figure="recovered_share", arms=arms))
    with pytest.raises(KeptRunError, match="lost nothing"):
        _ = run.value

"""Gradual pruning: what each step takes, recovery after each, and going on after a kill."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from compress.distillation import distill
from compress.pruning.budgets import Budget, uniform_budget
from compress.pruning.gradual import GradualOptions, finished, run
from compress.stages import parallel
from compress.stages.stage import RecipeError, StageInput, parse_options
from models.checkpoint import load_model_directory
from models.config import DecoderConfig
from tests.compress.slate_data import stage_input, write_slates

PRUNE = {"mlp_share": 0.5, "kv_share": 0.5, "multiple": 16, "slates": 12, "candidates": 10}
RECOVER = {
    "phases": [{"steps": 2}], "slates_of": "requests", "batch": 2, "candidates": 4, "warmup": 1,
}  # fmt: skip
OPTIONS = {"prune": PRUNE, "recover": RECOVER, "steps": 2}


@pytest.mark.parametrize(
    ("share", "multiple", "kept"),
    [(0.6, 1, (80, 60, 40)), (0.5, 16, (96, 80, 64)), (0.5, 32, (96, 96, 64)), (0, 32, (100,) * 3)],
)
def test_steps_end_where_one_step_would(share: float, multiple: int, kept: tuple[int, ...]) -> None:
    given = {"mlp_share": share, "kv_share": 0.5, "multiple": multiple}
    config = DecoderConfig(400, 64, 100, 2, 8, 4, 16)
    options = GradualOptions(prune=given, recover=RECOVER, steps=3)
    for expected, groups, step in zip(kept, (4, 3, 2), options.prune_options(config), strict=True):
        budget = uniform_budget(config, step["mlp_share"], step["kv_share"], multiple)
        assert step["fit_to"] == "teacher"
        assert budget == Budget(expected, groups)
        config = replace(
            config, intermediate_size=budget.neurons, num_key_value_heads=budget.kv_groups
        )


def test_cuts_may_fall() -> None:
    config = DecoderConfig(400, 64, 128, 2, 8, 4, 16)
    given = {"mlp_share": 0.75, "multiple": 4}
    options = GradualOptions(prune=given, recover=RECOVER, steps=3, cuts="falling")
    left = [config.intermediate_size]
    for step in options.prune_options(config):
        left.append(round(left[-1] * (1 - step["mlp_share"])))
    assert left == [128, 64, 36, 32]


@pytest.mark.parametrize(
    ("portions", "each"),
    [
        ((), (10, 10, 10)),
        ((1, 1, 4), (5, 5, 20)),
        ((1, 1, 5), (4, 5, 21)),
        ((0.5, 1, 1), (6, 12, 12)),
    ],
)
def test_portions_share_out_the_steps_of_all_recoveries(
    portions: tuple[float, ...], each: tuple[int, ...]
) -> None:
    recover = {"phases": [{"steps": 10}, {"steps": 30}], "batch": 4}
    options = GradualOptions(prune=PRUNE, recover=recover, steps=3, portions=portions)
    given = list(options.recover_options())
    assert tuple(one["phases"][0]["steps"] for one in given) == each
    assert sum(one["phases"][1]["steps"] for one in given) == 90
    assert all(one["batch"] == 4 for one in given)
    schedules = [distill.STAGE.parse(one).schedule for one in given]
    assert [schedule.before for schedule in schedules] == [
        sum(one.steps for one in schedules[:number]) for number in range(3)
    ]
    assert {one.before + one.steps + one.after for one in schedules} == {120}


@pytest.mark.long
def test_steps_are_pruned_and_recovered_in_turn_and_resumed(
    tiny_model_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = write_slates(tmp_path / "data")
    run(stage_input(tiny_model_dir, data, tmp_path / "straight"), OPTIONS)
    whole = load_model_directory(tmp_path / "straight")
    stages = [(entry["stage"], entry["seed"]) for entry in whole.card.lineage["stages"]]
    assert stages == [("prune", 5), ("distill", 5), ("prune", 1005), ("distill", 1005)]
    assert (whole.config.intermediate_size, whole.config.num_key_value_heads) == (48, 1)
    came_in = load_model_directory(tiny_model_dir).digest
    assert all(entry["teachers"] == [came_in] for entry in whole.card.lineage["stages"])

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


@pytest.mark.parametrize("of_first", [True, False])
def test_the_first_process_decides_which_half_steps_are_finished(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, of_first: bool
) -> None:
    theirs, own = tmp_path / "work" / "1-pruned", tmp_path / "work.rank1" / "1-pruned"
    (own if not of_first else theirs).mkdir(parents=True)
    answers: list[Any] = [theirs, theirs.exists(), None]
    monkeypatch.setattr(parallel, "first", lambda function: answers.pop(0))
    stage = replace(stage_input(tmp_path, tmp_path, tmp_path / "out"), work=own.parent)
    ran: list[Path] = []
    found = finished(lambda given, options: ran.append(given.out), {}, stage, "1-pruned")
    assert found == theirs
    assert ran == ([] if of_first else [own.parent / "unfinished"])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"steps": 0}, "take 1 to 100"),
        ({"steps": 101}, "take 1 to 100"),
        ({"cuts": "late"}, "even, falling"),
        ({"portions": [1]}, "give 2 numbers"),
        ({"portions": [1, 0]}, "give 2 numbers"),
        ({"portions": [1, 1000]}, "without steps"),
        ({"portions": [1, float("nan")]}, "give 2 numbers"),
        ({"portions": [1, float("inf")]}, "give 2 numbers"),
        ({"portions": [1, True]}, "give 2 numbers"),
        ({"portions": [1, "1"]}, "give 2 numbers"),
        ({"prune": {"drop_layers": 1}}, "dropped at once"),
        ({"prune": {"allocation": "sensitivity"}}, "the same of each layer"),
        ({"prune": {"width": 1}}, "option 'width' is unknown; options are: mlp_share"),
        ({"recover": {"phases": []}}, "phases is empty"),
    ],
)
def test_wrong_options_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        parse_options(GradualOptions, OPTIONS | options)

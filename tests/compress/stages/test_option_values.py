"""Options of a wrong type: refused by name and value before a stage starts."""

from __future__ import annotations

import importlib
from typing import Any

import pytest

from compress.pruning.prune_options import PruneOptions
from compress.recipes.recipe import STAGES
from compress.stages.stage import RecipeError, parse_options
from compress.students.train import TrainOptions


@pytest.mark.parametrize(
    "wrong",
    [
        {"steps": "500"},
        {"steps": 1.5},
        {"steps": True},
        {"steps": None},
        {"steps": 0},
        {"steps": -1},
        {"steps": 2**63},
        {"checkpoint_every": 0},
        {"rate": "1e-4"},  # what YAML 1.1 makes of 1e-4
        {"rate": float("nan")},
        {"rate": float("inf")},
        {"rate": [1]},
    ],
    ids=str,
)
def test_a_value_of_another_type_is_refused_by_name(wrong: dict[str, Any]) -> None:
    (name,) = wrong
    with pytest.raises(RecipeError, match=f"{name} is "):
        parse_options(TrainOptions, wrong)


def test_a_flag_is_true_or_false_alone() -> None:
    with pytest.raises(RecipeError, match="force is 'no'; write true or false"):
        parse_options(PruneOptions, {"force": "no"})


def test_a_whole_number_stands_for_a_fraction_and_null_for_what_may_be_absent() -> None:
    assert parse_options(TrainOptions, {"rate": 1}).rate == 1
    embed = importlib.import_module(STAGES["embed_items"]).STAGE
    assert embed.parse({"prompt": None}).prompt is None


@pytest.mark.parametrize("stage", sorted(STAGES))
@pytest.mark.parametrize("options", [None, 5, "x", []], ids=str)
def test_options_that_are_no_names_with_values_are_refused(stage: str, options: Any) -> None:
    with pytest.raises(RecipeError, match="name: value"):
        importlib.import_module(STAGES[stage]).STAGE.parse(options)


@pytest.mark.parametrize("name", ["phases", "teachers"])
def test_one_phase_without_its_list_is_refused(name: str) -> None:
    distill = importlib.import_module(STAGES["distill"]).STAGE
    with pytest.raises(RecipeError, match=f"{name} is 5; write a list"):
        distill.parse({"phases": [{"steps": 2}], name: 5})

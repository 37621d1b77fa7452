"""Options of a wrong type: refused by name and value before a stage starts."""

from __future__ import annotations

import importlib
from dataclasses import MISSING, fields
from typing import Any

import pytest

from compress.pruning.prune_options import PruneOptions
from compress.recipes.recipe import STAGES
from compress.stages.stage import RecipeError, parse_options
from compress.students.train import TrainOptions

PHASES = {"phases": [{"steps": 1}]}
REQUIRED: dict[str, dict[str, Any]] = {
    "encoder_teacher": {"encoder": "somewhere"},
    "distill": PHASES,
    "recover": PHASES,
    "gradual": {"recover": PHASES},
}


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
        {"rate": 0},
        {"rate": -1},
        {"embedding_rate": -1.0},
        {"steps_per_world": 0},
        {"token_dropout": 5},
        {"token_dropout": -1},
        {"inverted_share": 1.5},
        {"inverted_share": -0.5},
        {"trained_share": 0},
        {"trained_share": 1.5},
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
def test_every_default_may_be_written(stage: str) -> None:
    kind = importlib.import_module(STAGES[stage]).STAGE
    known = fields(kind.options)
    defaults = {item.name: item.default for item in known if item.default is not MISSING}
    defaults.pop("teachers", None)  # made of its parts, and written as those
    needed = REQUIRED.get(stage, {})
    assert kind.parse(needed | defaults) == kind.parse(needed)


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


@pytest.mark.parametrize(
    ("stage", "wrong", "said"),
    [
        ("lexicon", {"layers": 0}, "layers is 0; write 1 or more"),
        ("lexicon", {"layers": 10**9}, "layers is 1000000000; write at most 1024"),
        ("lexicon", {"heads": 3000}, "3000 heads are wired as pairs"),
        ("lexicon", {"heads": 3}, "3 heads are wired as pairs"),
        ("lexicon", {"intermediate_size": 1}, "intermediate_size of at least 256"),
        ("lexicon", {"kv_heads": 0}, "4 heads do not divide among 0 kv_heads"),
        ("lexicon", {"kv_heads": 3}, "4 heads do not divide among 3 kv_heads"),
        ("start", {"kv_heads": 0}, "2 heads do not divide among 0 kv_heads"),
        ("reasoner", {"heads": 0}, "0 heads do not divide among 4 kv_heads"),
        ("imitate", {"layers": 1}, "layers is 1; use 2 or more"),
        ("imitate", {"chunk": 0}, "chunk is 0; write 1 or more"),
        ("imitate", {"trained_share": 0}, "trained_share is 0; write more than 0, and up to 1"),
        ("imitate", {"bag_rate": -1}, "bag_rate is -1; write more than 0"),
        ("embed_items", {"inner": 10**9}, "inner is 1000000000; write at most 262144"),
        ("quantize", {"scheme": "w4a16", "group_size": 0}, "group_size is 0; write 1 or more"),
        ("calibrate", {"heads": {"score": 3}}, "is no data directory by name of a head"),
        ("calibrate", {"tenants": {"a": {"score": 3}}}, "is no data directory by name of a head"),
        ("calibrate", {"tenants": {"a": "data"}}, "is no data directory by name of a head"),
        ("prune", {"mlp_shar": 0.5}, "option 'mlp_shar' is unknown; options are: mlp_share, kv"),
        ("prune", {5: 0.5}, "option 5 is unknown; options are: mlp_share"),
        ("encoder_teacher", {}, "option 'encoder' is missing; options are: encoder, tower_steps"),
        ("encoder_teacher", {"encoder": "x", "dropout": 2}, "dropout is 2; write 0 to 1"),
        ("distill", {"phases": [{"steps": 1}], "token_dropout": 1.5}, "token_dropout is 1.5"),
        ("distill", {"phases": [{"steps": 1}], "wired_rate": -1}, "wired_rate is -1; write 0 or"),
        (
            "distill",
            {"phases": [{"steps": 1}], "teachers": [{"cache": True}]},
            "a cache holds answers on recorded requests",
        ),
        (
            "distill",
            {"phases": [{"steps": 1}], "task": "text", "teachers": [{"cache": True}]},
            "a cache holds answers on a file of examples",
        ),
    ],
    ids=str,
)
def test_what_no_stage_could_run_with_is_refused_at_once(
    stage: str, wrong: dict[Any, Any], said: str
) -> None:
    with pytest.raises(RecipeError, match=said):
        importlib.import_module(STAGES[stage]).STAGE.parse(wrong)


def test_what_a_part_keeps_or_starts_from_may_be_nothing() -> None:
    assert parse_options(TrainOptions, {"embedding_rate": 0.0, "token_dropout": 0}).warmup
    frozen = {"phases": [{"steps": 1}], "wired_rate": 0.0, "embedding_rate": 0}
    assert importlib.import_module(STAGES["distill"]).STAGE.parse(frozen).wired_rate == 0

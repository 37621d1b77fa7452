"""The pruning stage: what it writes, what it refuses, and that its choices beat plain ones."""

from __future__ import annotations

import copy
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from compress.decoders.slates import SlateBatch
from compress.decoders.wiring import layers_of
from compress.distillation.teachers import TeacherError
from compress.layers.gram import CalibrationDataError
from compress.layers.streaming import ATTENTION, MLP, Streams
from compress.pruning.budgets import Budget, BudgetError
from compress.pruning.prune import prune_decoder, run
from compress.pruning.prune_options import AIMS
from compress.pruning.sensitivity import Scores, least_needed_layers, without_layers
from compress.pruning.slicing import LayerCut, mask
from compress.stages.stage import RecipeError
from models.card import read_card, write_card
from models.checkpoint import load_decoder, load_model_directory
from models.directory import ModelDirectory
from tests.compress.pruning.small_prunes import SMALL, pruned
from tests.compress.slate_data import stage_input


def test_the_stage_writes_a_smaller_model_that_transformers_loads(
    tiny_model_dir: Path, data: Path, tmp_path: Path
) -> None:
    found = pruned(tiny_model_dir, data, tmp_path / "out", mlp_share=0.5, kv_share=0.5)
    config = found.config
    assert (config.intermediate_size, config.num_attention_heads, config.num_key_value_heads) == (
        (48, 2, 1)
    )
    logits = AutoModelForCausalLM.from_pretrained(found.path)(torch.arange(9)[None]).logits
    assert logits.isfinite().all()
    report = found.card.metrics["prune"]
    assert report["kept"] == [{"neurons": 48, "kv_groups": 1}] * 2
    assert all(0 < error < 1 for error in report["errors"].values())
    assert found.card.lineage["stages"][-1]["stage"] == "prune"


def test_what_its_source_reached_on_test_is_not_said_of_it(
    tiny_model_dir: Path, data: Path, tmp_path: Path
) -> None:
    source = tmp_path / "source"
    shutil.copytree(tiny_model_dir, source)
    card = read_card(source)
    write_card(source, replace(card, metrics={"test": {"gauc": 0.9}, "earlier": {"gauc": 0.8}}))
    found = pruned(source, data, tmp_path / "out")
    assert sorted(found.card.metrics) == ["earlier", "prune"]


def test_the_same_seed_writes_the_same_model(
    tiny_model_dir: Path, data: Path, tmp_path: Path
) -> None:
    first, second = (pruned(tiny_model_dir, data, tmp_path / name) for name in ("a", "b"))
    assert first.digest == second.digest


def test_fitted_weights_lose_less_than_the_same_parts_cut_off(
    tiny_directory: ModelDirectory, slates: list[SlateBatch], tmp_path: Path
) -> None:
    dense = load_decoder(tiny_directory)
    scores = Scores.of(dense, slates, tiny_directory.prompt.heads)
    fitted, cut_off = copy.deepcopy(dense), copy.deepcopy(dense)
    with Streams(slates, tmp_path, fitted, dense) as streams:
        cuts, _ = prune_decoder(fitted, dense, streams, [Budget(48, 1)] * 2, ridge=0.01, swap=4)
    for cut in cuts:
        mask(cut_off, cut)
    assert scores.loss(fitted) < 0.8 * scores.loss(cut_off)


def test_cross_moments_beat_moments_of_the_pruned_inputs_alone(
    tiny_directory: ModelDirectory, slates: list[SlateBatch], tmp_path: Path
) -> None:
    dense = load_decoder(tiny_directory)
    scores = Scores.of(dense, slates, tiny_directory.prompt.heads)
    losses = []
    for twin in (dense, None):
        changed = copy.deepcopy(dense)
        with Streams(slates, tmp_path, changed, twin) as streams:
            prune_decoder(
                changed, twin or changed, streams, [Budget(40, 1)] * 2, ridge=0.01, swap=4
            )
        losses.append(scores.loss(changed))
    assert losses[0] < losses[1]


def test_a_second_cut_loses_less_where_it_aims_at_the_dense_model(
    tiny_model_dir: Path, data: Path, slates: list[SlateBatch], tmp_path: Path
) -> None:
    dense = load_model_directory(tiny_model_dir)
    scores = Scores.of(load_decoder(dense), slates, dense.prompt.heads)
    first = pruned(tiny_model_dir, data, tmp_path / "first", mlp_share=0.5, kv_share=0.5).path
    losses = []
    for aim in AIMS:
        stage = replace(stage_input(first, data, tmp_path / aim), teacher=tiny_model_dir)
        run(stage, SMALL | {"mlp_share": 0.5, "fit_to": aim})
        found = load_model_directory(tmp_path / aim)
        losses.append(scores.loss(load_decoder(found)))
        taught_by = found.card.lineage["stages"][-1].get("teachers")
        assert taught_by == (None if aim == "source" else [dense.digest])
    assert losses[1] < losses[0]


def test_a_teacher_of_other_words_is_not_aimed_at(
    tiny_model_dir: Path, data: Path, tmp_path: Path
) -> None:
    other = tmp_path / "other"
    shutil.copytree(tiny_model_dir, other)
    tokenizer = other / "tokenizer.json"
    tokenizer.write_text(tokenizer.read_text("utf-8") + " ", encoding="utf-8")
    write_card(other, read_card(other, verify=False))
    stage = replace(stage_input(tiny_model_dir, data, tmp_path / "out"), teacher=other)
    with pytest.raises(TeacherError, match="tokeniz"):
        run(stage, SMALL | {"fit_to": "teacher"})
    assert not stage.out.exists()


def test_the_layer_that_does_nothing_is_the_one_to_drop(
    tiny_directory: ModelDirectory, slates: list[SlateBatch]
) -> None:
    decoder = load_decoder(tiny_directory)
    idle = layers_of(decoder)[1]
    idle.self_attn.o_proj.weight.zero_()
    idle.mlp.down_proj.weight.zero_()
    scores = Scores.of(decoder, slates, tiny_directory.prompt.heads)
    assert least_needed_layers(decoder, scores, 1) == [1]
    assert scores.loss(without_layers(decoder, [0])) < 1e-9


def test_a_dropped_layer_leaves_the_directory(
    tiny_model_dir: Path, data: Path, tmp_path: Path
) -> None:
    found = pruned(tiny_model_dir, data, tmp_path / "out", mlp_share=0, drop_layers=1)
    assert (found.config.num_hidden_layers, found.config.intermediate_size) == (1, 96)
    assert len(found.card.metrics["prune"]["dropped_layers"]) == 1


def test_what_cannot_be_done_is_refused_before_anything_is_written(
    tiny_model_dir: Path, data: Path, tmp_path: Path
) -> None:
    refused: list[tuple[dict[str, Any], type[Exception], str]] = [
        ({"mlp_share": 0.75}, BudgetError, "would go at once"),
        ({"drop_layers": 2}, RecipeError, "one must stay; drop fewer$"),
        ({"drop_layers": 2, "force": True}, RecipeError, "one must stay; drop fewer$"),
        ({"drop_layers": 1, "most": 0.4}, RecipeError, "or raise most"),
        ({"allocation": "random"}, RecipeError, "allocation"),
        ({"mlp_share": 1.0}, RecipeError, "shares of 0"),
        ({"slates": 99}, CalibrationDataError, "ask for fewer"),
        ({"slates": 1}, CalibrationDataError, "give more text"),
        ({"width": 3}, RecipeError, "options are"),
        ({"multiple": 0}, RecipeError, "1 or more"),
        ({"multiple": 96}, RecipeError, "takes none of 96 .* of 96; set it to 0, or lower"),
        ({"mlp_share": 0.05}, RecipeError, "mlp_share 0.05 takes none .* set it to 0.084 or mo"),
        ({"kv_share": 0.4}, RecipeError, "kv_share 0.4 takes none of 2 KV groups; set it to 0.5 "),
        ({"ridge": -1}, RecipeError, "0 or more"),
        ({"most": 2}, RecipeError, "0 to 1"),
        ({"split": "../data/valid"}, CalibrationDataError, "test stays unseen"),
        ({"fit_to": "teacher"}, RecipeError, "there is no model directory"),
        ({"fit_to": "truth"}, RecipeError, "use one of source, teacher"),
        ({"fit_to": "teacher", "drop_layers": 1}, RecipeError, "source where layers"),
    ]
    for options, error, message in refused:
        with pytest.raises(error, match=message):
            pruned(tiny_model_dir, data, tmp_path / "out", **options)
        assert not (tmp_path / "out").exists()


def test_inputs_that_repeat_each_other_are_pruned_with_a_ridge_and_refused_without(
    tiny_directory: ModelDirectory, slates: list[SlateBatch], tmp_path: Path
) -> None:
    decoder = load_decoder(tiny_directory)
    for layer in layers_of(decoder):
        for linear in (layer.mlp.gate_proj, layer.mlp.up_proj):
            linear.weight[1::2] = linear.weight[::2].clone()
    budgets = [Budget(48, 2)] * 2
    changed = copy.deepcopy(decoder)
    with Streams(slates, tmp_path, changed, decoder) as streams:
        cuts, errors = prune_decoder(changed, decoder, streams, budgets, ridge=1e-6, swap=4)
    assert max(errors.values()) < 1e-5  # one of each pair can stand for both
    assert [len({neuron // 2 for neuron in cut.neurons}) for cut in cuts] == [48, 48]
    with (
        Streams(slates, tmp_path, copy.deepcopy(decoder), decoder) as streams,
        pytest.raises(CalibrationDataError, match="larger ridge than 0"),
    ):
        prune_decoder(decoder, decoder, streams, budgets, ridge=0.0, swap=4)


@pytest.mark.parametrize("part", [ATTENTION, MLP])
def test_a_half_that_nothing_reaches_is_named(
    tiny_directory: ModelDirectory, slates: list[SlateBatch], tmp_path: Path, part: str
) -> None:
    """Rather than called singular, which no text and no ridge, a share of nothing, would mend."""
    decoder = load_decoder(tiny_directory)
    idle = layers_of(decoder)[1]
    (idle.mlp.up_proj if part == MLP else idle.self_attn.v_proj).weight.zero_()
    with (
        Streams(slates, tmp_path, decoder, copy.deepcopy(decoder)) as streams,
        pytest.raises(CalibrationDataError, match=r"nothing reaches .* layer 1: .*_share to 0"),
    ):
        prune_decoder(decoder, decoder, streams, [Budget(48, 1)] * 2, ridge=0.01, swap=4)


def test_a_whole_model_is_left_as_it_is(
    tiny_directory: ModelDirectory, slates: list[SlateBatch], tmp_path: Path
) -> None:
    decoder = load_decoder(tiny_directory)
    before = copy.deepcopy(decoder.state_dict())
    with Streams(slates, tmp_path, decoder, copy.deepcopy(decoder)) as streams:
        cuts, _ = prune_decoder(decoder, decoder, streams, [Budget(96, 2)] * 2, ridge=0.01, swap=4)
    assert cuts == [LayerCut.whole(decoder.config, layer) for layer in (0, 1)]
    assert all(torch.equal(before[name], tensor) for name, tensor in decoder.state_dict().items())

"""Where neurons stay, how wide that is stored, and that what is gone stays away."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from compress.decoders.slates import SlateBatch
from compress.decoders.wiring import layers_of
from compress.distillation import distill
from compress.layers.streaming import MLP, Half
from compress.pruning.latency import LatencyTable, measure_latency
from compress.pruning.prune import STAGE
from compress.pruning.prune_options import PruneOptions
from compress.pruning.sensitivity import Scores, width_losses
from compress.pruning.slicing import LayerCut, sliced
from compress.stages.costs import shape_of
from models.card import read_card
from models.checkpoint import load_decoder, load_model_directory, save_model_directory
from models.directory import ModelDirectory
from tests.compress.pruning.small_prunes import SMALL, pruned
from tests.compress.slate_data import stage_input


@pytest.fixture
def lazy_model_dir(tiny_model_dir: Path, tmp_path: Path) -> Path:
    """Of two layers, the first one's MLP does next to nothing."""
    lazy = tmp_path / "lazy"
    shutil.copytree(tiny_model_dir, lazy)
    decoder = load_decoder(load_model_directory(lazy))
    layers_of(decoder)[0].mlp.down_proj.weight.mul_(1e-3)
    save_model_directory(lazy, decoder, lazy / "tokenizer.json", read_card(lazy))
    return lazy


@pytest.mark.parametrize(
    "asked",
    [
        {"mlp_share": 0.5, "kv_share": 0.5, "drop_layers": 1},
        {"mlp_share": 0.25, "most": 0.75, "allocation": "weights"},
    ],
)
def test_its_size_is_known_before_it_starts(
    lazy_model_dir: Path, data: Path, tmp_path: Path, asked: dict[str, Any]
) -> None:
    options: dict[str, Any] = SMALL | asked
    found = pruned(lazy_model_dir, data, tmp_path / "out", **options)
    assert STAGE.cost is not None
    before = shape_of(load_model_directory(lazy_model_dir).config)
    planned = STAGE.cost(PruneOptions(**options), before).shape
    assert planned is not None
    left = before.layers - options.get("drop_layers", 0)
    assert (planned.layers, planned.mlp) == (left, shape_of(found.config).mlp)
    assert planned.parameters == pytest.approx(shape_of(found.config).parameters, rel=0.03)


def test_widths_go_where_the_loss_is_least(
    tiny_directory: ModelDirectory, slates: list[SlateBatch], tmp_path: Path
) -> None:
    decoder = load_decoder(tiny_directory)
    layers_of(decoder)[0].mlp.down_proj.weight.mul_(1e-3)
    scores = Scores.of(decoder, slates, tiny_directory.prompt.heads)
    sizes = {MLP: [48, 64, 96], "self_attn": [1, 2]}
    losses = width_losses(decoder, slates, scores, sizes, tmp_path, ridge=0.01)
    for by_size in losses.values():
        assert by_size[max(by_size)] == 0
        assert sorted(by_size.values(), reverse=True) == [by_size[size] for size in sorted(by_size)]
    assert losses[Half(0, MLP)][48] < 0.01 * losses[Half(1, MLP)][48]


def test_layers_of_different_widths_are_stored_at_the_widest(
    tiny_model_dir: Path, data: Path, tmp_path: Path
) -> None:
    work = tmp_path / "out.work"
    work.mkdir()
    sizes = range(48, 97, 8)
    table = LatencyTable({size: float(size) for size in sizes}, {1: 1.0, 2: 2.0})
    (work / "latency.json").write_text(json.dumps(table.to_json()))
    found = pruned(tiny_model_dir, data, tmp_path / "out", mlp_share=0.25, allocation="sensitivity")
    kept = [entry["neurons"] for entry in found.card.metrics["prune"]["kept"]]
    assert sum(kept) <= 144
    assert found.config.intermediate_size == max(kept)


def test_weights_stay_where_scores_need_them(
    lazy_model_dir: Path, data: Path, tmp_path: Path
) -> None:
    options: dict[str, Any] = {"mlp_share": 0.25, "most": 0.75, "allocation": "weights"}
    found = pruned(lazy_model_dir, data, tmp_path / "out", **options)
    kept = [entry["neurons"] for entry in found.card.metrics["prune"]["kept"]]
    assert kept == [48, 96]
    assert found.config.intermediate_size == 96
    assert not (tmp_path / "out.work" / "latency.json").exists()


@pytest.mark.parametrize("allocation", ["weights", "sensitivity"])
def test_neurons_do_not_pay_for_groups_where_none_may_go(
    tiny_model_dir: Path, data: Path, tmp_path: Path, allocation: str
) -> None:
    options: dict[str, Any] = {"mlp_share": 0, "kv_share": 0.5, "allocation": allocation}
    found = pruned(tiny_model_dir, data, tmp_path / "out", **options)
    assert [entry["neurons"] for entry in found.card.metrics["prune"]["kept"]] == [96, 96]


def test_neurons_that_are_gone_stay_away_in_training(
    tiny_model_dir: Path, data: Path, tmp_path: Path
) -> None:
    decoder = load_decoder(load_model_directory(tiny_model_dir))
    cuts = [LayerCut(0, tuple(range(40)), (0, 1)), LayerCut.whole(decoder.config, 1)]
    source, card = tmp_path / "source", read_card(tiny_model_dir)
    save_model_directory(source, sliced(decoder, cuts), tiny_model_dir / "tokenizer.json", card)
    options: dict[str, Any] = {"slates_of": "requests", "rate": 1e-2, "batch": 2, "candidates": 4}
    phases = [{"steps": 2, "soft_share": 0.0}]
    distill.run(stage_input(source, data, tmp_path / "out"), options | {"phases": phases})
    trained = load_decoder(load_model_directory(tmp_path / "out"))
    first, second = (layer.mlp for layer in layers_of(trained))
    assert not first.down_proj.weight[:, 40:].any()
    assert not first.gate_proj.weight[40:].any()
    assert not first.up_proj.weight[40:].any()
    before = layers_of(decoder)[1].mlp.down_proj.weight
    assert not torch.equal(second.down_proj.weight, before)


def test_times_are_measured_for_every_size(
    tiny_directory: ModelDirectory, slates: list[SlateBatch]
) -> None:
    table = measure_latency(tiny_directory.config, slates[0], [32, 96], [1, 2])
    assert 0 < table.mlp[32] <= table.mlp[96]
    assert 0 < table.attention[1] <= table.attention[2]
    assert LatencyTable.from_json(table.to_json()) == table

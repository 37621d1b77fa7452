"""The quantizing stage: directories that others read back, exact folds, and what it refuses."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from compress.decoders.slates import SlateBatch
from compress.decoders.wiring import layers_of
from compress.layers.gram import CalibrationDataError
from compress.layers.streaming import Streams
from compress.pruning.sensitivity import Scores
from compress.quantization.quantize import (
    QuantizeOptions,
    cache_scales,
    cost,
    quantize_decoder,
    run,
)
from compress.quantization.quantizers import QuantizerSettings, quantize_layer
from compress.stages.costs import shape_of
from compress.stages.stage import RecipeError
from models.checkpoint import load_decoder, load_model_directory
from models.directory import ModelDirectory
from models.quantization import INT, OUTLIERS, PACKED
from tests.compress.slate_data import stage_input

SMALL = {"slates": 12, "candidates": 10, "group_size": 16}
SCHEMES: dict[str, dict[str, Any]] = {
    "w8a8": {"scheme": "w8a8", "method": "gptq", "kv_cache": True},
    "w8a8 smooth": {"scheme": "w8a8", "smooth": 0.8},
    "w4a16": {"scheme": "w4a16", "group_size": 32},
    "fp8": {"scheme": "fp8", "method": "rtn"},
}


def stored(source: Path, data: Path, out: Path, **options: Any) -> ModelDirectory:
    run(stage_input(source, data, out), SMALL | options)
    return load_model_directory(out)


@pytest.mark.parametrize("name", SCHEMES)
def test_transformers_reads_the_same_weights(
    tiny_model_dir: Path, data: Path, tmp_path: Path, name: str
) -> None:
    pytest.importorskip("compressed_tensors")
    from transformers import AutoModelForCausalLM, CompressedTensorsConfig

    found = stored(tiny_model_dir, data, tmp_path / "out", **SCHEMES[name])
    dense = CompressedTensorsConfig(run_compressed=False)
    model = AutoModelForCausalLM.from_pretrained(
        found.path, quantization_config=dense, dtype=torch.float32
    )
    theirs, ours = model.state_dict(), load_decoder(found).state_dict()
    for weight, tensor in ours.items():
        torch.testing.assert_close(theirs[weight].float(), tensor, rtol=0, atol=1e-6)


@pytest.mark.parametrize("name", SCHEMES)
def test_scores_change_little(
    tiny_directory: ModelDirectory, data: Path, slates: list[SlateBatch], tmp_path: Path, name: str
) -> None:
    found = stored(tiny_directory.path, data, tmp_path / "out", **SCHEMES[name])
    scores = Scores.of(load_decoder(tiny_directory), slates, tiny_directory.prompt.heads)
    limit = {"w4a16": 0.1, "fp8": 0.01}.get(name, 1e-3)
    assert 0 < scores.loss(load_decoder(found)) < limit
    errors = found.card.metrics["quantize"]["layers"]
    assert len(errors) == 14
    assert all(0 < error < limit for error in errors.values())


def test_better_methods_lose_less(
    tiny_directory: ModelDirectory, slates: list[SlateBatch], tmp_path: Path
) -> None:
    errors = []
    for method in ("rtn", "gptq", "quantease"):
        decoder = load_decoder(tiny_directory)
        settings = QuantizerSettings(method, "w4a16", group_size=32)
        with Streams(slates, tmp_path, decoder) as streams:
            found = quantize_decoder(decoder, streams, settings, smooth=0)
        errors.append(sum(found.errors.values()))
    assert errors[0] > 1.5 * errors[1] > 1.5 * errors[2]


def test_outliers_lower_the_error_and_are_stored_beside(
    tiny_model_dir: Path, data: Path, tmp_path: Path
) -> None:
    plain, kept = (
        stored(tiny_model_dir, data, tmp_path / name, scheme="w4a16", outlier_share=share)
        for name, share in (("plain", 0.0), ("kept", 0.02))
    )
    forms = [one.config.quantization for one in (plain, kept)]
    assert [one and one.form for one in forms] == [PACKED, OUTLIERS]
    errors = [sum(one.card.metrics["quantize"]["layers"].values()) for one in (plain, kept)]
    assert errors[1] < 0.96 * errors[0]
    sizes = [(one.path / "model.safetensors").stat().st_size for one in (plain, kept)]
    weights = sum(
        math.ceil(0.02 * tensor.numel())
        for name, tensor in load_decoder(plain).state_dict().items()
        if "_proj" in name
    )
    assert sizes[1] - sizes[0] == pytest.approx(8 * weights, abs=14 * 256)  # and their headers


def test_the_smoothed_model_is_the_same_before_it_is_rounded(
    tiny_directory: ModelDirectory,
    slates: list[SlateBatch],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    decoder = load_decoder(tiny_directory)
    scores = Scores.of(decoder, slates, tiny_directory.prompt.heads)
    norms = [layer.input_layernorm.weight.clone() for layer in layers_of(decoder)]
    monkeypatch.setattr("compress.quantization.quantize._quantize_together", lambda *_: None)
    with Streams(slates, tmp_path, decoder) as streams:
        quantize_decoder(decoder, streams, QuantizerSettings(), smooth=0.8)
    assert scores.loss(decoder) < 1e-10
    assert not torch.allclose(norms[0], layers_of(decoder)[0].input_layernorm.weight)


def test_keys_and_values_fill_the_range_of_an_fp8_cache(
    tiny_directory: ModelDirectory, slates: list[SlateBatch]
) -> None:
    decoder = load_decoder(tiny_directory)
    found = cache_scales(decoder, slates)
    assert sorted(found) == [
        f"model.layers.{layer}.self_attn.{kind}_scale" for layer in (0, 1) for kind in "kv"
    ]
    layer = layers_of(decoder)[0]
    largest = max(
        float(layer.self_attn.v_proj(layer.input_layernorm(x)).abs().max())
        for one in slates
        for x in [decoder.model.embed_tokens(one.token_ids)]
    )
    assert float(found["model.layers.0.self_attn.v_scale"]) == pytest.approx(largest / 448)


def test_the_config_says_what_others_read(tiny_model_dir: Path, data: Path, tmp_path: Path) -> None:
    found = stored(tiny_model_dir, data, tmp_path / "out", **SCHEMES["w8a8"])
    said = json.loads((found.path / "config.json").read_text())["quantization_config"]
    group = said["config_groups"]["group_0"]
    assert (said["quant_method"], said["format"], said["ignore"]) == (
        ("compressed-tensors", INT, ["lm_head"])
    )
    assert group["input_activations"] == group["weights"] | {"strategy": "token", "dynamic": True}
    assert said["kv_cache_scheme"]["type"] == "float"


def test_stacked_layers_are_quantized_as_if_alone() -> None:
    random = torch.Generator().manual_seed(2)
    weights: list[Tensor] = [torch.randn(8, 32, generator=random) for _ in range(2)]
    x = torch.randn(200, 32, generator=random).double()
    settings = QuantizerSettings("quantease", "w8a8", sweeps=2)
    both = quantize_layer(torch.cat(weights), x.T @ x, settings).coded
    alone = [quantize_layer(weight, x.T @ x, settings).coded for weight in weights]
    assert torch.equal(both.codes, torch.cat([one.codes for one in alone]))


def test_the_stated_size_is_that_of_the_file(
    tiny_directory: ModelDirectory, data: Path, tmp_path: Path
) -> None:
    shape = shape_of(tiny_directory.config)
    for number, options in enumerate([SCHEMES["fp8"], {"scheme": "w4a16", "outlier_share": 0.02}]):
        found = stored(tiny_directory.path, data, tmp_path / str(number), **options)
        stated = cost(QuantizeOptions(**(SMALL | options)), shape).shape
        assert stated is not None
        size = (found.path / "model.safetensors").stat().st_size
        headers = 120 * len(load_file(found.path / "model.safetensors"))
        assert stated.size == pytest.approx(size, abs=headers + 6000)  # norms and row scales


def test_what_cannot_be_done_is_refused_before_anything_is_written(
    tiny_model_dir: Path, data: Path, tmp_path: Path
) -> None:
    refused: list[tuple[dict[str, Any], type[Exception], str]] = [
        ({"scheme": "w2"}, RecipeError, "is none of w8a8, w4a16, fp8"),
        ({"method": "awq"}, RecipeError, "is none of rtn"),
        ({"scheme": "fp8"}, RecipeError, "set method to rtn"),
        ({"outlier_share": 0.1}, RecipeError, "belong to quantease and w4a16"),
        ({"smooth": 2}, RecipeError, "smooth is 0 to 1"),
        ({"scheme": "w4a16", "group_size": 128}, RecipeError, "which groups of 128 do not divide"),
        ({"slates": 1}, CalibrationDataError, "give more text"),
        ({"bits": 8}, RecipeError, "options are"),
    ]
    for options, error, message in refused:
        with pytest.raises(error, match=message):
            stored(tiny_model_dir, data, tmp_path / "out", **options)
        assert not (tmp_path / "out").exists()


def test_a_quantized_model_can_be_a_stages_source(
    tiny_model_dir: Path, data: Path, tmp_path: Path
) -> None:
    first = stored(tiny_model_dir, data, tmp_path / "first", scheme="w8a8", method="rtn")
    second = stored(first.path, data, tmp_path / "second", scheme="w8a8", method="rtn")
    ours, again = (load_decoder(one).state_dict() for one in (first, second))
    for name, tensor in ours.items():
        torch.testing.assert_close(again[name], tensor, rtol=1e-6, atol=1e-7)
    assert second.card.lineage["parent"] == first.digest

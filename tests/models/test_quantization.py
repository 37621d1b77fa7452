"""Quantized directories: what config.json may say, how codes are stored, and what loads."""

from __future__ import annotations

import json
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from models.card import ModelCard, write_card
from models.checkpoint import load_decoder, load_model_directory, save_model_directory
from models.config_reader import parse_config
from models.decoder import Decoder
from models.engines.base import ScoreJob
from models.engines.fairslate import FairslateEngine
from models.errors import ModelDirectoryError
from models.linear import Int8Linear, row_codes, row_scales
from models.quantization import FLOAT, INT, OUTLIERS, PACKED, Quantization, is_coded
from models.quantized_weights import CodedWeight, QuantizedWeights, packed, unpacked
from models.weight_files import WEIGHTS_NAME

FORMS = {
    INT: Quantization(INT, kv_cache=True),
    PACKED: Quantization(PACKED, group_size=16),
    OUTLIERS: Quantization(OUTLIERS, group_size=16, outlier_share=0.01),
    FLOAT: Quantization(FLOAT),
}
DOWN = "model.layers.1.mlp.down_proj.weight"


def coded(weight: Tensor, form: Quantization) -> CodedWeight:
    """Codes that rounding to the largest value again would change."""
    random = torch.Generator().manual_seed(len(weight))
    groups = weight.shape[1] // (form.group_size or weight.shape[1])
    scales = torch.rand(len(weight), groups, generator=random) / 100 + 0.001
    if form.form == FLOAT:
        return CodedWeight((weight * 10).to(torch.float8_e4m3fn), scales)
    limit = 7 if form.packed else 100
    codes = torch.randint(-limit, limit, weight.shape, generator=random).to(torch.int8)
    if not form.outlier_share:
        return CodedWeight(codes, scales.bfloat16() if form.packed else scales)
    outliers = torch.zeros(weight.numel())
    outliers[torch.randperm(weight.numel(), generator=random)[: form.outliers_of(weight.shape)]] = 3
    return CodedWeight(codes, scales.bfloat16(), outliers.view_as(weight))


def quantized(decoder: Decoder, form: Quantization) -> QuantizedWeights:
    weights = {n: coded(w, form) for n, w in decoder.state_dict().items() if is_coded(n)}
    scales = {
        f"model.layers.{layer}.self_attn.{kind}_scale": torch.ones(1)
        for layer in range(2)
        for kind in "kv"
        if form.kv_cache
    }
    return QuantizedWeights(form, weights, scales)


@pytest.fixture(params=FORMS)
def form(request: pytest.FixtureRequest) -> Quantization:
    return FORMS[request.param]


@pytest.fixture
def stored(
    tmp_path: Path, tiny_decoder: Decoder, tiny_tokenizer_path: Path, tiny_card: ModelCard,
    form: Quantization,
) -> Path:  # fmt: skip
    path = tmp_path / "stored"
    whole = quantized(tiny_decoder, form)
    save_model_directory(path, tiny_decoder, tiny_tokenizer_path, tiny_card, torch.float16, whole)
    return path


def test_what_is_loaded_is_what_was_stored(
    stored: Path, tiny_decoder: Decoder, form: Quantization
) -> None:
    directory = load_model_directory(stored)
    assert directory.config.quantization == form
    decoder, whole = load_decoder(directory), quantized(tiny_decoder, form)
    assert len(whole.coded) == 14
    for name, tensor in decoder.state_dict().items():
        expected = tiny_decoder.state_dict()[name].half().float()
        assert torch.equal(tensor, whole.coded[name].weight if name in whole.coded else expected)
    assert decoder.config == tiny_decoder.config  # what is saved from it is not quantized


def test_int8_arithmetic_takes_the_stored_codes(
    stored: Path, tiny_decoder: Decoder, form: Quantization
) -> None:
    decoder = load_decoder(load_model_directory(stored))
    layer = decoder.get_submodule(DOWN.removesuffix(".weight"))
    scales = row_scales(layer)
    if form.form != INT:
        assert scales is None
        return
    expected = quantized(tiny_decoder, form).coded[DOWN]
    codes, column = row_codes(layer.weight, scales)  # type: ignore[arg-type]
    assert torch.equal(codes, expected.codes)
    assert torch.equal(column, expected.scales)
    again, _ = row_codes(layer.weight, None)  # type: ignore[arg-type]
    assert not torch.equal(again, expected.codes)
    x = torch.randn(5, 96)
    product = Int8Linear(layer)(x)  # type: ignore[arg-type]
    torch.testing.assert_close(product, x @ expected.weight.T, rtol=0.02, atol=0.3)


@pytest.mark.parametrize("dtype", ["float32", "int8"])
def test_every_form_scores(stored: Path, dtype: str) -> None:
    directory = load_model_directory(stored)
    job = ScoreJob(tuple(range(20)), ("a", "b"), ((5, 6, 7), (8, 9)))
    (scores,) = FairslateEngine(directory, 1 << 20, dtype=dtype, backend="torch").score([job])
    assert torch.tensor(scores.raw_logits).isfinite().all()


def test_four_bit_codes_stand_in_order_from_the_lowest_bits() -> None:
    codes = torch.tensor([[-8, -7, 0, 1, 2, 3, 4, 7, 5]], dtype=torch.int8)
    words = packed(codes)
    assert words.tolist() == [[0xFCBA9810 - (1 << 32), 0xD]]
    assert torch.equal(unpacked(words, 9), codes)


def changed(stored: Path, card: ModelCard, **tensors: Tensor | None) -> Path:
    weights: dict[str, Tensor | None] = dict(load_file(stored / WEIGHTS_NAME))
    kept = {name: tensor for name, tensor in (weights | tensors).items() if tensor is not None}
    save_file(kept, stored / WEIGHTS_NAME)
    write_card(stored, card)
    return stored


@pytest.mark.parametrize("form", [INT], indirect=True)
def test_missing_and_misshapen_parts_are_named(stored: Path, tiny_card: ModelCard) -> None:
    scale = f"{DOWN}_scale"
    changed(stored, tiny_card, **{scale: torch.ones(64, 2)})
    with pytest.raises(ModelDirectoryError, match=rf"{scale} has shape \[64, 2\].*\[64, 1\]"):
        load_model_directory(stored)
    changed(stored, tiny_card, **{scale: None})
    with pytest.raises(ModelDirectoryError, match=f"{scale} has shape None"):
        load_model_directory(stored)
    changed(stored, tiny_card, **{scale: torch.ones(64, 1), DOWN: torch.zeros(64, 96)})
    with pytest.raises(ModelDirectoryError, match=f"{DOWN} is stored as F32"):
        load_model_directory(stored)


@pytest.mark.parametrize("form", [INT], indirect=True)
def test_scales_that_are_not_finite_are_refused(stored: Path, tiny_card: ModelCard) -> None:
    scales = torch.full((64, 1), float("nan"))
    changed(stored, tiny_card, **{f"{DOWN}_scale": scales})
    with pytest.raises(ModelDirectoryError, match=f"{DOWN}_scale is NaN or infinite"):
        load_model_directory(stored)


CHANGES: list[tuple[str, Any]] = [
    ("quant_method", "gptq"),
    ("format", "marlin-24"),
    ("ignore", ["model.layers.0.mlp.down_proj"]),
    ("config_groups", {}),
    ("config_groups.group_0.targets", ["re:.*q_proj"]),
    ("config_groups.group_0.weights.symmetric", False),
    ("config_groups.group_0.weights.num_bits", 4),
    ("config_groups.group_0.weights.strategy", "tensor"),
    ("config_groups.group_0.weights.actorder", "group"),
    ("config_groups.group_0.input_activations.dynamic", False),
    ("config_groups.group_0.input_activations.strategy", "tensor"),
    ("sparsity_config", {"format": "sparse-bitmask"}),
    ("transform_config", {"config_groups": {"rotation": {}}}),
]


@pytest.mark.parametrize(("field", "value"), CHANGES, ids=[name for name, _ in CHANGES])
def test_what_is_not_served_is_refused_by_name(
    tiny_decoder: Decoder, field: str, value: Any
) -> None:
    raw = tiny_decoder.config.to_hugging_face()
    raw["quantization_config"] = json.loads(json.dumps(FORMS[INT].to_json(("lm_head",))))
    assert parse_config(deepcopy(raw), "config.json").quantization == FORMS[INT]
    *path, last = ["quantization_config", *field.split(".")]
    part = raw
    for name in path:
        part = part[name]
    part[last] = value
    if field == "format":
        del part["config_groups"]["group_0"]["format"]
    with pytest.raises(ModelDirectoryError, match=field.rsplit(".", 1)[-1]):
        parse_config(raw, "config.json")

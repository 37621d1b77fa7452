"""Stage: quantizes linear layers and writes a compressed-tensors directory. Knows no kernel.

Run alone: python -m compress.quantization.quantize --source MODEL --data DIR --out DIR
Layers are quantized in the order in which they run, each on the inputs that the quantized ones
before it give. Embeddings, norms and the output stay at `storage`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from compress.decoders.slates import SlateAttention, SlateBatch
from compress.decoders.wiring import layers_of
from compress.layers.calibration_slates import CalibrationOptions, calibration_slates
from compress.layers.streaming import ATTENTION, MLP, Half, LayerInputs, Streams, halves_of
from compress.quantization.quantizers import METHODS, SCHEMES, QuantizerSettings, quantize_layer
from compress.quantization.smoothquant import fold, smoothing_scales
from compress.stages.alone import run_alone
from compress.stages.lineage import card_after
from compress.stages.required import required_shape, required_source
from compress.stages.stage import (
    Cost,
    Incoming,
    RecipeError,
    Shape,
    StageInput,
    StageKind,
    lineage_entry,
    parse_options,
    prepare_process,
)
from compress.stages.storage import STORAGE
from models.checkpoint import load_decoder, load_model_directory, save_model_directory
from models.config import DecoderConfig
from models.decoder import Decoder
from models.directory import TOKENIZER_NAME
from models.quantization import Quantization
from models.quantized_weights import CodedWeight, QuantizedWeights, kv_scale_names

LARGEST_FP8 = 448.0
# Products that read the same inputs: taken together, and moments are those of the named one.
TOGETHER = {
    ATTENTION: (("k_proj", ("q_proj", "k_proj", "v_proj")), ("o_proj", ("o_proj",))),
    MLP: (("gate_proj", ("gate_proj", "up_proj")), ("down_proj", ("down_proj",))),
}


@dataclass(frozen=True, slots=True)
class QuantizeOptions:
    """scheme: "w8a8" (int8, activations token by token), "w4a16" (groups of `group_size`) or "fp8".

    method: "rtn", "gptq" or "quantease"; fp8 is rounded to nearest. smooth: SmoothQuant's strength,
    0 for none. outlier_share: of weights that quantease keeps at full precision beside w4a16, in a
    form that our engines alone read. kv_cache: writes fp8 scales of keys and values.
    """

    scheme: str = "w8a8"
    method: str = "quantease"
    smooth: float = 0.0
    group_size: int = 128
    sweeps: int = 5
    outlier_share: float = 0.0
    kv_cache: bool = False
    storage: str = "float16"
    slates: int = 128
    candidates: int = 12
    split: str = "train"

    def __post_init__(self) -> None:
        for name, known in (("scheme", SCHEMES), ("method", METHODS), ("storage", STORAGE)):
            if getattr(self, name) not in known:
                raise RecipeError(
                    f"quantize: {name} {getattr(self, name)!r} is none of {', '.join(known)}"
                )
        if self.scheme == "fp8" and self.method != "rtn":
            raise RecipeError("quantize: fp8 is rounded to nearest; set method to rtn")
        if self.method == "torchao" and self.scheme != "w8a8":
            raise RecipeError("quantize: torchao is an adapter for w8a8; use our own methods")
        if self.outlier_share and (self.scheme, self.method) != ("w4a16", "quantease"):
            raise RecipeError("quantize: outliers belong to quantease and w4a16")
        if not (0 <= self.smooth <= 1 and 0 <= self.outlier_share < 0.5):
            raise RecipeError("quantize: smooth is 0 to 1, outlier_share 0 to below 0.5")

    @property
    def settings(self) -> QuantizerSettings:
        """What one layer's method takes."""
        return QuantizerSettings(
            self.method, self.scheme, self.group_size, self.sweeps, self.outlier_share
        )

    @property
    def calibration(self) -> CalibrationOptions:
        """Which slates."""
        return CalibrationOptions(self.slates, self.candidates, self.split)

    @property
    def quantization(self) -> Quantization:
        """What config.json will say."""
        group = self.group_size if self.scheme == "w4a16" else None
        return Quantization(self.settings.form, group, self.kv_cache, self.outlier_share)


def run(stage: StageInput, raw_options: Mapping[str, Any]) -> None:
    """Writes the quantized model; the card says every layer's relative output error."""
    options = parse_options(QuantizeOptions, raw_options)
    source = required_source(stage, "quantize")
    prepare_process(stage)
    directory = load_model_directory(source)
    decoder = load_decoder(directory)
    refuse_widths(decoder.config, options.settings)

    def slates() -> Iterator[SlateBatch]:
        return calibration_slates(directory, stage.data, options.calibration, stage.seed)

    kv_scales = cache_scales(decoder, slates()) if options.kv_cache else {}
    with Streams(slates(), stage.work, decoder) as streams:
        found = quantize_decoder(decoder, streams, options.settings, options.smooth)
    quantized = QuantizedWeights(options.quantization, found.coded, kv_scales)
    entry, errors = lineage_entry("quantize", stage, options), {"layers": found.errors}
    card = card_after(directory.card, directory.digest, entry, quantize=errors)
    tokenizer, storage = source / TOKENIZER_NAME, STORAGE[options.storage]
    save_model_directory(stage.out, decoder, tokenizer, card, storage, quantized)


@dataclass(frozen=True, slots=True)
class QuantizedLayers:
    """coded and errors: by name of the weight; relative squared output errors."""

    coded: dict[str, CodedWeight] = field(default_factory=dict)
    errors: dict[str, float] = field(default_factory=dict)


def quantize_decoder(
    decoder: Decoder, streams: Streams, settings: QuantizerSettings, smooth: float
) -> QuantizedLayers:
    """Replaces the weights of `decoder`, inside `streams`, by what their codes stand for."""
    found = QuantizedLayers()
    for half in tqdm(halves_of(decoder), "quantize", mininterval=5):
        for asked, names in TOGETHER[half.part]:
            inputs = streams.inputs(half, [asked])[asked]
            if smooth and len(names) > 1:
                inputs = _smoothed(decoder, half, names, inputs, smooth)
            _quantize_together(decoder, half, names, inputs, settings, found)
        streams.advance(half)
    return found


def _quantize_together(
    decoder: Decoder,
    half: Half,
    names: Sequence[str],
    inputs: LayerInputs,
    settings: QuantizerSettings,
    found: QuantizedLayers,
) -> None:
    """Rows do not know of each other, so weights of the same inputs stand on one another."""
    linears = [half.linear(decoder, name) for name in names]
    weights = [linear.weight.detach() for linear in linears]
    result = quantize_layer(torch.cat(weights), inputs.moments.hessian, settings)
    rows = [len(weight) for weight in weights]
    for name, linear, coded in zip(names, linears, _split(result.coded, rows), strict=True):
        full = f"model.layers.{half.layer}.{half.part}.{name}.weight"
        found.coded[full] = coded
        found.errors[full] = result.error
        linear.weight.data = coded.weight


def _split(coded: CodedWeight, rows: Sequence[int]) -> Iterator[CodedWeight]:
    """By outputs, `rows` at a time."""
    for begin, count in zip(accumulate(rows, initial=0), rows, strict=False):
        part = slice(begin, begin + count)
        outliers = None if coded.outliers is None else coded.outliers[part]
        yield CodedWeight(coded.codes[part], coded.scales[part], outliers)


@torch.no_grad()
def _smoothed(
    decoder: Decoder, half: Half, names: Sequence[str], inputs: LayerInputs, strength: float
) -> LayerInputs:
    """Moves spread from the inputs into the weights; the same products, and the inputs' moments."""
    block = layers_of(decoder)[half.layer]
    norm = block.input_layernorm if half.part == ATTENTION else block.post_attention_layernorm
    linears = [half.linear(decoder, name) for name in names]
    weights = [linear.weight.detach() for linear in linears]
    scales = smoothing_scales(inputs.largest, weights, strength)
    folded, scaled = fold(norm.weight.detach(), weights, scales)
    norm.weight.data = folded
    for linear, weight in zip(linears, scaled, strict=True):
        linear.weight.data = weight
    inverse = 1 / scales.double()
    hessian = inputs.moments.hessian * inverse * inverse[:, None]
    moments = replace(inputs.moments, hessian=hessian, cross=hessian)
    return LayerInputs(moments, inputs.largest / scales)


@dataclass(frozen=True, slots=True)
class _Watched:
    """Attention that notes by how much the largest key and value exceed what fp8 holds."""

    attention: SlateAttention
    largest: dict[str, Tensor]

    def __call__(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        for name, tensor in zip(kv_scale_names(layer), (k, v), strict=True):
            most = tensor.abs().amax().reshape(1) / LARGEST_FP8
            self.largest[name] = torch.maximum(self.largest.get(name, most), most)
        return self.attention(layer, q, k, v)


@torch.inference_mode()
def cache_scales(decoder: Decoder, slates: Iterable[SlateBatch]) -> dict[str, Tensor]:
    """The scale by which the largest key, and the largest value, of each layer fill fp8's range."""
    largest: dict[str, Tensor] = {}
    for batch in slates:
        decoder(batch.token_ids, batch.positions, _Watched(SlateAttention(batch), largest))
    return {name: scale.clone() for name, scale in largest.items()}


def refuse_widths(config: DecoderConfig, settings: QuantizerSettings) -> None:
    """Before anything is computed. Raises RecipeError for inputs that groups do not divide."""
    for name, width in {"q_proj": config.hidden_size, **_read_at_answers(config)}.items():
        if not settings.fits(width):
            raise RecipeError(
                f"quantize: {name} has {width} inputs, which groups of {settings.group_size} do "
                "not divide; set group_size, or prune to a multiple"
            )


def _read_at_answers(config: DecoderConfig) -> dict[str, int]:
    """Inputs of products which the last layer has at the answers alone."""
    heads = config.num_attention_heads * config.head_dim
    return {
        "o_proj": heads,
        "gate_proj": config.hidden_size,
        "down_proj": config.intermediate_size,
    }


def check(options: QuantizeOptions, incoming: Incoming) -> None:
    """Raises a FairslateError for sizes or slates with which nothing can be quantized."""
    config = incoming.shape.config if incoming.shape else None
    if config:
        refuse_widths(config, options.settings)
    widths = _read_at_answers(config) if config else {}
    options.calibration.refuse(incoming.data, widths)


def cost(options: QuantizeOptions, shape: Shape | None) -> Cost:
    """Of the calibration; embeddings are stored at `storage`, the rest in codes."""
    shape = required_shape(shape, "quantize")
    body = (0.5 + 2 / options.group_size) if options.scheme == "w4a16" else 1.0
    plain = STORAGE[options.storage].itemsize * shape.embeddings
    size = (plain + (body + 8 * options.outlier_share) * shape.body) / shape.parameters
    small = replace(shape, bytes_per_parameter=size)
    return replace(options.calibration.cost(shape, decoders=1), shape=small)


STAGE = StageKind(
    run, QuantizeOptions, cost, reads=lambda options: options.calibration.reads, check=check
)

if __name__ == "__main__":
    run_alone("quantization.quantize", STAGE)

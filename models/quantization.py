"""How a directory stores the weights of linear layers, as compressed-tensors says it.

Three of that format's forms are served: "int-quantized" (int8 rows and int8 activations, token by
token), "pack-quantized" (4 bits by groups of inputs, eight codes an int32) and "float-quantized"
(fp8 e4m3 rows and activations). A fourth is ours alone: packed codes with few weights beside them
at full precision, which no other engine would add up.
Knows no tensors.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from models.config_fields import Fields

INT, PACKED, FLOAT, OUTLIERS = (
    "int-quantized",
    "pack-quantized",
    "float-quantized",
    "pack-quantized-outliers",
)
SCALE_DTYPES = ("F32", "F16", "BF16")
PER_INT32 = 8  # codes of 4 bits
KV_SCALES = ("self_attn.k_scale", "self_attn.v_scale")
LINEARS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")

Stored = dict[str, tuple[list[int], tuple[str, ...]]]  # name -> shape and dtypes of the file format


@dataclass(frozen=True, slots=True)
class Quantization:
    """form: one of the four above. group_size: inputs that share a scale, None for whole rows.

    kv_cache: whether fp8 scales of keys and values lie beside the weights, for engines whose cache
    is fp8. outlier_share: of a layer's weights, kept at full precision besides.
    """

    form: str
    group_size: int | None = None
    kv_cache: bool = False
    outlier_share: float = 0.0

    @property
    def packed(self) -> bool:
        """Whether codes have 4 bits."""
        return self.form in (PACKED, OUTLIERS)

    def outliers_of(self, shape: tuple[int, ...]) -> int:
        """How many weights of a layer are kept besides."""
        return math.ceil(self.outlier_share * math.prod(shape))

    def stored(self, name: str, shape: list[int]) -> Stored:
        """Tensors that stand for the weight `name` (outputs, inputs); others stay themselves."""
        if not is_coded(name):
            return {name: (shape, SCALE_DTYPES)}
        outputs, inputs = shape
        groups = inputs // self.group_size if self.group_size else 1
        scales: Stored = {f"{name}_scale": ([outputs, groups], SCALE_DTYPES)}
        if not self.packed:
            return scales | {name: (shape, ("I8",) if self.form == INT else ("F8_E4M3",))}
        codes = ([outputs, -(-inputs // PER_INT32)], ("I32",))
        found = scales | {f"{name}_packed": codes, f"{name}_shape": ([2], ("I64",))}
        if self.outlier_share:
            count = [self.outliers_of((outputs, inputs))]
            found[f"{name}_outliers"] = (count, ("F32",))
            found[f"{name}_outlier_places"] = (count, ("I32",))
        return found

    def to_json(self, ignored: tuple[str, ...]) -> dict[str, Any]:
        """`quantization_config` of config.json; `ignored` are linear layers left as they are."""
        kind = "float" if self.form == FLOAT else "int"
        weights = _arguments(4 if self.packed else 8, kind, self.group_size)
        tokens = _arguments(8, kind, None) | {"strategy": "token", "dynamic": True}
        group = {
            "targets": ["Linear"],
            "weights": weights,
            "input_activations": None if self.packed else tokens,
            "output_activations": None,
            "format": self.form,
        }
        cache = _arguments(8, "float", None) | {"strategy": "tensor"}
        content = {
            "quant_method": "compressed-tensors",
            "format": self.form,
            "quantization_status": "compressed",
            "ignore": list(ignored),
            "config_groups": {"group_0": group},
            "kv_cache_scheme": cache if self.kv_cache else None,
        }
        return content | ({"outlier_share": self.outlier_share} if self.outlier_share else {})


def is_coded(name: str) -> bool:
    """Whether a tensor is the weight of a linear layer within the decoder's layers."""
    return name.endswith(tuple(f".{module}.weight" for module in LINEARS))


def _arguments(bits: int, kind: str, group_size: int | None) -> dict[str, Any]:
    return {
        "num_bits": bits,
        "type": kind,
        "symmetric": True,
        "strategy": "group" if group_size else "channel",
        "group_size": group_size,
        "dynamic": False,
    }


def read_quantization(fields: Fields) -> Quantization | None:
    """What `quantization_config` says, None when it is absent; refuses what is not served."""
    if fields.raw.get("quantization_config") is None:
        return None
    part = fields.part("quantization_config")
    if (method := part.raw.get("quant_method")) != "compressed-tensors":
        part.refuse("quant_method", method, "export it in compressed-tensors' form")
    part.expect("quantization_status", "compressed")
    part.expect("ignore", [], ["lm_head"], ["re:.*lm_head"], ["score"])
    part.expect("sparsity_config", {}, *_sparsity(part))
    part.expect("transform_config", {})
    groups = part.part("config_groups")
    if len(groups.raw) != 1:
        part.refuse("config_groups", sorted(groups.raw), "quantize all layers alike")
    group = groups.part(next(iter(groups.raw)))
    group.expect("targets", ["Linear"])
    form = group.raw.get("format") or part.raw.get("format")
    if form not in (INT, PACKED, FLOAT, OUTLIERS):
        part.refuse("format", form, f"export {INT}, {PACKED} or {FLOAT}")
    weights, activations = group.part("weights"), group.raw.get("input_activations")
    size = _group_size(weights, form)
    if form in (INT, FLOAT):
        _expect_tokens(group.part("input_activations"), form)
    elif activations is not None:
        group.refuse("input_activations", activations, "serve packed codes with plain activations")
    share = float(part.number("outlier_share")) if form == OUTLIERS else 0.0
    return Quantization(form, size, part.raw.get("kv_cache_scheme") is not None, share)


def _sparsity(part: Fields) -> list[Any]:
    """The stated sparsity if it is none at all."""
    stated = part.raw.get("sparsity_config")
    dense = isinstance(stated, Mapping) and stated.get("format") == "dense"
    return [stated] if dense else []


def _group_size(weights: Fields, form: str) -> int | None:
    weights.expect("symmetric", True)
    weights.expect("dynamic", False)
    weights.expect("actorder", "weight", "static", False)
    weights.expect("type", "float" if form == FLOAT else "int")
    weights.expect("num_bits", 4 if form in (PACKED, OUTLIERS) else 8)
    if form in (INT, FLOAT):
        weights.expect("strategy", "channel")
        return None
    weights.expect("strategy", "group", "channel")
    if weights.raw.get("strategy") == "channel":
        return None
    return weights.integer("group_size")


def _expect_tokens(activations: Fields, form: str) -> None:
    activations.expect("num_bits", 8)
    activations.expect("type", "float" if form == FLOAT else "int")
    activations.expect("symmetric", True)
    activations.expect("strategy", "token")
    if activations.raw.get("dynamic") is not True:
        activations.refuse("dynamic", activations.raw.get("dynamic"), "take scales token by token")

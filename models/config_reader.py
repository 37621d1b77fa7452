"""Reads `config.json` of every served family into a DecoderConfig. Knows nothing of weights.

Fields that are absent mean what transformers takes them for. Whatever would change a score and is
not served is refused by name.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from models.config import FAMILIES, DecoderConfig
from models.config_fields import Fields
from models.errors import ModelDirectoryError
from models.quantization import read_quantization
from models.rope_scaling import read_rope

MOST_LAYERS = 1024  # the tensors of every layer are listed before any file is looked at
MOST_POSITIONS = 1 << 24  # there is a table of them


def read_config(directory: Path) -> DecoderConfig:
    """Raises ModelDirectoryError when `config.json` is absent, unreadable or not served."""
    path = directory / "config.json"
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ModelDirectoryError(f"{path}: cannot be read ({error}); export it again") from error
    return parse_config(raw, source=str(path))


def parse_config(raw: Any, source: str) -> DecoderConfig:
    """The architecture that `raw` describes; ModelDirectoryError as `read_config` says."""
    if not isinstance(raw, dict):
        raise ModelDirectoryError(f"{source}: is no JSON object; export the model again")
    fields = Fields(source, raw)
    family = raw.get("model_type")
    if not isinstance(family, str) or family not in FAMILIES:
        fields.refuse("model_type", family, f"export one of: {', '.join(FAMILIES)}")
    fields.expect("hidden_act", "silu")
    heads = fields.integer("num_attention_heads")
    positions = _bounded("max_position_embeddings", MOST_POSITIONS, fields)
    theta, scaling = read_rope(fields, positions)
    qkv_bias, output_bias = _attention_biases(family, fields)
    config = DecoderConfig(
        vocab_size=fields.integer("vocab_size"),
        hidden_size=fields.integer("hidden_size"),
        intermediate_size=fields.integer("intermediate_size"),
        num_hidden_layers=_bounded("num_hidden_layers", MOST_LAYERS, fields),
        num_attention_heads=heads,
        num_key_value_heads=fields.integer("num_key_value_heads", heads),
        head_dim=_head_dim(family, fields, heads),
        rms_norm_eps=fields.number("rms_norm_eps", 1e-6),
        rope_theta=theta,
        max_position_embeddings=positions,
        tie_word_embeddings=fields.flag("tie_word_embeddings", default=False),
        model_type=family,
        attention_bias=qkv_bias,
        output_bias=output_bias,
        mlp_bias=family == "llama" and fields.flag("mlp_bias", default=False),
        rope_scaling=scaling,
        sliding_window=_sliding_window(family, fields),
        num_labels=_num_labels(family, fields),
        quantization=read_quantization(fields),
    )
    if heads % config.num_key_value_heads:
        fields.refuse("num_key_value_heads", config.num_key_value_heads, f"it must divide {heads}")
    if config.head_dim % 2:
        fields.refuse("head_dim", config.head_dim, "serve a model with an even one")
    return config


def _bounded(name: str, most: int, fields: Fields) -> int:
    value = fields.integer(name)
    if value > most:
        fields.refuse(name, value, f"serve a model of at most {most}")
    return value


def _head_dim(family: str, fields: Fields, heads: int) -> int:
    if family == "qwen3":
        return fields.integer("head_dim", 128)
    hidden = fields.integer("hidden_size")
    if fields.raw.get("head_dim") is None and hidden % heads:
        fields.refuse("hidden_size", hidden, f"without head_dim it must be a multiple of {heads}")
    return fields.integer("head_dim", hidden // heads)


def _attention_biases(family: str, fields: Fields) -> tuple[bool, bool]:
    """Whether query, key and value have a bias, and whether the output has one."""
    if family == "qwen2":
        return True, False
    if family == "mistral":
        return False, False
    stated = fields.flag("attention_bias", default=False)
    return stated, stated


def _sliding_window(family: str, fields: Fields) -> int | None:
    """Tokens that a token sees, itself included, in the layers that see least; None for all."""
    if family == "llama":
        return None
    fields.expect("layer_types", *_layer_types(fields))
    if family == "mistral":
        stated = fields.raw.get("sliding_window", 4096)  # null switches it off, absence does not
        return None if stated is None else fields.integer("sliding_window", 4096)
    layers = fields.raw.get("layer_types")
    if layers is None:
        first = fields.raw.get("max_window_layers")
        if first is not None and type(first) is not int:
            fields.refuse("max_window_layers", first, "write a whole number")
        sliding = fields.integer("num_hidden_layers") > (28 if first is None else first)
    else:
        sliding = "sliding_attention" in layers
    used = fields.flag("use_sliding_window", default=False)
    if layers is not None and sliding and not used:
        fields.refuse("use_sliding_window", used, "layer_types name a window; set both alike")
    return fields.integer("sliding_window", 4096) if used and sliding else None


def _layer_types(fields: Fields) -> list[Any]:
    """The value of `layer_types` itself if each of its layers is served."""
    stated = fields.raw.get("layer_types")
    served = isinstance(stated, list) and set(map(str, stated)) <= {
        "full_attention",
        "sliding_attention",
    }
    return [stated] if served else [["full_attention"]]


def _num_labels(family: str, fields: Fields) -> int:
    """Rows of the classification head, 0 for a language model."""
    name = FAMILIES[family]
    served = f"{name}ForCausalLM", f"{name}ForSequenceClassification"
    architectures = fields.raw.get("architectures") or [served[0]]
    fields.expect("architectures", *([one] for one in served))
    if architectures == [served[0]]:
        return 0
    labels = fields.raw.get("id2label")
    return len(labels) if labels else fields.integer("num_labels", 2)

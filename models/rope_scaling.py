"""Reads how a `config.json` stretches rotary embeddings. Knows nothing of tensors or of layers."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from models.config_fields import Fields

# What each kind reads beside `rope_type` and `rope_theta`.
KEYS = {
    "default": (),
    "linear": ("factor",),
    "dynamic": ("factor",),
    "llama3": (
        "factor",
        "original_max_position_embeddings",
        "low_freq_factor",
        "high_freq_factor",
    ),
    "yarn": (
        "factor",
        "original_max_position_embeddings",
        "attention_factor",
        "beta_fast",
        "beta_slow",
        "truncate",
    ),
}
# Read by some kind, or by none: exporters leave these behind whatever the kind.
HARMLESS = {"rope_type", "type", "rope_theta", "mscale", "mscale_all_dim", "finetuned"}


@dataclass(frozen=True, slots=True)
class RopeScaling:
    """What `rope_parameters` says beside its theta; `kind` is its `rope_type`.

    dynamic scales only behind `max_position_embeddings`, where nothing is served, so it is inert.
    attention_factor multiplies both tables, as YaRN does in place of the attention's temperature.
    """

    kind: str = "default"
    factor: float = 1.0
    original_max_position_embeddings: int = 0
    low_freq_factor: float = 1.0
    high_freq_factor: float = 4.0
    attention_factor: float = 1.0
    beta_fast: float = 32.0
    beta_slow: float = 1.0
    truncate: bool = True

    def to_hugging_face(self, theta: float) -> dict[str, Any]:
        """Content of `rope_parameters`."""
        own = {key: getattr(self, key) for key in KEYS[self.kind]}
        return {"rope_type": self.kind, "rope_theta": theta, **own}


UNSCALED = RopeScaling()


def read_rope(config: Fields, max_position_embeddings: int) -> tuple[float, RopeScaling]:
    """(theta, scaling) of transformers 5's `rope_parameters` or of the older `rope_scaling`.

    Raises ModelDirectoryError for a kind or a key that is not served.
    """
    place = "rope_parameters" if config.raw.get("rope_parameters") else "rope_scaling"
    rope = config.part(place)
    theta = rope.number("rope_theta", config.number("rope_theta", 10000.0))
    kind = str(rope.raw.get("rope_type", rope.raw.get("type", "default")))
    if kind not in KEYS:
        rope.refuse("rope_type", kind, f"serve a model with one of: {', '.join(KEYS)}")
    rope.expect("partial_rotary_factor", 1.0)
    config.expect("partial_rotary_factor", 1.0)
    known = HARMLESS | {key for keys in KEYS.values() for key in keys} | {"partial_rotary_factor"}
    for name in sorted(rope.raw.keys() - known):
        rope.refuse(name, rope.raw[name], "serve a model without it")
    return theta, _scaling(kind, theta, rope, config.raw, max_position_embeddings)


def _scaling(
    kind: str, theta: float, rope: Fields, config: Mapping[str, Any], max_position_embeddings: int
) -> RopeScaling:
    if kind in ("default", "dynamic"):
        return RopeScaling(kind, rope.number("factor", 1.0))
    if kind == "linear":
        return RopeScaling(kind, rope.number("factor"))
    # The field outside wins, as in transformers.
    original = config.get("original_max_position_embeddings")
    if original is None:
        original = rope.raw.get("original_max_position_embeddings", max_position_embeddings)
    original = rope.checked("original_max_position_embeddings", original, int)
    if kind == "llama3":
        low, high = rope.number("low_freq_factor"), rope.number("high_freq_factor")
        if low >= high:
            rope.refuse("high_freq_factor", high, f"it must be above low_freq_factor {low}")
        return RopeScaling(kind, rope.number("factor"), original, low, high)
    if theta <= 1:
        rope.refuse("rope_theta", theta, "yarn takes one above 1")
    factor = rope.number("factor", max_position_embeddings / original)
    return RopeScaling(
        kind,
        factor,
        original,
        attention_factor=_attention_factor(rope, factor),
        beta_fast=rope.number("beta_fast", 32.0),
        beta_slow=rope.number("beta_slow", 1.0),
        truncate=bool(rope.raw.get("truncate", True)),
    )


def _attention_factor(rope: Fields, factor: float) -> float:
    """As stated, or 0.1 m ln(factor) + 1 of YaRN, with its two forms of m."""

    def of(mscale: float) -> float:
        return 1.0 if factor <= 1 else 0.1 * mscale * math.log(factor) + 1.0

    if rope.raw.get("attention_factor") is not None:
        return rope.number("attention_factor")
    scale, everywhere = rope.raw.get("mscale"), rope.raw.get("mscale_all_dim")
    if scale and everywhere:
        return of(rope.number("mscale")) / of(rope.number("mscale_all_dim"))
    return of(1.0)

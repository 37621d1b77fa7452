"""Cuts neurons, KV groups and layers out of a decoder: smaller tensors and a smaller config.

Weights of what stays are copied as they are. Every family serves one width for all layers, so
layers that keep less than the widest are filled up with zeros, which change no score. Knows nothing
of how the parts that stay were chosen.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from compress.decoders.wiring import layers_of
from models.config import DecoderConfig
from models.decoder import Decoder, DecoderLayer
from models.errors import FairslateError


class SliceError(FairslateError):
    """Parts to keep that the model does not have, or a width that no served family loads."""

    code = "slice_invalid"


@dataclass(frozen=True, slots=True)
class LayerCut:
    """What stays of one layer, indices in order; a KV group is a key head and its query heads."""

    layer: int
    neurons: tuple[int, ...]
    kv_groups: tuple[int, ...]

    @classmethod
    def whole(cls, config: DecoderConfig, layer: int) -> LayerCut:
        """All of it."""
        neurons = tuple(range(config.intermediate_size))
        return cls(layer, neurons, tuple(range(config.num_key_value_heads)))


def sliced(decoder: Decoder, cuts: Sequence[LayerCut]) -> Decoder:
    """A new decoder of the layers that `cuts` name, in their order; layers without a cut go.

    Its scores are those of `decoder` with the columns of all else in `down_proj` and `o_proj` at
    zero. Raises SliceError for an empty or unknown index.
    """
    for cut in cuts:
        _check(decoder.config, cut)
    config = sliced_config(decoder.config, cuts)
    with torch.device("meta"):
        small = Decoder(config)
    weights = {
        name: tensor.detach().clone()
        for name, tensor in decoder.state_dict().items()
        if not name.startswith("model.layers.")
    }
    for index, cut in enumerate(cuts):
        parts = _layer_weights(decoder.config, layers_of(decoder)[cut.layer], cut, config)
        weights |= {f"model.layers.{index}.{name}": tensor for name, tensor in parts}
    small.rotary = decoder.rotary
    small.load_state_dict(weights, assign=True)
    return small.eval().requires_grad_(False)


def sliced_config(config: DecoderConfig, cuts: Sequence[LayerCut]) -> DecoderConfig:
    """The shape that holds all cuts: the widest of them, as far as the family allows."""
    if not cuts:
        raise SliceError("no layer is kept; keep at least one")
    groups = max(len(cut.kv_groups) for cut in cuts)
    kv_heads = config.num_key_value_heads
    per_group = config.num_attention_heads // kv_heads
    groups = next(n for n in range(groups, kv_heads + 1) if _loadable(config, n * per_group))
    return replace(
        config,
        num_hidden_layers=len(cuts),
        intermediate_size=max(len(cut.neurons) for cut in cuts),
        num_key_value_heads=groups,
        num_attention_heads=groups * per_group,
    )


def _loadable(config: DecoderConfig, heads: int) -> bool:
    """transformers asks of a Llama that its heads divide the hidden size, and vLLM takes the size
    of a Qwen2's heads from their number.
    """
    if heads == config.num_attention_heads:
        return True
    divides = config.hidden_size % heads == 0
    return {"qwen2": False, "llama": divides}.get(config.model_type, True)


@torch.no_grad()
def mask(decoder: Decoder, cut: LayerCut) -> None:
    """Zeroes in place what a cut takes out of its layer: the columns that read it."""
    config, layer = decoder.config, layers_of(decoder)[cut.layer]
    queries = _head_rows(cut.kv_groups, _group_width(config))
    for linear, kept in ((layer.mlp.down_proj, cut.neurons), (layer.self_attn.o_proj, queries)):
        gone = torch.ones(linear.in_features, dtype=torch.bool)
        gone[list(kept)] = False
        linear.weight[:, gone] = 0


def _check(config: DecoderConfig, cut: LayerCut) -> None:
    for name, kept, count in (
        ("layer", (cut.layer,), config.num_hidden_layers),
        ("neurons", cut.neurons, config.intermediate_size),
        ("kv_groups", cut.kv_groups, config.num_key_value_heads),
    ):
        if not kept or len(set(kept)) < len(kept) or not set(kept) <= set(range(count)):
            raise SliceError(
                f"layer {cut.layer}: {name} to keep must be some of 0 to {count - 1}, once each"
            )


def _layer_weights(
    config: DecoderConfig, layer: DecoderLayer, cut: LayerCut, target: DecoderConfig
) -> Iterable[tuple[str, Tensor]]:
    """Names within the layer and new tensors."""
    queries = _head_rows(cut.kv_groups, _group_width(config))
    keys = _head_rows(cut.kv_groups, config.head_dim)
    outputs = {
        "self_attn.q_proj": (queries, target.num_attention_heads * config.head_dim),
        "self_attn.k_proj": (keys, target.num_key_value_heads * config.head_dim),
        "self_attn.v_proj": (keys, target.num_key_value_heads * config.head_dim),
        "mlp.gate_proj": (cut.neurons, target.intermediate_size),
        "mlp.up_proj": (cut.neurons, target.intermediate_size),
    }
    inputs = {
        "self_attn.o_proj": outputs["self_attn.q_proj"],
        "mlp.down_proj": outputs["mlp.gate_proj"],
    }
    for name, module in layer.named_modules():
        if isinstance(module, nn.Linear | nn.RMSNorm):
            for part, tensor in module.state_dict(prefix=f"{name}.").items():
                if name in outputs:
                    yield part, _taken(tensor, 0, *outputs[name])
                elif name in inputs and tensor.ndim == 2:
                    yield part, _taken(tensor, 1, *inputs[name])
                else:
                    yield part, tensor.clone()


def _taken(tensor: Tensor, dim: int, kept: Sequence[int], width: int) -> Tensor:
    """The kept rows or columns, then zeros up to `width` of them."""
    found = tensor.detach().index_select(dim, torch.tensor(kept))
    return F.pad(found, (0, 0) * (found.ndim - 1 - dim) + (0, width - len(kept)))


def _group_width(config: DecoderConfig) -> int:
    """Columns of o_proj that belong to one KV group."""
    return config.num_attention_heads // config.num_key_value_heads * config.head_dim


def _head_rows(groups: Sequence[int], width: int) -> tuple[int, ...]:
    return tuple(row for group in groups for row in range(group * width, (group + 1) * width))

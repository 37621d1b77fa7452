"""Packs a decoder's weights as the C++ side reads them. Knows no compiler and no pass.

Widths are padded by zeros to 32, heads one by one, so that no vector loop has a remainder.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.decoder import Decoder, DecoderLayer
from models.native.layout import LayerLayout, LinearLayout, ModelLayout

PANEL, PADDED = 16, 32
UNIT_VALUES = {torch.int8: 4, torch.bfloat16: 2, torch.float32: 1}


@dataclass(slots=True)
class PackedWeights:
    """A model's layout and the tensors its pointers point into.

    dtype: of linear layers, int8, bfloat16 or float32.
    """

    dtype: torch.dtype
    layout: ModelLayout = field(default_factory=ModelLayout)
    tensors: list[Tensor] = field(default_factory=list)
    layers: ctypes.Array[LayerLayout] = field(default_factory=lambda: (LayerLayout * 0)())

    @property
    def nbytes(self) -> int:
        """Bytes of all tensors."""
        return sum(tensor.nbytes for tensor in self.tensors)

    def keep(self, tensor: Tensor | None) -> int | None:
        """Address of a tensor's values, which stay as long as this object."""
        if tensor is None:
            return None
        self.tensors.append(tensor.detach().contiguous())
        return self.tensors[-1].data_ptr()

    def linear(self, weight: Tensor, bias: Tensor | None) -> LinearLayout:
        """A layer (outputs, inputs) whose widths are multiples of PADDED."""
        outputs, inputs = weight.shape
        scales = starts = None
        if self.dtype == torch.int8:
            weight, scales = quantize_weight(weight)
            starts = weight.sum(1, dtype=torch.int32) * -128
        panels = pack_panels(weight.to(self.dtype))
        kept = [self.keep(tensor) for tensor in (panels, scales, starts, bias)]
        return LinearLayout(*kept, outputs, inputs)


def pack_weights(
    decoder: Decoder, dtype: torch.dtype, vectors: Tensor | None = None
) -> PackedWeights:
    """All that the C++ side needs of a decoder, the head apart.

    vectors: (tokens, hidden) bfloat16, embeddings of the token ids behind the vocabulary.
    """
    config, packed = decoder.config, PackedWeights(dtype)
    blocks = cast("Iterable[DecoderLayer]", decoder.model.layers)
    layers = [_layer(packed, config.head_dim, block) for block in blocks]
    packed.layers = (LayerLayout * len(layers))(*layers)
    narrow = dtype != torch.float32
    embedding = decoder.model.embed_tokens.weight
    packed.layout = ModelLayout(
        packed.layers,
        packed.keep(embedding.bfloat16() if narrow else embedding.float()),
        packed.keep(decoder.rotary.cos.float()),
        packed.keep(decoder.rotary.sin.float()),
        config.num_hidden_layers,
        padded(config.hidden_size),
        config.hidden_size,
        padded(config.intermediate_size),
        config.num_attention_heads,
        config.num_key_value_heads,
        padded(config.head_dim),
        config.head_dim,
        narrow,
        config.rms_norm_eps,
        packed.keep(vectors),
        config.vocab_size,
    )
    return packed


def padded(width: int) -> int:
    """The next multiple of PADDED."""
    return -(-width // PADDED) * PADDED


def pack_panels(weight: Tensor) -> Tensor:
    """(outputs, inputs) to (outputs / 16, units, 16, values of a unit)."""
    values = UNIT_VALUES[weight.dtype]
    return weight.view(-1, PANEL, weight.shape[1] // values, values).transpose(1, 2).contiguous()


def quantize_weight(weight: Tensor) -> tuple[Tensor, Tensor]:
    """Symmetric int8 with one scale an output: (outputs, inputs) int8 and (outputs,) float32."""
    scales = weight.abs().amax(1) / 127
    return (weight / scales.clamp(min=1e-30)[:, None]).round().to(torch.int8), scales


def _layer(packed: PackedWeights, dim: int, block: DecoderLayer) -> LayerLayout:
    attention, mlp = block.self_attn, block.mlp
    norms = (block.input_layernorm, block.post_attention_layernorm)
    head_norms = (attention.q_norm, attention.k_norm)
    kept = [packed.keep(_pad(norm.weight, 0)) for norm in norms]
    kept += [packed.keep(None if norm is None else _pad(norm.weight, 0)) for norm in head_norms]
    heads = [_outputs(p, dim) for p in (attention.q_proj, attention.k_proj, attention.v_proj)]
    output = _pad(torch.unflatten(attention.o_proj.weight, 1, (-1, dim)), 2).flatten(1)
    up, up_bias = _outputs(mlp.up_proj)
    gate, gate_bias = _outputs(mlp.gate_proj)
    down, down_bias = _outputs(mlp.down_proj)
    return LayerLayout(
        *kept,
        packed.linear(
            torch.cat([_pad(weight, 1) for weight, _ in heads]),
            _joined([(bias, len(weight)) for weight, bias in heads]),
        ),
        packed.linear(_pad(output, 0), _outputs(attention.o_proj)[1]),
        packed.linear(_pad(_alternate(gate, up), 1), _alternate_bias(gate_bias, up_bias, len(up))),
        packed.linear(_pad(down, 1), down_bias),
    )


def _outputs(layer: nn.Linear, group: int | None = None) -> tuple[Tensor, Tensor | None]:
    """Weight and bias, every `group` of outputs (all, if None) padded."""
    group = group or layer.out_features
    weight = _pad(torch.unflatten(layer.weight.detach(), 0, (-1, group)), 1).flatten(0, 1)
    bias = cast("Tensor | None", layer.bias)
    if bias is None:
        return weight, None
    return weight, _pad(torch.unflatten(bias.detach(), 0, (-1, group)), 1).flatten()


def _joined(parts: list[tuple[Tensor | None, int]]) -> Tensor | None:
    """Biases one after another, zeros for one that is absent."""
    if all(bias is None for bias, _ in parts):
        return None
    return torch.cat([torch.zeros(size) if bias is None else bias for bias, size in parts])


def _alternate(gate: Tensor, up: Tensor) -> Tensor:
    """A panel of gate, a panel of up, and so on."""
    panels = [torch.unflatten(part, 0, (-1, PANEL)) for part in (gate, up)]
    return torch.stack(panels, 1).flatten(0, 2)


def _alternate_bias(gate: Tensor | None, up: Tensor | None, size: int) -> Tensor | None:
    if gate is None and up is None:
        return None
    return _alternate(*(torch.zeros(size) if bias is None else bias for bias in (gate, up)))


def _pad(tensor: Tensor, dim: int) -> Tensor:
    """Zeros behind the end of one dimension, up to a multiple of PADDED."""
    missing = padded(tensor.shape[dim]) - tensor.shape[dim]
    if not missing:
        return tensor.detach()
    return F.pad(tensor.detach(), (0, 0) * (tensor.ndim - 1 - dim) + (0, missing))

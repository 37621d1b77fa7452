"""Packs a decoder's weights as the C++ side reads them. Knows no compiler and no pass.

Widths are padded by zeros to 32, heads one by one, so that no vector loop has a remainder.
Neurons that no output reads, with which pruned layers are filled up to the width of the widest, are
left out.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.decoder import Decoder, DecoderLayer, SwiGLU
from models.linear import row_codes, row_scales
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

    def linear(self, rows: Rows) -> LinearLayout:
        """A layer (outputs, inputs) whose widths are multiples of PADDED."""
        weight, (outputs, inputs) = rows.weight, rows.weight.shape
        scales = starts = None
        if self.dtype == torch.int8:
            weight, scales = quantize_weight(weight, rows.scales)
            starts = weight.sum(1, dtype=torch.int32) * -128
        panels = pack_panels(weight.to(self.dtype))
        kept = [self.keep(tensor) for tensor in (panels, scales, starts, rows.bias)]
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


def quantize_weight(weight: Tensor, scales: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Symmetric int8 with one scale an output: (outputs, inputs) int8 and (outputs,) float32.

    scales: with which the weights were stored; their codes come back as they were.
    """
    codes, column = row_codes(weight, scales)
    return codes, column.flatten()


@dataclass(frozen=True, slots=True)
class Rows:
    """Outputs of a layer: weights (outputs, inputs), and one number an output where there are any.

    scales: of weights that were stored in int8.
    """

    weight: Tensor
    bias: Tensor | None
    scales: Tensor | None

    @classmethod
    def of(cls, layer: nn.Linear, group: int | None = None, kept: Tensor | None = None) -> Rows:
        """Every `group` of outputs (all, if None) padded; only outputs `kept`, if given."""

        def pad(tensor: Tensor | None) -> Tensor | None:
            if tensor is None:
                return None
            found = tensor.detach() if kept is None else tensor.detach()[kept]
            return _pad(torch.unflatten(found, 0, (-1, group or len(found))), 1).flatten(0, 1)

        weight = pad(layer.weight)
        assert weight is not None
        return cls(weight, pad(cast("Tensor | None", layer.bias)), pad(row_scales(layer)))

    @classmethod
    def merged(cls, parts: Sequence[Rows], merge: Callable[[list[Tensor]], Tensor]) -> Rows:
        """All parts as one; zeros for a bias that is absent, no scales unless all have them."""
        biases = [torch.zeros(len(p.weight)) if p.bias is None else p.bias for p in parts]
        scales = [p.scales for p in parts if p.scales is not None]
        return cls(
            merge([part.weight for part in parts]),
            None if all(part.bias is None for part in parts) else merge(biases),
            merge(scales) if len(scales) == len(parts) else None,
        )

    def with_weight(self, weight: Tensor) -> Rows:
        """The same outputs with other inputs."""
        return Rows(weight, self.bias, self.scales)


def _layer(packed: PackedWeights, dim: int, block: DecoderLayer) -> LayerLayout:
    attention, mlp = block.self_attn, block.mlp
    norms = (block.input_layernorm, block.post_attention_layernorm)
    head_norms = (attention.q_norm, attention.k_norm)
    kept = [packed.keep(_pad(norm.weight, 0)) for norm in norms]
    kept += [packed.keep(None if norm is None else _pad(norm.weight, 0)) for norm in head_norms]
    heads = [Rows.of(p, dim) for p in (attention.q_proj, attention.k_proj, attention.v_proj)]
    output = Rows.of(attention.o_proj)
    mixed = _pad(torch.unflatten(output.weight, 1, (-1, dim)), 2).flatten(1)
    live = _live_neurons(mlp)
    gate_up = [Rows.of(layer, kept=live) for layer in (mlp.gate_proj, mlp.up_proj)]
    down = Rows.of(mlp.down_proj)
    products = (
        Rows.merged(heads, torch.cat),
        output.with_weight(mixed),
        Rows.merged(gate_up, _alternate),
        down if live is None else down.with_weight(down.weight[:, live]),
    )
    padded_products = (rows.with_weight(_pad(rows.weight, 1)) for rows in products)
    return LayerLayout(*kept, *map(packed.linear, padded_products))


def _live_neurons(mlp: SwiGLU) -> Tensor | None:
    """Indices of neurons that the output reads, None if all are; at least one."""
    read = (mlp.down_proj.weight != 0).any(0)
    read[0] |= not bool(read.any())
    return None if bool(read.all()) else read.nonzero().flatten()


def _alternate(gate_up: list[Tensor]) -> Tensor:
    """A panel of gate, a panel of up, and so on."""
    panels = [torch.unflatten(part, 0, (-1, PANEL)) for part in gate_up]
    return torch.stack(panels, 1).flatten(0, 2)


def _pad(tensor: Tensor, dim: int) -> Tensor:
    """Zeros behind the end of one dimension, up to a multiple of PADDED."""
    missing = padded(tensor.shape[dim]) - tensor.shape[dim]
    if not missing:
        return tensor.detach()
    return F.pad(tensor.detach(), (0, 0) * (tensor.ndim - 1 - dim) + (0, missing))

"""The decoder as a device runs it: fused weights, static shapes, pages instead of prefixes.

Nothing here waits for the device or depends on a value, so that a graph can hold the whole pass.
Knows nothing of batches, buckets or cache policy.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kernels.attention.paged_attention_tiles import MAX_ROWS
from kernels.paged_attention import HEAD_DIMS, paged_attention
from kernels.qk_norm_rope import PageStore, qk_norm_rope
from kernels.rope import rope
from models.config import DecoderConfig
from models.decoder import Decoder, DecoderLayer
from models.engines.arithmetic import Arithmetic, Weight
from models.engines.paged_cache import WASTE_PAGE
from models.engines.pass_inputs import PassInputs
from models.errors import ModelUnavailableError
from models.head_card import HeadOutputs
from models.heads import ScoringHeads
from models.label_mass import LabelMass


class PassOutputs(NamedTuple):
    """What a pass gives for each of its `last_rows`."""

    logits: Tensor  # (items, heads) float32
    hidden: Tensor  # (items, hidden) before the final norm


@dataclass(frozen=True, slots=True)
class FusedLayer:
    """One layer's weights; query, key and value share a product, and so do gate and up."""

    input_norm: Tensor  # (hidden,)
    head_norms: tuple[Tensor, Tensor] | None  # of queries and keys, (head_dim,) each
    post_norm: Tensor  # (hidden,)
    qkv: Weight  # ((heads + 2 kv_heads) head_dim, hidden)
    output: Weight  # (hidden, heads head_dim)
    gate_up: Weight  # (2 intermediate, hidden)
    down: Weight  # (hidden, intermediate)

    @classmethod
    def of(cls, layer: nn.Module, arithmetic: Arithmetic, device: torch.device) -> FusedLayer:
        """Copies of the layer's weights."""
        assert isinstance(layer, DecoderLayer)
        attention, mlp = layer.self_attn, layer.mlp
        q_norm, k_norm = attention.q_norm, attention.k_norm

        def norm(module: nn.RMSNorm) -> Tensor:
            return module.weight.detach().to(device, arithmetic.dtype)

        def fused(*modules: nn.Linear) -> Weight:
            weight = torch.cat([module.weight for module in modules])
            biased = modules[0].bias is not None  # the modules of one product are all alike
            bias = torch.cat([module.bias for module in modules]) if biased else None
            return arithmetic.pack(weight, device, bias)

        return cls(
            input_norm=norm(layer.input_layernorm),
            head_norms=(norm(q_norm), norm(k_norm)) if q_norm and k_norm else None,
            post_norm=norm(layer.post_attention_layernorm),
            qkv=fused(attention.q_proj, attention.k_proj, attention.v_proj),
            output=fused(attention.o_proj),
            gate_up=fused(mlp.gate_proj, mlp.up_proj),
            down=fused(mlp.down_proj),
        )


def refuse_other_heads(config: DecoderConfig) -> None:
    """Raises ModelUnavailableError for heads that the attention kernel has no tiles for."""
    group = config.num_attention_heads // config.num_key_value_heads
    if config.head_dim not in HEAD_DIMS or group > MAX_ROWS:
        raise ModelUnavailableError(
            f"a model with head_dim {config.head_dim} and {group} query heads to a key head is "
            f"not served on a GPU, where head_dim is one of {HEAD_DIMS} and a key head has at most "
            f"{MAX_ROWS}; pass device='cpu'"
        )


class DeviceDecoder:
    """Raw logits of one pass of at most `max_tokens`; weights are copies on `device`.

    label_mass: reads those copies; to be fed with the hidden states of passes.
    """

    def __init__(
        self,
        decoder: Decoder,
        heads: Sequence[HeadOutputs],
        arithmetic: Arithmetic,
        device: torch.device,
        max_tokens: int,
        vectors: Tensor | None = None,
    ) -> None:
        self.config = config = decoder.config
        self._arithmetic = arithmetic
        embedding = decoder.model.embed_tokens.weight.detach()
        tables = [embedding] if vectors is None else [embedding, vectors]
        self._embedding = torch.cat([table.to(device, arithmetic.dtype) for table in tables])
        self._layers = [FusedLayer.of(layer, arithmetic, device) for layer in decoder.model.layers]
        self._heads = ScoringHeads.of(decoder, heads).to(device)
        self.label_mass = LabelMass(decoder, heads).reading(self._output_embedding(decoder))
        half = config.head_dim // 2  # the first half of a row repeats this one, sines negated
        self._cos = decoder.rotary.cos[:, half:].to(device).contiguous()
        self._sin = decoder.rotary.sin[:, half:].to(device).contiguous()
        # Attention writes no padding, whose rows must stay finite: they begin as zeros.
        mixed = (max_tokens, config.num_attention_heads, config.head_dim)
        self._mixed = torch.zeros(mixed, dtype=arithmetic.dtype, device=device)

    def __call__(self, inputs: PassInputs, keys: Tensor, values: Tensor) -> PassOutputs:
        """keys, values: the pool, (layers, pages, page_size, kv_heads, head_dim), written in place.

        Returns a row for each of `inputs.last_rows`.
        """
        run, eps = self._arithmetic, self.config.rms_norm_eps
        slots = self._slots(inputs)
        embedded = F.embedding(inputs.token_ids, self._embedding)
        normed, residual = run.norm(embedded, None, self._layers[0].input_norm, eps)
        for index, layer in enumerate(self._layers):
            qkv = run.linear(normed, layer.qkv)
            mixed = self._mix(layer, qkv, inputs, slots, keys[index], values[index])
            if index == len(self._layers) - 1:
                mixed = mixed.index_select(0, inputs.last_rows)
                residual = residual.index_select(0, inputs.last_rows)
            mixed = run.linear(run.rows(mixed), layer.output)
            normed, residual = run.norm(mixed, residual, layer.post_norm, eps)
            hidden = run.linear(run.swiglu(run.linear(normed, layer.gate_up)), layer.down)
            if index < len(self._layers) - 1:
                following = self._layers[index + 1].input_norm
                normed, residual = run.norm(hidden, residual, following, eps)
        hidden = residual + hidden
        return PassOutputs(self._heads.raw_logits(hidden), hidden)

    def _output_embedding(self, decoder: Decoder) -> Tensor:
        """Held once where it is the tokens' own."""
        output = decoder.output_embedding
        if output is decoder.model.embed_tokens.weight:
            return self._embedding[: decoder.config.vocab_size]
        return output.detach().to(self._embedding)

    def _slots(self, inputs: PassInputs) -> Tensor:
        """As the store of this family takes them: torch's own wants a cell for every token."""
        if self.config.qk_norm:
            return inputs.slots
        return inputs.slots.clamp(min=WASTE_PAGE).long()

    def _mix(
        self,
        layer: FusedLayer,
        qkv: Tensor,
        inputs: PassInputs,
        slots: Tensor,
        keys: Tensor,
        values: Tensor,
    ) -> Tensor:
        """Attention of every token to its pages and its segment: (T, heads head_dim)."""
        config = self.config
        heads, kv_heads = config.num_attention_heads, config.num_key_value_heads
        by_head = qkv.view(len(qkv), -1, config.head_dim)
        q, k, v = by_head.split_with_sizes([heads, kv_heads, kv_heads], 1)
        self._turn(layer, q, k, inputs.positions, PageStore(v, keys, values, slots))
        mixed = self._mixed[: len(q)]
        paged_attention(
            q, k, v, keys, values, inputs,
            tile_tokens=inputs.tile_tokens, out=mixed, backend=self._arithmetic.backend,
        )  # fmt: skip
        return mixed.flatten(1)

    def _turn(
        self, layer: FusedLayer, q: Tensor, k: Tensor, positions: Tensor, store: PageStore
    ) -> None:
        """Heads normed where the family does and rotated, in place, and keys and values kept."""
        out, where, backend = (q, k), (self._cos, self._sin, positions), self._arithmetic.backend
        if layer.head_norms:
            eps = self.config.rms_norm_eps
            qk_norm_rope(
                q, k, *layer.head_norms, eps, *where, out=out, store=store, backend=backend
            )
            return
        rope(q, k, *where, out=out, backend=backend)
        store.key_pages.flatten(0, 1).index_copy_(0, store.slots, k)
        store.value_pages.flatten(0, 1).index_copy_(0, store.slots, store.values)

"""The decoder as a device runs it: fused weights, static shapes, pages instead of prefixes.

Nothing here waits for the device or depends on a value, so that a graph can hold the whole pass.
Knows nothing of batches, buckets or cache policy.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kernels.paged_attention import paged_attention
from kernels.qk_norm_rope import PageStore, qk_norm_rope
from models.config import DecoderConfig
from models.decoder import Decoder, DecoderLayer
from models.engines.arithmetic import Arithmetic, Rows
from models.engines.pass_inputs import PassInputs
from models.errors import ModelUnavailableError
from models.head_card import HeadOutputs
from models.heads import ScoringHeads


@dataclass(frozen=True, slots=True)
class FusedLayer:
    """One layer's weights; query, key and value share a product, and so do gate and up."""

    input_norm: Tensor  # (hidden,)
    q_norm: Tensor  # (head_dim,)
    k_norm: Tensor  # (head_dim,)
    post_norm: Tensor  # (hidden,)
    qkv: Rows  # ((heads + 2 kv_heads) head_dim, hidden)
    output: Rows  # (hidden, heads head_dim)
    gate_up: Rows  # (2 intermediate, hidden)
    down: Rows  # (hidden, intermediate)

    @classmethod
    def of(cls, layer: nn.Module, arithmetic: Arithmetic, device: torch.device) -> FusedLayer:
        """Copies of the layer's weights."""
        assert isinstance(layer, DecoderLayer)
        attention, mlp = layer.self_attn, layer.mlp
        assert attention.q_norm is not None
        assert attention.k_norm is not None

        def norm(module: nn.RMSNorm) -> Tensor:
            return module.weight.detach().to(device, arithmetic.dtype)

        def fused(*modules: nn.Linear) -> Rows:
            return arithmetic.pack(torch.cat([module.weight for module in modules]), device)

        return cls(
            input_norm=norm(layer.input_layernorm),
            q_norm=norm(attention.q_norm),
            k_norm=norm(attention.k_norm),
            post_norm=norm(layer.post_attention_layernorm),
            qkv=fused(attention.q_proj, attention.k_proj, attention.v_proj),
            output=fused(attention.o_proj),
            gate_up=fused(mlp.gate_proj, mlp.up_proj),
            down=fused(mlp.down_proj),
        )


def refuse_other_families(config: DecoderConfig) -> None:
    """Raises ModelUnavailableError unless a layer is one of norms, rotation and plain products."""
    biased = config.attention_bias or config.output_bias or config.mlp_bias
    if config.qk_norm and not biased:
        return
    found = f"a {config.model_type} model{' with biases' if biased else ''}"
    raise ModelUnavailableError(
        f"{found} is not served on a GPU, where layers are qwen3's without biases; pass "
        "device='cpu'"
    )


class DeviceDecoder:
    """Raw logits of one pass of at most `max_tokens`; weights are copies on `device`."""

    def __init__(
        self,
        decoder: Decoder,
        heads: Sequence[HeadOutputs],
        arithmetic: Arithmetic,
        device: torch.device,
        max_tokens: int,
    ) -> None:
        self.config = config = decoder.config
        self._arithmetic = arithmetic
        embedding = decoder.model.embed_tokens.weight.detach()
        self._embedding = embedding.to(device, arithmetic.dtype)
        self._layers = [FusedLayer.of(layer, arithmetic, device) for layer in decoder.model.layers]
        self._heads = ScoringHeads.of(decoder, heads).to(device)
        half = config.head_dim // 2  # the first half repeats this one, sines negated
        self._cos = decoder.rotary.cos[:, half:].to(device).contiguous()
        self._sin = decoder.rotary.sin[:, half:].to(device).contiguous()
        # Attention writes no padding, whose rows must stay finite: they begin as zeros.
        mixed = (max_tokens, config.num_attention_heads, config.head_dim)
        self._mixed = torch.zeros(mixed, dtype=arithmetic.dtype, device=device)

    def __call__(self, inputs: PassInputs, keys: Tensor, values: Tensor) -> Tensor:
        """keys, values: the pool, (layers, pages, page_size, kv_heads, head_dim), written in place.

        Returns (items, heads) float32, a row for each of `inputs.last_rows`.
        """
        run, eps = self._arithmetic, self.config.rms_norm_eps
        embedded = F.embedding(inputs.token_ids, self._embedding)
        normed, residual = run.norm(embedded, None, self._layers[0].input_norm, eps)
        for index, layer in enumerate(self._layers):
            mixed = self._mix(layer, normed, inputs, keys[index], values[index])
            if index == len(self._layers) - 1:
                mixed = mixed.index_select(0, inputs.last_rows)
                residual = residual.index_select(0, inputs.last_rows)
            mixed = run.linear(run.rows(mixed), layer.output)
            normed, residual = run.norm(mixed, residual, layer.post_norm, eps)
            hidden = run.linear(run.swiglu(run.linear(normed, layer.gate_up)), layer.down)
            if index < len(self._layers) - 1:
                following = self._layers[index + 1].input_norm
                normed, residual = run.norm(hidden, residual, following, eps)
        return self._heads.raw_logits(residual + hidden)

    def _mix(
        self, layer: FusedLayer, x: Rows, inputs: PassInputs, keys: Tensor, values: Tensor
    ) -> Tensor:
        """Attention of every token to its pages and its segment: (T, heads head_dim)."""
        config, backend = self.config, self._arithmetic.backend
        heads, kv_heads = config.num_attention_heads, config.num_key_value_heads
        fused = self._arithmetic.linear(x, layer.qkv)
        by_head = fused.view(len(fused), -1, config.head_dim)
        q, k, v = by_head.split_with_sizes([heads, kv_heads, kv_heads], 1)
        qk_norm_rope(
            q, k, layer.q_norm, layer.k_norm, config.rms_norm_eps,
            self._cos, self._sin, inputs.positions,
            out=(q, k), store=PageStore(v, keys, values, inputs.slots), backend=backend,
        )  # fmt: skip
        mixed = self._mixed[: len(q)]
        paged_attention(
            q, k, v, keys, values, inputs,
            tile_tokens=inputs.tile_tokens, out=mixed, backend=backend,
        )  # fmt: skip
        return mixed.flatten(1)

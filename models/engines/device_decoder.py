"""The decoder as a device runs it: fused weights, static shapes, pages instead of prefixes.

Nothing here waits for the device or depends on a value, so that a graph can hold the whole pass.
Knows nothing of batches, buckets or cache policy.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kernels.norm import add_rms_norm, rms_norm
from kernels.paged_attention import paged_attention
from models.config import DecoderConfig
from models.decoder import Decoder, DecoderLayer
from models.engines.interim_ops import qk_norm_rope, swiglu_packed
from models.engines.pass_inputs import PassInputs
from models.heads import LabelHead


@dataclass(frozen=True, slots=True)
class FusedLayer:
    """One layer's weights; query, key and value share a product, and so do gate and up."""

    input_norm: Tensor  # (hidden,)
    qkv: Tensor  # ((heads + 2 kv_heads) head_dim, hidden)
    q_norm: Tensor  # (head_dim,)
    k_norm: Tensor  # (head_dim,)
    output: Tensor  # (hidden, heads head_dim)
    post_norm: Tensor  # (hidden,)
    gate_up: Tensor  # (2 intermediate, hidden)
    down: Tensor  # (hidden, intermediate)

    @classmethod
    def of(cls, layer: nn.Module, dtype: torch.dtype, device: torch.device) -> FusedLayer:
        """Copies of the layer's weights."""
        assert isinstance(layer, DecoderLayer)
        attention, mlp = layer.self_attn, layer.mlp
        qkv = (attention.q_proj, attention.k_proj, attention.v_proj)
        weights = (
            layer.input_layernorm.weight,
            torch.cat([projection.weight for projection in qkv]),
            attention.q_norm.weight,
            attention.k_norm.weight,
            attention.o_proj.weight,
            layer.post_attention_layernorm.weight,
            torch.cat((mlp.gate_proj.weight, mlp.up_proj.weight)),
            mlp.down_proj.weight,
        )
        return cls(*(weight.detach().to(device, dtype) for weight in weights))


class DeviceDecoder:
    """Raw logits of one pass; weights are copies in `dtype` on `device`.

    backend: of the kernels, see `kernels.dispatch.choose_backend`.
    """

    def __init__(
        self,
        decoder: Decoder,
        label_ids: tuple[int, int],
        dtype: torch.dtype,
        device: torch.device,
        backend: str = "auto",
    ) -> None:
        self.config: DecoderConfig = decoder.config
        self._backend = backend
        self._embedding = decoder.model.embed_tokens.weight.detach().to(device, dtype)
        self._layers = [FusedLayer.of(layer, dtype, device) for layer in decoder.model.layers]
        self._head = LabelHead.from_decoder(decoder, label_ids).to(device)
        half = (
            decoder.config.head_dim // 2
        )  # the tables' halves differ in the sign of the sine only
        self._cos = decoder.rotary.cos[:, half:].to(device).contiguous()
        self._sin = decoder.rotary.sin[:, half:].to(device).contiguous()

    def __call__(self, inputs: PassInputs, keys: Tensor, values: Tensor) -> Tensor:
        """keys, values: the pool, (layers, pages, page_size, kv_heads, head_dim), written in place.

        Returns (rows,) float32, one for each of `inputs.last_rows`.
        """
        eps, backend = self.config.rms_norm_eps, self._backend
        residual = F.embedding(inputs.token_ids, self._embedding)
        normed = rms_norm(residual, self._layers[0].input_norm, eps, backend=backend)
        for index, layer in enumerate(self._layers):
            mixed = self._mix(layer, normed, inputs, keys[index], values[index])
            if index == len(self._layers) - 1:
                mixed = mixed.index_select(0, inputs.last_rows)
                residual = residual.index_select(0, inputs.last_rows)
            mixed = F.linear(mixed, layer.output)
            normed, residual = add_rms_norm(mixed, residual, layer.post_norm, eps, backend=backend)
            gate_up = F.linear(normed, layer.gate_up)
            hidden = F.linear(swiglu_packed(gate_up, backend=backend), layer.down)
            if index < len(self._layers) - 1:
                following = self._layers[index + 1].input_norm
                normed, residual = add_rms_norm(hidden, residual, following, eps, backend=backend)
        return self._head.raw_logits(residual + hidden)

    def _mix(
        self, layer: FusedLayer, x: Tensor, inputs: PassInputs, keys: Tensor, values: Tensor
    ) -> Tensor:
        """Attention of every token to its pages and its segment: (T, heads head_dim)."""
        config, backend = self.config, self._backend
        heads, kv_heads = config.num_attention_heads, config.num_key_value_heads
        qkv = F.linear(x, layer.qkv).view(len(x), -1, config.head_dim)
        q, k, v = qkv.split((heads, kv_heads, kv_heads), dim=1)
        qk_norm_rope(
            q, k, layer.q_norm, layer.k_norm, self._cos, self._sin, inputs.positions,
            config.rms_norm_eps, v, keys, values, inputs.slots, backend=backend,
        )  # fmt: skip
        mixed = paged_attention(
            q, k, v, keys, values, inputs, tile_tokens=inputs.tile_tokens, backend=backend
        )
        return mixed.flatten(1)

"""One Qwen3 forward pass over a flat row of tokens. Knows nothing of slates, caches or batches:

who attends to whom is the caller's `Attention`, so training, serving and tests share these weights.
"""

from __future__ import annotations

from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.config import DecoderConfig


class Attention(Protocol):
    """Mixes values between tokens for one layer.

    q: (T, heads, head_dim), k and v: (T, kv_heads, head_dim), rotated and normalised.
    Returns (T, heads, head_dim). Which token sees which is the implementation's whole job.
    """

    def __call__(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor: ...


class Rotary(nn.Module):
    """Tables (max_positions, head_dim) of Hugging Face's rotate-half convention.

    rotated = x cos + swap(x) sin, where swap exchanges the halves of a head and `sin` carries the
    minus sign of its first half.
    """

    cos: Tensor
    sin: Tensor

    def __init__(self, config: DecoderConfig) -> None:
        super().__init__()
        exponent = torch.arange(0, config.head_dim, 2, dtype=torch.float32) / config.head_dim
        inverse_frequency = config.rope_theta**-exponent
        positions = torch.arange(config.max_position_embeddings, dtype=torch.float32)
        angles = torch.outer(positions, inverse_frequency)
        self.register_buffer("cos", angles.cos().repeat(1, 2), persistent=False)
        self.register_buffer("sin", torch.cat((-angles.sin(), angles.sin()), 1), persistent=False)

    def forward(self, x: Tensor, positions: Tensor) -> Tensor:
        # index_select and addcmul: half the time of indexing and of separate products on a CPU.
        cos = self.cos.index_select(0, positions).unsqueeze(1).to(x.dtype)
        sin = self.sin.index_select(0, positions).unsqueeze(1).to(x.dtype)
        left, right = x.chunk(2, dim=-1)
        return torch.addcmul(x * cos, torch.cat((right, left), dim=-1), sin)


class SelfAttention(nn.Module):
    """Projections, q/k norms and rotation around the caller's Attention."""

    def __init__(self, config: DecoderConfig) -> None:
        super().__init__()
        self.head_dim = config.head_dim
        heads, kv_heads = config.num_attention_heads, config.num_key_value_heads
        self.q_proj = nn.Linear(config.hidden_size, heads * config.head_dim, bias=False)
        self.k_proj = nn.Linear(config.hidden_size, kv_heads * config.head_dim, bias=False)
        self.v_proj = nn.Linear(config.hidden_size, kv_heads * config.head_dim, bias=False)
        self.o_proj = nn.Linear(heads * config.head_dim, config.hidden_size, bias=False)
        self.q_norm = nn.RMSNorm(config.head_dim, eps=config.rms_norm_eps)
        self.k_norm = nn.RMSNorm(config.head_dim, eps=config.rms_norm_eps)

    def forward(
        self,
        x: Tensor,
        layer: int,
        positions: Tensor,
        rotary: Rotary,
        attention: Attention,
        rows: Tensor | None = None,
    ) -> Tensor:
        q = rotary(self.q_norm(self.q_proj(x).unflatten(-1, (-1, self.head_dim))), positions)
        k = rotary(self.k_norm(self.k_proj(x).unflatten(-1, (-1, self.head_dim))), positions)
        v = self.v_proj(x).unflatten(-1, (-1, self.head_dim))
        mixed = attention(layer, q, k, v).flatten(1)
        return self.o_proj(mixed if rows is None else mixed[rows])  # type: ignore[no-any-return]


class SwiGLU(nn.Module):
    """down(silu(gate(x)) * up(x))."""

    def __init__(self, config: DecoderConfig) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.up_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.down_proj = nn.Linear(config.intermediate_size, config.hidden_size, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))  # type: ignore[no-any-return]


class DecoderLayer(nn.Module):
    """Pre-norm attention and MLP with residuals; parameter names are Hugging Face's."""

    def __init__(self, config: DecoderConfig) -> None:
        super().__init__()
        self.self_attn = SelfAttention(config)
        self.mlp = SwiGLU(config)
        self.input_layernorm = nn.RMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        self.post_attention_layernorm = nn.RMSNorm(config.hidden_size, eps=config.rms_norm_eps)

    def forward(
        self,
        x: Tensor,
        layer: int,
        positions: Tensor,
        rotary: Rotary,
        attention: Attention,
        rows: Tensor | None = None,
    ) -> Tensor:
        mixed = self.self_attn(self.input_layernorm(x), layer, positions, rotary, attention, rows)
        x = (x if rows is None else x[rows]) + mixed
        return x + self.mlp(self.post_attention_layernorm(x))  # type: ignore[no-any-return]


class DecoderBody(nn.Module):
    """Embedding, layers and final norm: the `model.` half of the Hugging Face state dict."""

    def __init__(self, config: DecoderConfig) -> None:
        super().__init__()
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(DecoderLayer(config) for _ in range(config.num_hidden_layers))
        self.norm = nn.RMSNorm(config.hidden_size, eps=config.rms_norm_eps)


class Decoder(nn.Module):
    """Qwen3ForCausalLM whose state dict is Hugging Face's, name for name (`lm_head` if untied)."""

    def __init__(self, config: DecoderConfig) -> None:
        super().__init__()
        self.config = config
        self.model = DecoderBody(config)
        self.rotary = Rotary(config)
        if not config.tie_word_embeddings:
            self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)

    @property
    def output_embedding(self) -> Tensor:
        """(vocab, hidden): the rows a label logit is a dot product with."""
        return (
            self.model.embed_tokens.weight
            if self.config.tie_word_embeddings
            else self.lm_head.weight
        )

    def forward(
        self,
        token_ids: Tensor,
        positions: Tensor,
        attention: Attention,
        rows: Tensor | None = None,
    ) -> Tensor:
        """token_ids, positions: (T,) int64. Returns (T, hidden), before the final norm.

        `rows` (R,) int64 asks for those tokens only: the last layer computes no others' MLP, and
        the answer is (R, hidden).
        """
        x = self.model.embed_tokens(token_ids)
        last = len(self.model.layers) - 1
        for layer, block in enumerate(self.model.layers):
            wanted = rows if layer == last else None
            x = block(x, layer, positions, self.rotary, attention, wanted)
        return x  # type: ignore[no-any-return]

"""Reads a decoder's architecture from a Hugging Face `config.json`. Knows nothing of weights."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from models.errors import ModelDirectoryError


@dataclass(frozen=True, slots=True)
class DecoderConfig:
    """Shape of a Qwen3-architecture decoder; field names are those of `config.json`."""

    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    rms_norm_eps: float = 1e-6
    rope_theta: float = 10000.0
    max_position_embeddings: int = 2048
    tie_word_embeddings: bool = True

    def to_hugging_face(self) -> dict[str, Any]:
        """`config.json` content which plain transformers and vLLM load as `Qwen3ForCausalLM`."""
        return {
            "architectures": ["Qwen3ForCausalLM"],
            "model_type": "qwen3",
            "attention_bias": False,
            "attention_dropout": 0.0,
            "hidden_act": "silu",
            "use_sliding_window": False,
            "use_cache": True,
            "vocab_size": self.vocab_size,
            "hidden_size": self.hidden_size,
            "intermediate_size": self.intermediate_size,
            "num_hidden_layers": self.num_hidden_layers,
            "num_attention_heads": self.num_attention_heads,
            "num_key_value_heads": self.num_key_value_heads,
            "head_dim": self.head_dim,
            "rms_norm_eps": self.rms_norm_eps,
            "rope_theta": self.rope_theta,
            "rope_parameters": {"rope_type": "default", "rope_theta": self.rope_theta},
            "max_position_embeddings": self.max_position_embeddings,
            "tie_word_embeddings": self.tie_word_embeddings,
        }

    def weight_shapes(self) -> dict[str, list[int]]:
        """Name and shape of every tensor that `model.safetensors` holds."""
        hidden, intermediate = self.hidden_size, self.intermediate_size
        queries = self.num_attention_heads * self.head_dim
        keys = self.num_key_value_heads * self.head_dim
        layer = {
            "input_layernorm": [hidden],
            "mlp.down_proj": [hidden, intermediate],
            "mlp.gate_proj": [intermediate, hidden],
            "mlp.up_proj": [intermediate, hidden],
            "post_attention_layernorm": [hidden],
            "self_attn.k_norm": [self.head_dim],
            "self_attn.k_proj": [keys, hidden],
            "self_attn.o_proj": [hidden, queries],
            "self_attn.q_norm": [self.head_dim],
            "self_attn.q_proj": [queries, hidden],
            "self_attn.v_proj": [keys, hidden],
        }
        shapes = {"model.embed_tokens.weight": [self.vocab_size, hidden]}
        for index in range(self.num_hidden_layers):
            shapes |= {f"model.layers.{index}.{name}.weight": layer[name] for name in layer}
        shapes["model.norm.weight"] = [hidden]
        output = {} if self.tie_word_embeddings else {"lm_head.weight": [self.vocab_size, hidden]}
        return shapes | output

    @classmethod
    def from_directory(cls, directory: Path) -> DecoderConfig:
        """Raises ModelDirectoryError when `config.json` is absent, unreadable or not Qwen3."""
        path = directory / "config.json"
        try:
            raw = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise ModelDirectoryError(
                f"{path}: cannot be read ({error}); export it again"
            ) from error
        return cls.from_hugging_face(raw, source=str(path))

    @classmethod
    def from_hugging_face(cls, raw: Any, source: str) -> DecoderConfig:
        """Takes `rope_theta` from either place (transformers 5 nests it in `rope_parameters`)."""
        model_type = raw.get("model_type") if isinstance(raw, dict) else None
        if model_type != "qwen3":
            raise ModelDirectoryError(
                f"{source}: model_type {model_type!r} is not served; export a qwen3 model"
            )
        rope = raw.get("rope_parameters") or {}
        theta = rope.get("rope_theta", raw.get("rope_theta", 10000.0))
        names = cls.__dataclass_fields__.keys() - {"rope_theta"}
        try:
            return cls(**{name: raw[name] for name in names if name in raw}, rope_theta=theta)
        except TypeError as error:
            raise ModelDirectoryError(f"{source}: {error}; export it again") from error

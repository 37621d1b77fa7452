"""The architecture of a decoder, and the tensors it is made of. Knows no file and no weights."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from models.quantization import Quantization
from models.rope_scaling import UNSCALED, RopeScaling

# `model_type` of each served family, and how transformers' classes of it begin.
FAMILIES = {"qwen3": "Qwen3", "qwen2": "Qwen2", "llama": "Llama", "mistral": "Mistral"}


@dataclass(frozen=True, slots=True)
class DecoderConfig:
    """Shape of a decoder with RMS norms, rotary positions and SwiGLU, as all families have them.

    Field names are those of `config.json` where it has them. A sliding window is inert as far as
    `max_tokens`, the longest run of tokens that is served.
    """

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
    model_type: str = "qwen3"
    attention_bias: bool = False  # of query, key and value
    output_bias: bool = False  # of the attention's output
    mlp_bias: bool = False
    rope_scaling: RopeScaling = UNSCALED
    sliding_window: int | None = None
    num_labels: int = 0  # rows of a classification head; 0 for a language model
    quantization: Quantization | None = None  # of the stored weights, not of those computed with

    @property
    def qk_norm(self) -> bool:
        """Whether queries and keys are normalised by head."""
        return self.model_type == "qwen3"

    @property
    def max_tokens(self) -> int:
        """The longest context and candidate together."""
        positions = self.max_position_embeddings
        return min(positions, self.sliding_window or positions)

    @property
    def architecture(self) -> str:
        """Name of transformers' class."""
        task = "SequenceClassification" if self.num_labels else "CausalLM"
        return f"{FAMILIES[self.model_type]}For{task}"

    def to_hugging_face(self) -> dict[str, Any]:
        """`config.json` content which plain transformers and vLLM load as `architecture`."""
        content = {
            "architectures": [self.architecture],
            "model_type": self.model_type,
            "attention_bias": self.attention_bias,
            "attention_dropout": 0.0,
            "hidden_act": "silu",
            "use_sliding_window": self.sliding_window is not None,
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
            "rope_parameters": self.rope_scaling.to_hugging_face(self.rope_theta),
            "max_position_embeddings": self.max_position_embeddings,
            "tie_word_embeddings": self.tie_word_embeddings,
        }
        return content | self._rare_fields()

    def _rare_fields(self) -> dict[str, Any]:
        """What only some models have to say."""
        rare: dict[str, Any] = {}
        if self.model_type == "llama":
            rare["mlp_bias"] = self.mlp_bias
        if self.model_type == "mistral" or self.sliding_window:
            rare["sliding_window"] = self.sliding_window
        if self.sliding_window:
            rare["max_window_layers"] = 0
        if self.num_labels:
            rare["id2label"] = {str(row): f"LABEL_{row}" for row in range(self.num_labels)}
        return rare

    def weight_shapes(self) -> dict[str, list[int]]:
        """Name and shape of every weight, however it is stored."""
        hidden = self.hidden_size
        shapes = {"model.embed_tokens.weight": [self.vocab_size, hidden]}
        layer = self._layer_shapes()
        for index in range(self.num_hidden_layers):
            shapes |= {f"model.layers.{index}.{name}": layer[name] for name in layer}
        shapes["model.norm.weight"] = [hidden]
        if self.num_labels:
            return shapes | {"score.weight": [self.num_labels, hidden]}
        output = {} if self.tie_word_embeddings else {"lm_head.weight": [self.vocab_size, hidden]}
        return shapes | output

    def _layer_shapes(self) -> dict[str, list[int]]:
        hidden, intermediate = self.hidden_size, self.intermediate_size
        queries = self.num_attention_heads * self.head_dim
        keys = self.num_key_value_heads * self.head_dim
        products = {
            "self_attn.q_proj": ([queries, hidden], self.attention_bias),
            "self_attn.k_proj": ([keys, hidden], self.attention_bias),
            "self_attn.v_proj": ([keys, hidden], self.attention_bias),
            "self_attn.o_proj": ([hidden, queries], self.output_bias),
            "mlp.gate_proj": ([intermediate, hidden], self.mlp_bias),
            "mlp.up_proj": ([intermediate, hidden], self.mlp_bias),
            "mlp.down_proj": ([hidden, intermediate], self.mlp_bias),
        }
        shapes = {f"{name}.weight": shape for name, (shape, _) in products.items()}
        shapes |= {f"{name}.bias": shape[:1] for name, (shape, bias) in products.items() if bias}
        norms = {"input_layernorm": hidden, "post_attention_layernorm": hidden}
        if self.qk_norm:
            norms |= {"self_attn.q_norm": self.head_dim, "self_attn.k_norm": self.head_dim}
        return shapes | {f"{name}.weight": [width] for name, width in norms.items()}

"""A BERT encoder in plain torch, tensor names as Hugging Face's. Knows nothing of pairs or heads.

Parameters stay in fp32; the pass runs in whatever dtype it is asked for, so that one module trains
in bf16 on a GPU and in fp32 on a CPU.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor, nn

from models.errors import ModelDirectoryError

CONFIG_NAME, WEIGHTS_NAME, TOKENIZER_NAME = "config.json", "model.safetensors", "tokenizer.json"


@dataclass(frozen=True, slots=True)
class EncoderConfig:
    """Shape of a BERT encoder; the names are those of its config.json."""

    vocab_size: int
    hidden_size: int
    num_hidden_layers: int
    num_attention_heads: int
    intermediate_size: int
    max_position_embeddings: int
    type_vocab_size: int = 2
    layer_norm_eps: float = 1e-12

    @classmethod
    def load(cls, path: Path) -> EncoderConfig:
        """Raises ModelDirectoryError for what is no BERT config."""
        try:
            raw = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise ModelDirectoryError(
                f"{path}: cannot be read ({error}); name the folder of a BERT encoder"
            ) from error
        if raw.get("model_type") != "bert" or raw.get("hidden_act") != "gelu":
            raise ModelDirectoryError(f"{path}: not a BERT encoder with gelu; use one that is")
        return cls(**{name: raw[name] for name in cls.__slots__ if name in raw})


class EncoderLayer(nn.Module):
    """Post-norm attention and MLP."""

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        size, inner = config.hidden_size, config.intermediate_size
        self.heads = config.num_attention_heads
        self.attention = nn.ModuleDict(
            {
                "self": nn.ModuleDict(
                    {name: nn.Linear(size, size) for name in ("query", "key", "value")}
                ),
                "output": _sublayer_output(size, size, config.layer_norm_eps),
            }
        )
        self.intermediate = nn.ModuleDict({"dense": nn.Linear(size, inner)})
        self.output = _sublayer_output(inner, size, config.layer_norm_eps)

    def forward(self, x: Tensor, visible: Tensor, dropout: float) -> Tensor:
        """x: (N, L, hidden); visible: (N, 1, 1, L) bool."""
        parts = self.attention["self"].values()  # type: ignore[operator]
        weight = torch.cat([part.weight for part in parts]).to(x.dtype)
        bias = torch.cat([part.bias for part in parts]).to(x.dtype)
        qkv = _attended_in(F.linear(x, weight, bias)).unflatten(-1, (3, self.heads, -1))  # type: ignore[no-untyped-call]
        q, k, v = (part.transpose(1, 2) for part in qkv.unbind(2))
        mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=visible).to(x.dtype)
        x = _add_norm(self.attention["output"], x, mixed.transpose(1, 2).flatten(2), dropout)
        inner = F.gelu(_linear(self.intermediate["dense"], x))
        return _add_norm(self.output, x, inner, dropout)


class Encoder(nn.Module):
    """Token ids to contextual vectors."""

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.config = config
        size = config.hidden_size
        self.embeddings = nn.ModuleDict(
            {
                "word_embeddings": nn.Embedding(config.vocab_size, size),
                "position_embeddings": nn.Embedding(config.max_position_embeddings, size),
                "token_type_embeddings": nn.Embedding(config.type_vocab_size, size),
                "LayerNorm": nn.LayerNorm(size, eps=config.layer_norm_eps),
            }
        )
        layers = [EncoderLayer(config) for _ in range(config.num_hidden_layers)]
        self.encoder = nn.ModuleDict({"layer": nn.ModuleList(layers)})

    def forward(
        self,
        token_ids: Tensor,
        lengths: Tensor,
        types: Tensor,
        dtype: torch.dtype = torch.float32,
        dropout: float = 0.0,
    ) -> Tensor:
        """token_ids, types: (N, L) int64, right-padded; lengths: (N,). Returns (N, L, hidden)."""
        places = torch.arange(token_ids.shape[1], device=token_ids.device)
        x = self.embeddings["word_embeddings"](token_ids)
        positions = cast("nn.Embedding", self.embeddings["position_embeddings"])
        x = x + positions.weight[: len(places)]
        x = x + self.embeddings["token_type_embeddings"](types)
        x = F.dropout(_norm(self.embeddings["LayerNorm"], x.to(dtype)), dropout, dropout > 0)
        visible = (places < lengths[:, None])[:, None, None]
        for layer in cast("nn.ModuleList", self.encoder["layer"]):
            x = layer(x, visible, dropout)
        return x  # type: ignore[no-any-return]


def load_encoder(directory: Path) -> Encoder:
    """The encoder of a Hugging Face directory, in fp32; a pooler is left out.

    Raises ModelDirectoryError when tensors are missing or of another shape.
    """
    encoder = Encoder(EncoderConfig.load(directory / CONFIG_NAME))
    stored = load_file(directory / WEIGHTS_NAME)
    wanted = encoder.state_dict()
    try:
        encoder.load_state_dict({name: stored[name].float() for name in wanted})
    except (KeyError, RuntimeError) as error:
        raise ModelDirectoryError(
            f"{directory}: weights do not fit ({error}); take {CONFIG_NAME} and "
            f"{WEIGHTS_NAME} of one and the same encoder"
        ) from error
    return encoder


def _attended_in(qkv: Tensor) -> Tensor:
    """In fp32 on a CPU, where torch's attention takes longer in bf16, three times so backward."""
    return qkv.float() if qkv.device.type == "cpu" else qkv


def _sublayer_output(inner: int, size: int, eps: float) -> nn.ModuleDict:
    return nn.ModuleDict({"dense": nn.Linear(inner, size), "LayerNorm": nn.LayerNorm(size, eps)})


def _add_norm(output: nn.Module, x: Tensor, inner: Tensor, dropout: float) -> Tensor:
    assert isinstance(output, nn.ModuleDict)
    added = F.dropout(_linear(output["dense"], inner), dropout, dropout > 0)
    return _norm(output["LayerNorm"], x + added)


def _linear(linear: nn.Module, x: Tensor) -> Tensor:
    assert isinstance(linear, nn.Linear)
    return F.linear(x, linear.weight.to(x.dtype), linear.bias.to(x.dtype))


def _norm(norm: nn.Module, x: Tensor) -> Tensor:
    """A CPU's are in fp32: in bf16 it also sums the gradient of a weight over all tokens in bf16,
    which stops growing where a token's part is less than a step of the sum.
    """
    assert isinstance(norm, nn.LayerNorm)
    inner = x.float() if x.device.type == "cpu" else x
    weight, bias = norm.weight.to(inner.dtype), norm.bias.to(inner.dtype)
    return F.layer_norm(inner, norm.normalized_shape, weight, bias, norm.eps).to(x.dtype)

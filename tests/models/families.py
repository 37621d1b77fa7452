"""Random small models of every served family, as transformers makes and stores them."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSequenceClassification

from models.card import ModelCard, write_card

TINY: dict[str, Any] = {
    "vocab_size": 400,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "tie_word_embeddings": False,
}
LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 500000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
YARN = {
    "rope_type": "yarn",
    "rope_theta": 10000.0,
    "factor": 4.0,
    "original_max_position_embeddings": 128,
}

# What each served part of an architecture is called here: family and differences from TINY.
VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    "qwen3": ("qwen3", {"head_dim": 16}),
    "qwen3 tied": ("qwen3", {"head_dim": 16, "tie_word_embeddings": True}),
    "qwen3 biased": ("qwen3", {"head_dim": 16, "attention_bias": True}),
    "qwen3 wide heads": ("qwen3", {"head_dim": 32}),
    "qwen2": ("qwen2", {}),
    "qwen2 tied": ("qwen2", {"tie_word_embeddings": True}),
    "qwen2 yarn": ("qwen2", {"rope_parameters": YARN}),
    "qwen2 inert window": (
        "qwen2",
        {"use_sliding_window": True, "sliding_window": 384, "max_window_layers": 1},
    ),
    "llama": ("llama", {}),
    "llama every head its own keys": ("llama", {"num_key_value_heads": 4}),
    "llama one key head": ("llama", {"num_key_value_heads": 1}),
    "llama biased": ("llama", {"attention_bias": True, "mlp_bias": True}),
    "llama3 rope": ("llama", {"rope_parameters": LLAMA3, "tie_word_embeddings": True}),
    "llama linear rope": (
        "llama",
        {"rope_parameters": {"rope_type": "linear", "rope_theta": 10000.0, "factor": 4.0}},
    ),
    "llama dynamic rope": (
        "llama",
        {"rope_parameters": {"rope_type": "dynamic", "rope_theta": 10000.0, "factor": 4.0}},
    ),
    "llama yarn, all said": (
        "llama",
        {"rope_parameters": YARN | {"beta_fast": 16.0, "beta_slow": 2.0, "truncate": False}},
    ),
    "llama yarn by mscale": (
        "llama",
        {"rope_parameters": YARN | {"mscale": 0.7, "mscale_all_dim": 1.3}},
    ),
    "mistral": ("mistral", {"sliding_window": None}),
    "mistral inert window": ("mistral", {"sliding_window": 400}),
    "mistral wide heads": ("mistral", {"head_dim": 32, "sliding_window": None}),
}


def random_model(family: str, changes: Mapping[str, Any], labels: int = 0) -> Any:
    """Weights wide enough that attention and logits are far from uniform; biases are not zero."""
    torch.manual_seed(7)
    fields = TINY | dict(changes)
    if labels:
        fields["num_labels"] = labels
    config = AutoConfig.for_model(family, **fields)
    kind = AutoModelForSequenceClassification if labels else AutoModelForCausalLM
    model = kind.from_config(config, dtype=torch.float32).eval().requires_grad_(False)
    for parameter in model.parameters():
        parameter.add_(torch.randn(parameter.shape) * (0.15 if parameter.ndim > 1 else 0.3))
    return model


def store(model: Any, path: Path, tokenizer: Path, card: ModelCard, **options: Any) -> Path:
    """Writes the model as transformers does, with a tokenizer and a card beside it."""
    model.save_pretrained(path, **options)
    shutil.copyfile(tokenizer, path / "tokenizer.json")
    write_card(path, card)
    return path

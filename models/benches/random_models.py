"""Writes model directories of random weights, which every provider loads. Knows no clock."""

from __future__ import annotations

from pathlib import Path

import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel

from models.benches.shapes import BLOCK_SIZE, LABEL_IDS, Shape, random_decoder
from models.card import Labels, ModelCard, PromptTemplate, Truncation
from models.checkpoint import save_model_directory


def save_random_model(path: Path, shape: Shape, seed: int = 0) -> Path:
    """A directory of the shape's size, stored in bf16, whose labels are single tokens.

    Its tokenizer knows the template's words alone: benchmarks of random weights send token ids.
    """
    tokenizer_path = path.with_suffix(".tokenizer.json")
    _tokenizer(shape.config.vocab_size).save(str(tokenizer_path))
    decoder = random_decoder(shape.config, torch.device("cpu"), seed)
    save_model_directory(path, decoder, tokenizer_path, _card(shape), torch.bfloat16)
    tokenizer_path.unlink()
    return path


def _tokenizer(vocab_size: int) -> Tokenizer:
    yes, no = (label % vocab_size for label in LABEL_IDS)
    return Tokenizer(WordLevel({"<yes>": yes, "<no>": no, "<text>": 0}, unk_token="<text>"))


def _card(shape: Shape) -> ModelCard:
    return ModelCard(
        name=f"random-{shape.name}",
        version="0",
        prompts={"text": PromptTemplate(context="<text>{context}", candidate="<text>{candidate}")},
        default_prompt="text",
        labels=Labels(yes="<yes>", no="<no>"),
        truncation=Truncation(shape.context_tokens[1], shape.candidate_tokens[1]),
        block_size=BLOCK_SIZE,
    )

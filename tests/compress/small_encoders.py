"""A tiny BERT encoder with random weights, written as Hugging Face would. Knows no downloads."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers
from transformers import BertConfig, BertModel

WORDS = [
    "weld",
    "cut",
    "braze",
    "steel",
    "nurse",
    "patients",
    "write",
    "reports",
    "level",
    "some",
    "headline",
    "duties",
    "tools",
    "skills",
    "welder",
    "teacher",
    "teach",
    "pupils",
    "drive",
    "truck",
    "trucks",
    "background",
    "knowledge",
    "experience",
    "used",
    "preparation",
    "little",
    "or",
    "no",
    "medium",
    "considerable",
    "extensive",
    "a",
    "b",
    "c",
    "d",
    "e",
    "f",
    "g",
    "h",
    "i",
    "j",
    "k",
    "l",
    "m",
    "n",
    "o",
    "p",
    "q",
    "r",
    "s",
    "t",
    "u",
    "v",
    "w",
    "x",
    "y",
    "z",
    ".",
    ",",
    ";",
    ":",
]
PIECES = ("##s", "##ing", "##er", *(f"##{letter}" for letter in "abcdefghijklmnopqrstuvwxyz"))
VOCABULARY = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", *WORDS, *PIECES)


def write_encoder(
    directory: Path,
    hidden: int = 32,
    layers: int = 2,
    words: Sequence[str] = (),
    spread: float = 0.5,
) -> Path:
    """config.json, model.safetensors and tokenizer.json of a BERT whose words are WORDS and more.

    words: none of which is one of WORDS. spread: of its weights; where it is small, a text's vector
    is little else than the mean of its words'.
    """
    vocabulary = (*VOCABULARY, *words)
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(vocabulary),
        hidden_size=hidden,
        num_hidden_layers=layers,
        num_attention_heads=4,
        intermediate_size=64,
        max_position_embeddings=512,
        initializer_range=spread,
    )
    BertModel(config, add_pooling_layer=False).eval().save_pretrained(directory)
    model = models.WordPiece({word: i for i, word in enumerate(vocabulary)}, unk_token="[UNK]")
    tokenizer = Tokenizer(model)
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.save(str(directory / "tokenizer.json"))
    return directory

"""Tokenizers of the kinds that are served, trained on a few sentences. Knows no test."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tokenizers import (
    AddedToken,
    Regex,
    Tokenizer,
    models,
    normalizers,
    pre_tokenizers,
    trainers,
)

SENTENCES = [
    "Headline: Registered nurse. Skills: patient care, monitoring; it's 1234 wards, e.g. 7/8.",
    "Tools used: arc-welder (TIG), grinder & band saw; über-fine “quoted” work <yes>.",
] * 4
SHIPPED = [Path(__file__).parents[2] / "models" / name for name in ("demo", "demo_reason")]
LLAMA = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
BYTES = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)


def byte_level(pre_tokenizer: Any, normalizer: Any = None, added: Sequence[Any] = ()) -> Tokenizer:
    """Byte-level BPE behind the given steps."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer, tokenizer.pre_tokenizer = normalizer, pre_tokenizer
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    tokenizer.train_from_iterator(
        SENTENCES,
        trainers.BpeTrainer(vocab_size=420, show_progress=False, initial_alphabet=alphabet),
    )
    tokenizer.add_special_tokens(["<yes>"])
    tokenizer.add_tokens(list(added))
    return tokenizer


def word_piece(normalizer: Any) -> Tokenizer:
    """WordPiece as in BERT behind the given normalizer."""
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]", max_input_chars_per_word=12))
    tokenizer.normalizer, tokenizer.pre_tokenizer = normalizer, pre_tokenizers.BertPreTokenizer()
    special = ["[UNK]", "<yes>"]
    trainer = trainers.WordPieceTrainer(vocab_size=200, special_tokens=special, show_progress=False)
    tokenizer.train_from_iterator(SENTENCES, trainer)
    return tokenizer


def split(pattern: str) -> Any:
    """Pre-tokenizer of the pattern, bytes behind it."""
    isolated = pre_tokenizers.Split(Regex(pattern), "isolated", invert=False)
    return pre_tokenizers.Sequence([isolated, BYTES])


def cuttable() -> dict[str, Tokenizer]:
    """Those whose texts can be cut, the shipped ones among them."""
    gpt2 = pre_tokenizers.ByteLevel(add_prefix_space=True)
    digits = pre_tokenizers.Digits(individual_digits=True)
    quotes = [AddedToken("“", lstrip=True, rstrip=True), AddedToken("”", normalized=False)]
    quotes.append(AddedToken("ü", single_word=True, lstrip=True))
    marks = normalizers.Replace(Regex('[,;:()"]'), " ")
    return {
        **{path.name: Tokenizer.from_file(str(path / "tokenizer.json")) for path in SHIPPED},
        "bert": word_piece(normalizers.BertNormalizer()),
        "bert without marks": word_piece(
            normalizers.Sequence([normalizers.BertNormalizer(lowercase=False), marks])
        ),
        "gpt2": byte_level(gpt2),
        "gpt2, quotes and NFKC": byte_level(gpt2, normalizers.NFKC(), quotes),
        "gpt2 behind digits": byte_level(
            pre_tokenizers.Sequence([digits, gpt2]),
            normalizers.Sequence([normalizers.NFC(), normalizers.Lowercase(), marks]),
        ),
        "llama": byte_level(split(LLAMA), normalizers.NFD()),
        "qwen": byte_level(split(LLAMA.replace("{1,3}", "")), normalizers.NFC()),
    }


def uncuttable() -> dict[str, Tokenizer]:
    """Those of which nothing is known, or in which something reaches across cuts."""
    gpt2 = pre_tokenizers.ByteLevel(add_prefix_space=False)
    dropping = byte_level(gpt2)
    dropping.model.dropout = 0.1
    return {
        "no splits": byte_level(None),
        "bytes only": byte_level(BYTES),
        "bytes first": byte_level(pre_tokenizers.Sequence([BYTES, gpt2])),
        "digits only": byte_level(pre_tokenizers.Digits()),
        "metaspace": byte_level(pre_tokenizers.Metaspace()),
        "metaspace behind": byte_level(pre_tokenizers.Sequence([gpt2, pre_tokenizers.Metaspace()])),
        "another pattern": byte_level(split(r"\w+ ?|.")),
        "letters replaced": byte_level(gpt2, normalizers.Replace(Regex("[ae]"), " ")),
        "spaces replaced": byte_level(gpt2, normalizers.Replace(" ", "_")),
        "marks made words": byte_level(gpt2, normalizers.Replace(Regex("[;]"), "x")),
        "stripped": byte_level(gpt2, normalizers.Strip()),
        "across a cut": byte_level(gpt2, added=["long two words more"]),
        "across a cut, normalized": byte_level(gpt2, normalizers.NFKC(), ["a\N{NO-BREAK SPACE}b"]),
        "hidden": byte_level(gpt2, added=["<y"]),
        "dropping": dropping,
    }

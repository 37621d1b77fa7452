"""Trains the word-like BPE tokenizer on training texts. Knows nothing of models.

Text is lower-cased, every word carries a leading space mark, and the template's markers and labels
are special tokens, so that user text can never contain them.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

from compress.stages.whole_files import write_text

MARKERS = (
    "<pad>",
    "<member>",
    "<job>",
    "<candidate_job>",
    "<candidate_member>",
    "<match>",
    "<yes>",
    "<no>",
)


def save_tokenizer(tokenizer: Tokenizer, path: Path) -> None:
    """Writes what its own `save` writes, and makes the folder. Raises OSError, as that does not."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, tokenizer.to_str(pretty=True))


def train_tokenizer(texts: Iterable[str], vocab_size: int) -> Tokenizer:
    """Byte-level BPE; MARKERS take the ids from 0 on."""
    tokenizer = Tokenizer(models.BPE(unk_token=None))
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.NFKC(), normalizers.Lowercase(), normalizers.Replace(",", "")]
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=True, use_regex=True),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.train_from_iterator(
        texts,
        trainers.BpeTrainer(
            vocab_size=vocab_size,
            min_frequency=2,
            special_tokens=list(MARKERS),
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        ),
    )
    return tokenizer

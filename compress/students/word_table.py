"""A student's vocabulary and its words' first vectors, both from a pre-trained encoder.

Every token is read by the encoder alone, so the table knows words that no training text holds, and
words of the trade are one token where the encoder's own vocabulary cuts them to pieces.
Knows nothing of decoders or training.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers
from torch import Tensor

from compress.data.requests import Occupation, load_occupations
from compress.data.tokenizer import MARKERS
from compress.decoders.wiring import RESERVED
from compress.encoders.pair_encoder import PairEncoder, TextBatch, by_length

UNKNOWN, PIECE = "[UNK]", "##"
FIELDS = "headline background preparation skills knowledge experience tools used duties level"
SILENT = Regex(r'[,;:()"]')  # punctuation that says nothing here and costs a token


def word_tokenizer(
    source: Tokenizer, texts: Iterable[str], common_words: int, minimum_count: int
) -> Tokenizer:
    """WordPiece of the source's tokens that `texts` use, its first `common_words`, and new words.

    A word of `texts` that the source lacks becomes a token when it occurs `minimum_count` times.
    MARKERS take the ids from 0 on.
    """
    normalizer = normalizers.Sequence(
        [normalizers.BertNormalizer(lowercase=True), normalizers.Replace(SILENT, " ")]
    )
    splitter = pre_tokenizers.BertPreTokenizer()
    counts: Counter[str] = Counter()
    for text in texts:
        words = splitter.pre_tokenize_str(normalizer.normalize_str(text))
        counts.update(word for word, _ in words)
    tokens = _kept(source, counts, common_words)
    tokens += [
        word
        for word, count in counts.most_common()
        if count >= minimum_count and word.isascii() and source.token_to_id(word) is None
    ]
    vocabulary = {token: index for index, token in enumerate((*MARKERS, UNKNOWN, *tokens))}
    model = models.WordPiece(vocabulary, unk_token=UNKNOWN, max_input_chars_per_word=60)
    tokenizer = Tokenizer(model)
    tokenizer.normalizer, tokenizer.pre_tokenizer = normalizer, splitter
    tokenizer.decoder = decoders.WordPiece()
    tokenizer.add_special_tokens(list(MARKERS))
    return tokenizer


def _kept(source: Tokenizer, counts: Counter[str], common_words: int) -> list[str]:
    encodings = source.encode_batch(list(counts), add_special_tokens=False)
    used = {token for encoding in encodings for token in encoding.tokens}
    by_id = sorted(source.get_vocab().items(), key=lambda item: item[1])
    return [
        token
        for token, index in by_id
        if token.isascii()
        and not (token.startswith("[") and token.endswith("]") and len(token) > 1)
        and (
            token in used
            or len(token.removeprefix(PIECE)) == 1
            or (index < common_words and token.isalpha())
        )
    ]


@torch.no_grad()
def token_vectors(
    towers: PairEncoder,
    source: Tokenizer,
    tokens: Sequence[str],
    device: torch.device,
    dtype: torch.dtype,
    batch: int = 1024,
) -> Tensor:
    """(tokens, hidden) fp32: the unit vector the encoder gives each token read alone."""
    first, last = source.token_to_id("[CLS]"), source.token_to_id("[SEP]")
    ids = [np.array([first, *_source_ids(source, token), last]) for token in tokens]
    vectors = torch.empty(len(ids), towers.encoder.config.hidden_size)
    for part in by_length(np.array([len(row) for row in ids]), batch):
        read = TextBatch.pack([ids[index] for index in part]).to(device)
        vectors[torch.from_numpy(part)] = towers.towers(read, dtype).cpu()
    return vectors


def _source_ids(source: Tokenizer, token: str) -> list[int]:
    known = source.token_to_id(token)
    return source.encode(token, add_special_tokens=False).ids if known is None else [known]


@dataclass(frozen=True, slots=True)
class Projection:
    """A linear map of an encoder's vectors to fewer numbers, widest first."""

    mean: Tensor  # (hidden,)
    directions: Tensor  # (hidden, size)

    def __call__(self, vectors: Tensor) -> Tensor:
        """(..., hidden) to (..., size)."""
        return (vectors - self.mean) @ self.directions

    def to(self, device: torch.device) -> Projection:
        """The same on a device."""
        return Projection(self.mean.to(device), self.directions.to(device))


def principal_parts(vectors: Tensor, weights: npt.NDArray[np.float64], size: int) -> Projection:
    """Onto the main directions of vectors (tokens, hidden), which then have unit mean square.

    weights (tokens,): how much each token counts for the mean and the directions.
    """
    share = torch.from_numpy(weights / weights.sum()).to(vectors.dtype)[:, None]
    mean = (share * vectors).sum(0)
    centred = vectors - mean
    _, directions = torch.linalg.eigh(centred.T @ (share * centred))
    directions = directions.flip(1)[:, :size]
    parts: Tensor = centred @ directions
    scale: Tensor = (share * parts.square()).sum().div(size).sqrt()
    return Projection(mean, directions / scale)


def vocabulary_of(
    data: Path, source: Tokenizer, common_words: int, minimum_count: int
) -> Tokenizer:
    """`word_tokenizer` over the facts of the training occupations of `data`."""
    texts = [
        text
        for occupation in load_occupations(data)
        for facts in _facts(occupation)
        for text in facts
    ]
    texts += [FIELDS] * minimum_count
    return word_tokenizer(source, texts, common_words, minimum_count)


def _facts(occupation: Occupation) -> Iterator[Sequence[str]]:
    yield occupation.title, occupation.description
    yield from (occupation.titles, occupation.tasks, occupation.tools)
    yield from (occupation.skills, occupation.knowledge)


def tokens_of(tokenizer: Tokenizer) -> list[str]:
    """The vocabulary in the order of its ids."""
    vocabulary = tokenizer.get_vocab()
    return sorted(vocabulary, key=vocabulary.__getitem__)


def projection_of(
    vectors: Tensor, texts: Sequence[npt.NDArray[np.integer]], hidden_size: int
) -> Projection:
    """Of a vocabulary's vectors to what a residual stream of `hidden_size` has room for.

    texts: token ids, which say how common each is.
    """
    counts = np.ones(len(vectors))
    for ids in texts:
        counts += np.bincount(ids, minlength=len(vectors))
    return principal_parts(vectors, counts, hidden_size - RESERVED)

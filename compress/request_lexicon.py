"""Stage: tokenizer and wired decoder whose words are learned from a folder's own requests.

Run alone: python -m compress.request_lexicon --data DIR --out DIR
For data with nothing but requests. Names that are frequent become one token each, so that what is
known of an item has one place. Knows nothing of word order.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from torch import Tensor

from compress.bags import Bag, score_bags
from compress.data import RELEVANT, Request, load_requests
from compress.lexicon import LexiconOptions, optimizer_of, wired_decoder
from compress.loop import Checkpoints, Schedule, run_steps
from compress.losses import slate_loss
from compress.sampling import JOB_CANDIDATE, MATCH, MEMBER_CONTEXT
from compress.stage import (
    RecipeError,
    StageInput,
    StageKind,
    lineage_entry,
    new_card,
    parse_options,
    prepare_process,
    run_alone,
)
from compress.tokenizer import MARKERS
from compress.wiring import JOB
from models.checkpoint import save_model_directory
from models.directory import TOKENIZER_NAME

PARTS = r"; |: | - |, |\. "  # what stands between names


@dataclass(frozen=True, slots=True)
class RequestLexiconOptions:
    """Recipe options; counts are in steps, slates and tokens. Slates are parts of requests."""

    name: str
    version: str = "1"
    vocab_size: int = 8192
    steps: int = 300
    slates: int = 128
    candidates: int = 8
    token_dropout: float = 0.2
    embedding_rate: float = 1e-2
    rate: float = 1e-3
    warmup: int = 30
    checkpoint_every: int = 50


def run(stage: StageInput, raw_options: Mapping[str, Any]) -> None:
    """Writes a model directory whose decoder scores as the bags do."""
    options = parse_options(RequestLexiconOptions, raw_options)
    prepare_process(stage)
    requests = load_requests(stage.data, "train")
    tokenizer = _tokenizer(stage, requests, options.vocab_size)
    decoder = wired_decoder(LexiconOptions(), tokenizer.get_vocab_size())
    slates = RequestBags.of(tokenizer, requests, options, stage.seed)

    def loss_of_step(step: int) -> Tensor:
        contexts, candidates, places, grades = slates.draw(step)
        raw_logits = score_bags(decoder, contexts, candidates, places, JOB)
        return slate_loss(raw_logits, grades)

    run_steps(
        decoder,
        optimizer_of(decoder, options.embedding_rate, options.rate),
        loss_of_step,
        Schedule(options.steps, options.warmup),
        Checkpoints(stage.work / "lexicon.pt", options.checkpoint_every),
        "request_lexicon",
        sharded=False,
    )
    card = new_card(options.name, options.version)
    entry = lineage_entry("request_lexicon", stage, options)
    card = replace(card, lineage={"stages": [entry]})
    save_model_directory(stage.out, decoder, stage.work / TOKENIZER_NAME, card)


@dataclass(frozen=True, slots=True)
class RequestBags:
    """Requests as bags of tokens; a step is a function of (seed, step)."""

    contexts: Sequence[Bag]
    candidates: Sequence[Sequence[Bag]]
    grades: Sequence[np.ndarray[Any, np.dtype[np.int64]]]
    options: RequestLexiconOptions
    seed: int

    @classmethod
    def of(
        cls,
        tokenizer: Tokenizer,
        requests: Sequence[Request],
        options: RequestLexiconOptions,
        seed: int,
    ) -> RequestBags:
        """Of the requests with enough candidates. Raises RecipeError for too few of them."""
        large = [r for r in requests if len(r.candidates) >= options.candidates]
        if len(large) < options.slates:
            raise RecipeError(
                f"request_lexicon: {len(large)} requests of `train` have {options.candidates} "
                f"candidates, a step takes {options.slates}; lower slates or candidates"
            )
        return cls(
            _bags(tokenizer, [request.context for request in large]),
            [_bags(tokenizer, request.candidates) for request in large],
            [np.array(request.relevant) * RELEVANT for request in large],
            options,
            seed,
        )

    def draw(self, step: int) -> tuple[list[Bag], list[Bag], Tensor, Tensor]:
        """Contexts (S), candidates (S C), their places (S, C) and grades (S, C)."""
        random = np.random.default_rng([self.seed, step])
        count, width = self.options.slates, self.options.candidates
        rows = random.choice(len(self.contexts), count, replace=False)
        chosen = [random.permutation(len(self.grades[row]))[:width] for row in rows]
        contexts = [self._framed(MEMBER_CONTEXT, self.contexts[row], (), random) for row in rows]
        candidates = [
            self._framed(JOB_CANDIDATE, self.candidates[row][place], (MATCH,), random)
            for row, places in zip(rows, chosen, strict=True)
            for place in places
        ]
        grades = np.stack([self.grades[r][places] for r, places in zip(rows, chosen, strict=True)])
        places = torch.arange(count * width).view(count, width)
        return contexts, candidates, places, torch.from_numpy(grades)

    def _framed(
        self, head: int, ids: Bag, tail: tuple[int, ...], random: np.random.Generator
    ) -> Bag:
        kept = ids[random.random(len(ids)) >= self.options.token_dropout]
        return np.concatenate(([head], kept, tail)).astype(np.int64)


def name_tokenizer(texts: Iterable[str], vocab_size: int) -> Tokenizer:
    """Byte-level BPE that merges across spaces, never across PARTS; MARKERS take the first ids."""
    tokenizer = Tokenizer(models.BPE(unk_token=None))
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase()])
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(PARTS), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        min_frequency=2,
        special_tokens=list(MARKERS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def _tokenizer(stage: StageInput, requests: Sequence[Request], vocab_size: int) -> Tokenizer:
    path = stage.work / TOKENIZER_NAME
    path.parent.mkdir(parents=True, exist_ok=True)
    texts = [text for request in requests for text in (request.context, *request.candidates)]
    name_tokenizer(texts, vocab_size).save(str(path))
    return Tokenizer.from_file(str(path))


def _bags(tokenizer: Tokenizer, texts: Sequence[str]) -> list[Bag]:
    return [np.array(encoding.ids) for encoding in tokenizer.encode_batch_fast(list(texts))]


STAGE = StageKind(run, RequestLexiconOptions)

if __name__ == "__main__":
    run_alone("request_lexicon", run)

"""Stage: a tokenizer and a decoder that copies and finds shared words, to train a reasoner from.

Knows no losses.

Run alone: python -m compress.reasons.reasoner --data DIR --out DIR --options JSON

With a `source` it takes over that model's tokenizer, so that teacher and student share their words.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import (
    AddedToken,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    trainers,
)

from compress.data.generate import World, member, posting
from compress.data.requests import TABLES, load_occupations
from compress.data.tokenizer import MARKERS, save_tokenizer
from compress.decoders.copy_wiring import wire_copying
from compress.decoders.fact_layout import (
    LEAST_HIDDEN_SIZE,
    LEAST_KV_HEADS,
    LEAST_LAYERS,
    TokenMarks,
)
from compress.decoders.match_wiring import wire_matching
from compress.decoders.sizes import decoder_config, refuse_ungrouped
from compress.reasons.marks import token_marks
from compress.reasons.rationales import fact_texts
from compress.stages.alone import run_alone
from compress.stages.costs import shape_of
from compress.stages.ranker_card import MEMBER_FIELDS, RANKER_HEADS, new_card
from compress.stages.stage import (
    Cost,
    RecipeError,
    Shape,
    StageInput,
    StageKind,
    lineage_entry,
    parse_options,
    prepare_process,
)
from models.card import ModelCard, PromptTemplate
from models.checkpoint import save_model_directory
from models.decoder import Decoder
from models.directory import TOKENIZER_NAME
from models.reasons.frames import CLOSE, END, FRAMES, LEVEL_TAIL, OPEN
from models.reasons.grammar import END_OF_ANSWER

ASK = "<reason>"
MEMBER_TO_JOBS = "member_to_jobs"


@dataclass(frozen=True, slots=True)
class ReasonerOptions:
    """Recipe options; vocab_size counts only where there is no source."""

    name: str = "fairslate-demo-reason"
    version: str = "1"
    vocab_size: int = 5120
    hidden_size: int = 384
    intermediate_size: int = 256
    layers: int = 4
    heads: int = 4
    kv_heads: int = 4

    def __post_init__(self) -> None:
        for name, least in (
            ("layers", LEAST_LAYERS),
            ("kv_heads", LEAST_KV_HEADS),
            ("hidden_size", LEAST_HIDDEN_SIZE),
        ):
            if getattr(self, name) < least:
                raise RecipeError(f"reasoner: {name} must be {least} or more to be wired")
        refuse_ungrouped("reasoner", self)


def run(stage: StageInput, raw_options: Mapping[str, Any]) -> None:
    """Writes a model directory that continues what it has read."""
    options = parse_options(ReasonerOptions, raw_options)
    prepare_process(stage)
    path = stage.work / TOKENIZER_NAME
    path.parent.mkdir(parents=True, exist_ok=True)
    if stage.source is None:
        save_tokenizer(cased_tokenizer(_texts(stage), options.vocab_size), path)
    else:
        shutil.copyfile(stage.source / TOKENIZER_NAME, path)
    tokenizer = Tokenizer.from_file(str(path))
    marks = token_marks(tokenizer, fact_texts(load_occupations(stage.data)))
    entry = lineage_entry("reasoner", stage, options)
    card = replace(reason_card(options.name, options.version), lineage={"stages": [entry]})
    save_model_directory(stage.out, matching_decoder(options, marks), path, card)


def matching_decoder(options: ReasonerOptions, marks: TokenMarks) -> Decoder:
    """A decoder of the options' shape that copies, and finds facts with a rare word in common."""
    decoder = Decoder(decoder_config(options, len(marks.stems)))
    wire_matching(decoder, marks, wire_copying(decoder))
    return decoder


def reason_card(name: str, version: str) -> ModelCard:
    """The ranker's card with the one prompt that asks for a reason."""
    ask = PromptTemplate("<member>{context}", "<candidate_job>{candidate}" + ASK, MEMBER_FIELDS)
    return replace(new_card(name, version), prompts={MEMBER_TO_JOBS: ask})


def cased_tokenizer(texts: Iterable[str], vocab_size: int) -> Tokenizer:
    """Byte-level BPE that keeps case, so that what is copied is spelt as it was.

    Quotes are tokens that take in the space before them: what stands between two of them is
    tokenized as it is in the prompt, and a sentence is the sum of its pieces.
    """
    tokenizer = Tokenizer(models.BPE(unk_token=None))
    tokenizer.normalizer = normalizers.NFKC()
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True, use_regex=True)
    spaced = [(f"{OPEN} ", f" {OPEN}"), (f"{CLOSE} ,", f"{CLOSE},"), (f"{CLOSE} .", f"{CLOSE}.")]
    tokenizer.decoder = decoders.Sequence(
        [
            decoders.ByteLevel(),
            *(decoders.Replace(old, new) for old, new in spaced),
            decoders.Strip(" ", 1, 0),
        ]
    )
    tokenizer.train_from_iterator(
        texts,
        trainers.BpeTrainer(
            vocab_size=vocab_size - len(OPEN + CLOSE),
            min_frequency=2,
            special_tokens=[*MARKERS, ASK, END_OF_ANSWER],
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        ),
    )
    quotes = [AddedToken(OPEN, lstrip=True, normalized=False), AddedToken(CLOSE, normalized=False)]
    tokenizer.add_tokens(quotes)
    return tokenizer


def _texts(stage: StageInput) -> list[str]:
    """Facts of the training occupations, members and postings, and the frames' own words."""
    occupations, random = load_occupations(stage.data), np.random.default_rng(stage.seed)
    texts = [frame.opening + frame.middle + LEVEL_TAIL + END for frame in FRAMES] * 50
    world = World.divide(occupations, random)
    for occupation, ours, theirs in zip(
        occupations, world.member_facts, world.posting_facts, strict=True
    ):
        texts += occupation.titles + occupation.tasks + occupation.tools
        texts += [member(occupation, ours, random) for _ in range(4)]
        texts += [posting(occupation, theirs, random) for _ in range(4)]
    return texts


def cost(options: ReasonerOptions, shape: Shape | None) -> Cost:
    """Nothing is trained; the shape of what is written."""
    return Cost(shape=shape_of(decoder_config(options, options.vocab_size)), ranks=False)


def quality(options: ReasonerOptions, directory: Path, data: Path) -> Mapping[str, float]:
    """Nothing that a gate could compare: it copies, and writes no reason yet."""
    return {}


STAGE = StageKind(
    run,
    ReasonerOptions,
    cost,
    reads=lambda options: TABLES,
    writes=lambda options: True,
    quality=quality,
    starts=False,
    prompts=(MEMBER_TO_JOBS,),
    heads=RANKER_HEADS,
)

if __name__ == "__main__":
    run_alone("reasons.reasoner", STAGE)

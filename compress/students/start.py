"""Stage: a tokenizer of recorded requests, a wired decoder, and its words learned from bags.

Run alone: python -m compress.students.start --data DIR --out DIR --options JSON
For data that are requests and items alone; a `distill` stage on requests goes on from it. Knows
nothing of word order.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer
from torch import Tensor

from compress.data.request_bags import RequestBags
from compress.data.requests import load_requests, request_files
from compress.data.tokenizer import save_tokenizer, train_tokenizer
from compress.decoders.losses import slate_loss
from compress.decoders.sizes import decoder_config, refuse_unwired
from compress.decoders.wiring import JOB, wire
from compress.stages.alone import run_alone
from compress.stages.costs import shape_of
from compress.stages.loop import Checkpoints, Schedule, run_steps
from compress.stages.ranker_card import RANKER_HEADS, RANKER_PROMPTS, new_card
from compress.stages.stage import (
    Cost,
    Shape,
    StageInput,
    StageKind,
    lineage_entry,
    parse_options,
    prepare_process,
)
from compress.students.bags import score_bags
from compress.students.lexicon import optimizer_of
from models.checkpoint import save_model_directory
from models.decoder import Decoder
from models.directory import TOKENIZER_NAME


@dataclass(frozen=True, slots=True)
class StartOptions:
    """Recipe options; counts are in steps, slates and tokens. No steps leave it untaught."""

    name: str = "fairslate-ranker"
    version: str = "1"
    vocab_size: int = 4096
    hidden_size: int = 128
    intermediate_size: int = 256
    layers: int = 2
    heads: int = 2
    kv_heads: int = 2
    steps: int = 0
    slates: int = 64
    candidates: int = 16
    token_dropout: float = 0.1
    embedding_rate: float = 1e-2
    rate: float = 2e-3
    warmup: int = 30
    checkpoint_every: int = 100

    def __post_init__(self) -> None:
        refuse_unwired("start", self)


def run(stage: StageInput, raw_options: Mapping[str, Any]) -> None:
    """Writes the model directory."""
    options = parse_options(StartOptions, raw_options)
    prepare_process(stage)
    tokenizer = train_tokenizer(_texts(stage.data), options.vocab_size)
    path = stage.work / TOKENIZER_NAME
    save_tokenizer(tokenizer, path)
    decoder = Decoder(decoder_config(options, tokenizer.get_vocab_size()))
    wire(decoder)
    decoder.to(stage.device)
    if options.steps:
        _learn_words(stage, options, decoder, Tokenizer.from_file(str(path)))
    card = new_card(options.name, options.version)
    card = replace(card, lineage={"stages": [lineage_entry("start", stage, options)]})
    save_model_directory(stage.out, decoder.cpu(), path, card)


def _learn_words(
    stage: StageInput, options: StartOptions, decoder: Decoder, tokenizer: Tokenizer
) -> None:
    source = RequestBags.load(stage.data, tokenizer, stage.seed, options.candidates)

    def loss_of_step(step: int) -> Tensor:
        drawn = source.draw(step, options.slates, options.candidates, options.token_dropout)
        slates = torch.as_tensor(drawn.slates)
        raw_logits = score_bags(decoder, drawn.contexts, drawn.candidates, slates, JOB)
        return slate_loss(raw_logits, torch.as_tensor(drawn.grades))

    run_steps(
        decoder,
        optimizer_of(decoder, options.embedding_rate, options.rate),
        loss_of_step,
        Schedule(options.steps, options.warmup),
        Checkpoints(stage.work / "start.pt", options.checkpoint_every),
        "start",
        sharded=False,
    )


def _texts(data: Path) -> Iterator[str]:
    """Every text of `train` as often as it is shown: common words become whole tokens."""
    for request in load_requests(data, "train"):
        yield request.context
        yield from request.candidates


def cost(options: StartOptions, shape: Shape | None) -> Cost:
    """Bags cost next to nothing beside whole decoders; the steps are told."""
    shape = shape_of(decoder_config(options, options.vocab_size))
    return Cost(steps=options.steps, shape=shape)


def reads(options: StartOptions) -> Sequence[str]:
    """Requests to learn from."""
    return request_files("train")


STAGE = StageKind(
    run, StartOptions, cost, reads=reads, starts=False, prompts=RANKER_PROMPTS, heads=RANKER_HEADS
)

if __name__ == "__main__":
    run_alone("start", STAGE)

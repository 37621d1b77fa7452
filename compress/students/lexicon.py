"""Stage: tokenizer, wired decoder, and its words learned from bags. Knows nothing of word order.

Run alone: python -m compress.students.lexicon --data DIR --out DIR
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer
from torch import Tensor

from compress.data.generate import World, member, posting
from compress.data.requests import TABLES, load_occupations
from compress.data.sampling import SlateSampler
from compress.data.tokenizer import save_tokenizer, train_tokenizer
from compress.decoders.losses import slate_loss
from compress.decoders.sizes import HEAD_DIM, decoder_config, refuse_unwired
from compress.decoders.wiring import JOB, MEMBER, layers_of, movable_embeddings, wire
from compress.stages.alone import run_alone
from compress.stages.costs import (
    CANDIDATE_TOKENS,
    CONTEXT_TOKENS,
    FLOAT,
    KEPT,
    TRAINED,
    shape_of,
)
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
from models.checkpoint import save_model_directory
from models.decoder import Decoder
from models.directory import TOKENIZER_NAME


@dataclass(frozen=True, slots=True)
class LexiconOptions:
    """Recipe options; counts are in steps, slates and tokens."""

    name: str = "fairslate-demo"
    version: str = "1"
    vocab_size: int = 8192
    hidden_size: int = 256
    intermediate_size: int = 512
    layers: int = 3
    heads: int = 4
    kv_heads: int = 2
    steps: int = 800
    slates: int = 128
    candidates: int = 24
    steps_per_world: int = 20
    inverted_share: float = 0.25
    token_dropout: float = 0.2
    embedding_rate: float = 1e-2
    rate: float = 2e-3
    warmup: int = 30
    checkpoint_every: int = 50

    def __post_init__(self) -> None:
        refuse_unwired("lexicon", self)


def run(stage: StageInput, raw_options: Mapping[str, Any]) -> None:
    """Writes a model directory whose decoder scores as the bags do."""
    options = parse_options(LexiconOptions, raw_options)
    prepare_process(stage)
    tokenizer = _tokenizer(stage, options.vocab_size)
    decoder = wired_decoder(options, tokenizer.get_vocab_size()).to(stage.device)
    sampler = SlateSampler.load(
        stage.data, tokenizer, stage.seed, options.steps_per_world, options.inverted_share
    )

    def loss_of_step(step: int) -> Tensor:
        drawn = sampler.draw(step, options.slates, options.candidates, options.token_dropout)
        role = JOB if drawn.jobs_are_candidates else MEMBER
        slates = torch.as_tensor(drawn.slates)
        raw_logits = score_bags(decoder, drawn.contexts, drawn.candidates, slates, role)
        return slate_loss(raw_logits, torch.as_tensor(drawn.grades))

    run_steps(
        decoder,
        optimizer_of(decoder, options.embedding_rate, options.rate),
        loss_of_step,
        Schedule(options.steps, options.warmup),
        Checkpoints(stage.work / "lexicon.pt", options.checkpoint_every),
        "lexicon",
        sharded=False,
    )
    card = new_card(options.name, options.version)
    card = replace(card, lineage={"stages": [lineage_entry("lexicon", stage, options)]})
    save_model_directory(stage.out, decoder.cpu(), stage.work / TOKENIZER_NAME, card)


def _tokenizer(stage: StageInput, vocab_size: int) -> Tokenizer:
    path = stage.work / TOKENIZER_NAME
    save_tokenizer(train_tokenizer(_texts(stage.data, stage.seed), vocab_size), path)
    return Tokenizer.from_file(str(path))


def _texts(data: Path, seed: int) -> list[str]:
    """Every fact of the training occupations, and a member and a posting of each."""
    occupations, random = load_occupations(data), np.random.default_rng(seed)
    world = World.divide(occupations, random)
    texts = []
    for occupation, ours, theirs in zip(
        occupations, world.member_facts, world.posting_facts, strict=True
    ):
        texts += [occupation.title, occupation.description]
        texts += occupation.titles + occupation.tasks + occupation.tools
        texts += occupation.skills + occupation.knowledge
        texts += [member(occupation, ours, random), posting(occupation, theirs, random)]
    return texts


def wired_decoder(options: LexiconOptions, vocab_size: int) -> Decoder:
    """A decoder of the options' shape that already compares bags of words."""
    decoder = Decoder(decoder_config(options, vocab_size))
    wire(decoder)
    return decoder


def optimizer_of(decoder: Decoder, embedding_rate: float, rate: float) -> torch.optim.Optimizer:
    """Only what the bags touch: embeddings, the last layer and the final norm."""
    layers, body = layers_of(decoder), decoder.model
    for layer in layers[:-1]:
        layer.requires_grad_(False)
    movable = movable_embeddings(body.embed_tokens.weight)
    body.embed_tokens.weight.register_hook(lambda gradient: gradient * movable)  # type: ignore[no-untyped-call]
    rest = [*layers[-1].parameters(), *body.norm.parameters()]
    groups = [
        {"params": [body.embed_tokens.weight], "lr": embedding_rate, "weight_decay": 0.0},
        {"params": rest, "lr": rate, "weight_decay": 0.01},
    ]
    return torch.optim.AdamW(groups, betas=(0.9, 0.98), fused=True)


def cost(options: LexiconOptions, shape: Shape | None) -> Cost:
    """Both roles' tables of the vocabulary, and the last layer's MLP for every pair of a slate."""
    shape = shape_of(decoder_config(options, options.vocab_size))
    pairs, hidden = options.slates * options.candidates, options.hidden_size
    tables = 2 * options.vocab_size * hidden * 2 * options.kv_heads * HEAD_DIM
    operations = 2.0 * TRAINED * (tables + pairs * 3 * hidden * options.intermediate_size)
    tokens = options.slates * (CONTEXT_TOKENS + CANDIDATE_TOKENS)  # postings are shared
    memory = FLOAT * (4 * shape.parameters + 2 * options.vocab_size * hidden * KEPT)
    return Cost(options.steps, options.steps * tokens, options.steps * operations, memory, shape)


STAGE = StageKind(
    run,
    LexiconOptions,
    cost,
    reads=lambda options: TABLES,
    starts=False,
    prompts=RANKER_PROMPTS,
    heads=RANKER_HEADS,
)

if __name__ == "__main__":
    run_alone("students.lexicon", STAGE)

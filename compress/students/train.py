"""Stage: trains the whole decoder on slates, candidates isolated. Knows nothing of bags.

Run alone: python -m compress.students.train --source MODEL --data DIR --out DIR
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from tokenizers import Tokenizer
from torch import Tensor

from compress.data.requests import TABLES
from compress.data.sampling import SlateSampler
from compress.decoders.losses import slate_loss
from compress.decoders.slates import SlateBatch, score_slates
from compress.stages.alone import run_alone
from compress.stages.costs import CANDIDATE_TOKENS, CONTEXT_TOKENS, training_cost
from compress.stages.lineage import card_after
from compress.stages.loop import Checkpoints, Schedule, run_steps
from compress.stages.parallel import share
from compress.stages.required import require_labels, required_shape, required_source
from compress.stages.stage import (
    Cost,
    Incoming,
    Shape,
    StageInput,
    StageKind,
    lineage_entry,
    parse_options,
    prepare_process,
)
from models.checkpoint import (
    load_decoder,
    load_model_directory,
    save_model_directory,
)
from models.decoder import Decoder
from models.directory import TOKENIZER_NAME


@dataclass(frozen=True, slots=True)
class TrainOptions:
    """Recipe options; counts are in steps, slates and tokens.

    `trained_share` s writes (1 - s) source + s trained, weight by weight (WiSE-FT, Wortsman et al.
    2022, arXiv 2109.01903): the source generalises to words that training occupations lack.
    """

    steps: int = 500
    slates: int = 8
    candidates: int = 12
    steps_per_world: int = 80
    inverted_share: float = 0.25
    token_dropout: float = 0.1
    embedding_rate: float = 1e-4
    rate: float = 2e-4
    warmup: int = 30
    trained_share: float = 0.25
    checkpoint_every: int = 25


def run(stage: StageInput, raw_options: Mapping[str, Any]) -> None:
    """Writes the trained model directory; the card gains one lineage entry."""
    options = parse_options(TrainOptions, raw_options)
    source = required_source(stage, "train")
    prepare_process(stage)
    directory = load_model_directory(source)
    decoder = load_decoder(directory).to(stage.device).train().requires_grad_(True)
    tokenizer = Tokenizer.from_file(str(source / TOKENIZER_NAME))
    sampler = SlateSampler.load(
        stage.data, tokenizer, stage.seed + 1, options.steps_per_world, options.inverted_share
    )

    def loss_of_step(step: int) -> Tensor:
        drawn = sampler.draw(step, options.slates, options.candidates, options.token_dropout)
        ours = share(range(options.slates))
        contexts = [drawn.contexts[slate] for slate in ours]
        slates = [[drawn.candidates[index] for index in drawn.slates[slate]] for slate in ours]
        batch = SlateBatch.pack(contexts, slates)
        raw_logits = score_slates(decoder, batch, directory.prompt.label_ids)
        return slate_loss(raw_logits, torch.as_tensor(drawn.grades[list(ours)]))

    run_steps(
        decoder,
        _optimizer(decoder, options),
        loss_of_step,
        Schedule(options.steps, options.warmup),
        Checkpoints(stage.work / "train.pt", options.checkpoint_every),
        "train",
    )
    _blend(decoder.cpu(), load_decoder(directory), options.trained_share)
    entry = lineage_entry("train", stage, options)
    card = card_after(directory.card, directory.digest, entry)
    save_model_directory(stage.out, decoder, source / TOKENIZER_NAME, card)


@torch.no_grad()
def _blend(trained: Decoder, source: Decoder, share: float) -> None:
    """Moves `trained` back towards `source` in place."""
    for weight, origin in zip(trained.parameters(), source.parameters(), strict=True):
        weight.lerp_(origin, 1 - share)


def _optimizer(decoder: Decoder, options: TrainOptions) -> torch.optim.Optimizer:
    embeddings = decoder.model.embed_tokens.weight
    rest = [weight for weight in decoder.parameters() if weight is not embeddings]
    groups = [
        {"params": [embeddings], "lr": options.embedding_rate, "weight_decay": 0.0},
        {"params": rest, "lr": options.rate, "weight_decay": 0.01},
    ]
    return torch.optim.AdamW(groups, betas=(0.9, 0.98), fused=True)


def cost(options: TrainOptions, shape: Shape | None) -> Cost:
    """Of slates of the usual length."""
    shape = required_shape(shape, "train")
    tokens = options.slates * (CONTEXT_TOKENS + options.candidates * CANDIDATE_TOKENS)
    return training_cost(options.steps, tokens, shape)


def check(options: TrainOptions, incoming: Incoming) -> None:
    """Raises RecipeError for a model without two labels."""
    require_labels(incoming, "train")


STAGE = StageKind(run, TrainOptions, cost, reads=lambda options: TABLES, check=check)

if __name__ == "__main__":
    run_alone("students.train", STAGE)

"""Stage: trains the encoder whose vectors replace candidates' text. Knows nothing of serving.

The ranker is frozen and its own teacher: what it says of texts is what it learns to say of vectors,
with grades beside it (after MixLM, arXiv 2512.07846, which trains the ranker too; here texts keep
their scores). The model comes out as it went in, with `item_encoder` beside it.
Run alone: python -m compress.items.embed_items --source MODEL --data DIR --out DIR
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from compress.data.requests import halves, load_requests, request_files
from compress.decoders.losses import slate_loss
from compress.decoders.slates import score_slates
from compress.items.item_sampling import ItemSampler
from compress.items.stored_candidates import (
    ITEMS,
    StoredItems,
    job_of,
    new_engine,
    quality,
    raw_logits,
)
from compress.stages.alone import run_alone
from compress.stages.lineage import lineage_after
from compress.stages.loop import Checkpoints, Schedule, run_steps
from compress.stages.required import require_labels, required_source
from compress.stages.stage import (
    GateError,
    Incoming,
    RecipeError,
    StageInput,
    StageKind,
    lineage_entry,
    parse_options,
    prepare_process,
)
from models.card import write_card
from models.checkpoint import ModelDirectory, load_decoder, load_model_directory
from models.encode_catalogue import checked_ids
from models.extended_embedding import extend_embedding
from models.item_encoder import ENCODER_PATH, ItemEncoder, save_item_encoder


@dataclass(frozen=True, slots=True)
class EmbedOptions:
    """prompt: of which the data's requests are, by default the card's. vectors: of an item. inner:
    width of the encoder's hidden layer. grade_weight: of the loss on grades beside that on the
    ranker's scores. least_gauc: on the selecting half of `valid`.
    """

    prompt: str | None = None
    vectors: int = 1
    inner: int = 512
    steps: int = 240
    slates: int = 16
    rate: float = 3e-3
    weight_decay: float = 0.01
    warmup: int = 20
    grade_weight: float = 0.3
    least_gauc: float = 0.0
    checkpoint_every: int = 50

    def __post_init__(self) -> None:
        for name in ("vectors", "inner", "steps", "slates", "warmup", "checkpoint_every"):
            if getattr(self, name) < 1:
                raise RecipeError(
                    f"embed_items: {name} must be 1 or more, not {getattr(self, name)}"
                )


def run(stage: StageInput, raw_options: Mapping[str, Any]) -> None:
    """Trains on `train`, is gated on half of `valid`, and measures `test` once.

    Raises GateError below `least_gauc`, when nothing is published, and RecipeError before training
    where `valid` defines no gauc to hold it on.
    """
    options = parse_options(EmbedOptions, raw_options)
    source = required_source(stage, "embed_items")
    _refuse_gate_on_nothing(options, stage.data)
    prepare_process(stage)
    directory = load_model_directory(source)
    prompt = directory.prompt.prompt_name(options.prompt)
    encoder = stage.work / ENCODER_PATH
    save_item_encoder(encoder, _train(stage, options, directory, prompt), directory, prompt)
    _publish(stage, options, directory, encoder, _measured(stage, options, directory, encoder))


def distillation_loss(
    student: Tensor, teacher: Tensor, grades: Tensor, grade_weight: float
) -> Tensor:
    """Top-one cross-entropy to the teacher's order, binary cross-entropy to its probabilities, a
    tenth of the distance to its logits, and the slate's own loss. All (slates, candidates).
    """
    listwise = -(teacher.softmax(1) * student.log_softmax(1)).sum(1).mean()
    pointwise = F.binary_cross_entropy_with_logits(student, teacher.sigmoid())
    distance = F.smooth_l1_loss(student, teacher)
    return listwise + pointwise + distance / 10 + grade_weight * slate_loss(student, grades)


def _train(
    stage: StageInput, options: EmbedOptions, directory: ModelDirectory, prompt: str
) -> ItemEncoder:
    requests = load_requests(stage.data, "train")
    sampler = ItemSampler(directory, requests, prompt, options.vectors)
    encoder = ItemEncoder(directory.config.hidden_size, options.vectors, options.inner)
    encoder.normalise(sampler.features)
    decoder, labels = load_decoder(directory), directory.prompt.label_ids

    def loss_of_step(step: int) -> Tensor:
        drawn = sampler.draw(stage.seed, step, options.slates)
        extend_embedding(decoder, encoder(drawn.features).flatten(0, 1))
        student = score_slates(decoder, drawn.batch, labels)
        return distillation_loss(student, drawn.teacher, drawn.grades, options.grade_weight)

    run_steps(
        encoder,
        torch.optim.AdamW(
            encoder.parameters(), options.rate, (0.9, 0.98), weight_decay=options.weight_decay
        ),
        loss_of_step,
        Schedule(options.steps, options.warmup),
        Checkpoints(stage.work / "embed_items.pt", options.checkpoint_every),
        "embed_items",
        sharded=False,
    )
    return encoder.eval().requires_grad_(False)


def _measured(
    stage: StageInput, options: EmbedOptions, directory: ModelDirectory, encoder: Path
) -> dict[str, Any]:
    """Quality of stored candidates on the selecting half of `valid`, and then on `test`."""
    stored = StoredItems.encode(directory, encoder, stage.data, stage.work / "items.catalogue")
    engine = new_engine(directory, stored)
    selecting, _ = halves(load_requests(stage.data, "valid"))
    found: dict[str, Any] = {}
    for split, requests in (("valid", selecting), ("test", load_requests(stage.data, "test"))):
        jobs = [job_of(directory, one, stored.prompt, stored) for one in requests]
        found[split] = quality(directory, requests, list(raw_logits(engine, jobs)))
        reached = found[split]["gauc"]["value"] or 0.0  # what is not defined is never enough
        if reached < options.least_gauc and split == "valid":
            raise GateError(
                f"embed_items: gauc {reached:.4f} on the selecting half of valid is below "
                f"{options.least_gauc}; train longer, or with more vectors"
            )
    return found


def _publish(
    stage: StageInput,
    options: EmbedOptions,
    directory: ModelDirectory,
    encoder: Path,
    metrics: Mapping[str, Any],
) -> None:
    """The source's files as they are, the encoder, and last the card."""
    stage.out.mkdir(parents=True)
    for name in directory.card.files:
        shutil.copyfile(directory.path / name, stage.out / name)
    (stage.out / ENCODER_PATH).parent.mkdir()
    shutil.copyfile(encoder, stage.out / ENCODER_PATH)
    entry = lineage_entry("embed_items", stage, options)
    card = replace(
        directory.card,
        lineage=lineage_after(directory.card, directory.digest, entry),
        metrics={**directory.card.metrics, "embed_items": metrics},
    )
    write_card(stage.out, card)


def _refuse_gate_on_nothing(options: EmbedOptions, data: Path) -> None:
    selecting, _ = halves(load_requests(data, "valid"))
    if options.least_gauc and not any(len(set(request.relevant)) > 1 for request in selecting):
        raise RecipeError(
            f"embed_items: least_gauc is {options.least_gauc}, but no request of the selecting "
            "half of valid has both relevant and other candidates; give more data or set it to 0"
        )


def check(options: EmbedOptions, incoming: Incoming) -> None:
    """Raises RecipeError for a model without two labels, a prompt that it lacks, and data without a
    gauc to gate; CatalogueError, naming the line, for an item that a catalogue cannot hold.
    """
    require_labels(incoming, "embed_items")
    checked_ids(incoming.data / ITEMS)
    _refuse_gate_on_nothing(options, incoming.data)
    if options.prompt is not None and incoming.prompts and options.prompt not in incoming.prompts:
        raise RecipeError(
            f"embed_items: prompt {options.prompt!r} is unknown; use one of "
            f"{', '.join(incoming.prompts)}"
        )


STAGE = StageKind(
    run,
    EmbedOptions,
    reads=lambda options: request_files("train", "valid", "test"),
    check=check,
    keeps=True,
    encodes=True,
)

if __name__ == "__main__":
    run_alone("items.embed_items", STAGE)

"""Stage: trains a model directory on what teachers say, phase by phase. Knows no divergence.

Run alone: python -m compress.distillation.distill --source MODEL --data DIR --out DIR
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from compress.data.requests import TABLES, request_files
from compress.data.text_slates import (
    GeneratedSlates,
    RequestSlates,
    TextSlateSource,
    labelled_requests,
)
from compress.decoders.wiring import layers_of
from compress.distillation.distill_options import RATIONALES, DistillOptions
from compress.distillation.distill_teachers import (
    ranking_teachers,
    text_teacher,
    vocabulary_teachers,
)
from compress.distillation.slate_distillation import SlateTask
from compress.distillation.teachers import refuse_unteachable
from compress.distillation.text_distillation import TextTask
from compress.reasons.evaluate_reason import measure_reasons
from compress.reasons.example_grammar import ExampleGrammars
from compress.reasons.rationales import RationaleExamples
from compress.reasons.text_examples import FixedExamples, TextExample, TextSource
from compress.reasons.text_tokens import TextEncoder
from compress.stages.alone import run_alone
from compress.stages.costs import CANDIDATE_TOKENS, CONTEXT_TOKENS, training_cost
from compress.stages.lineage import card_after
from compress.stages.loop import Checkpoints, run_steps
from compress.stages.required import require_labels, required_shape, required_source
from compress.stages.stage import (
    TEACHER,
    Cost,
    Incoming,
    RecipeError,
    Shape,
    StageInput,
    StageKind,
    lineage_entry,
    prepare_process,
)
from compress.stages.storage import STORAGE
from models.checkpoint import load_decoder, load_model_directory, save_model_directory
from models.decoder import Decoder
from models.directory import TOKENIZER_NAME, ModelDirectory
from models.reasons.lattice import Lattice

Loss = Callable[[int], Tensor]


def run(stage: StageInput, raw_options: Mapping[str, Any]) -> None:
    """Writes the trained model directory; the card gains one lineage entry, teachers included.

    Raises RecipeError, TeacherError or TeacherCacheError before the first step.
    """
    options = DistillOptions.parse(raw_options)
    source = required_source(stage, "distill")
    prepare_process(stage)
    directory = load_model_directory(source)
    decoder = load_decoder(directory).to(stage.device).train().requires_grad_(True)
    loss, taught_by = _task(stage, directory, decoder, options)
    run_steps(
        decoder,
        optimizer_of(decoder, options),
        loss,
        options.schedule,
        Checkpoints(stage.work / "distill.pt", options.checkpoint_every),
        "distill",
    )
    _blend(decoder.cpu(), load_decoder(directory), options.trained_share)
    entry = lineage_entry("distill", stage, options) | {"teachers": taught_by}
    entry["options"] = asdict(options)
    for teacher in entry["options"]["teachers"]:
        teacher["path"] = Path(teacher["path"]).name  # the folders above mean nothing elsewhere
    card = card_after(directory.card, directory.digest, entry)
    dtype = STORAGE[options.storage]
    save_model_directory(stage.out, decoder, source / TOKENIZER_NAME, card, dtype)


def optimizer_of(decoder: Decoder, options: DistillOptions) -> torch.optim.Optimizer:
    """AdamW; embeddings have a rate of their own and do not decay, and a circuit may have one."""
    embeddings, layers = decoder.model.embed_tokens.weight, layers_of(decoder)
    parts = [layer.self_attn for layer in layers] + [layer.mlp for layer in layers[:-1]]
    wired = {weight: None for part in parts for weight in part.parameters()}
    rest = [w for w in decoder.parameters() if w is not embeddings and w not in wired]
    wired_rate = options.rate if options.wired_rate is None else options.wired_rate
    groups = [
        {"params": [embeddings], "lr": options.embedding_rate, "weight_decay": 0.0},
        {"params": rest, "lr": options.rate, "weight_decay": options.weight_decay},
        {"params": list(wired), "lr": wired_rate, "weight_decay": options.weight_decay},
    ]
    return torch.optim.AdamW(groups, betas=(0.9, 0.98), fused=True)


def _task(
    stage: StageInput, directory: ModelDirectory, decoder: Decoder, options: DistillOptions
) -> tuple[Loss, list[str]]:
    """The loss of a step, and the digests of the teachers."""
    if options.task == "text":
        return _text_task(stage, directory, decoder, options)
    source, seed = _slates(stage, options), stage.seed + 1
    teachers = ranking_teachers(stage, options)
    vocabulary = vocabulary_teachers(stage, directory, options)
    task = SlateTask(decoder, directory.prompt, source, teachers, vocabulary, options, seed)
    return task.loss, [item.teacher.digest for item in teachers]


def _slates(stage: StageInput, options: DistillOptions) -> TextSlateSource:
    seed = stage.seed + 1
    if options.slates_of == "requests":
        return RequestSlates.load(stage.data, seed, options.labelled_share)
    return GeneratedSlates.load(stage.data, seed, options.steps_per_world, options.inverted_share)


def _answers(encoder: TextEncoder) -> Callable[[TextExample], Lattice]:
    grammars = ExampleGrammars(encoder.prompt)
    return lambda example: grammars.of(example).lattice()


def _text_task(
    stage: StageInput, directory: ModelDirectory, decoder: Decoder, options: DistillOptions
) -> tuple[Loss, list[str]]:
    source, encoder = _examples(stage, options), TextEncoder.of(directory, options.end)
    teachers = [teacher for teacher in vocabulary_teachers(stage, directory, options) if teacher]
    weighted = [
        (given.weight, text_teacher(stage.work, number, given, teacher, encoder, source))
        for number, (given, teacher) in enumerate(zip(options.teachers, teachers, strict=False))
    ]
    answers = _answers(encoder) if options.choice_weight else None
    task = TextTask(decoder, encoder, source, weighted, options, stage.seed + 1, answers)
    return task.loss, [teacher.directory.digest for teacher in teachers]


def _examples(stage: StageInput, options: DistillOptions) -> TextSource:
    if options.examples == RATIONALES:
        return RationaleExamples.load(stage.data, stage.seed + 1)
    return FixedExamples.load(stage.data / options.examples, stage.seed + 1)


@torch.no_grad()
def _blend(trained: Decoder, source: Decoder, share: float) -> None:
    """Moves `trained` back towards `source` in place."""
    if share < 1:
        for weight, origin in zip(trained.parameters(), source.parameters(), strict=True):
            weight.lerp_(origin, 1 - share)


def cost(options: DistillOptions, shape: Shape | None) -> Cost:
    """Of slates or sequences of the usual length; teachers count as being of the student's size."""
    shape = required_shape(shape, "distill")
    tokens = options.batch * (CONTEXT_TOKENS + CANDIDATE_TOKENS)
    if options.task == "ranking":
        tokens = options.batch * (CONTEXT_TOKENS + options.candidates * CANDIDATE_TOKENS)
    whole = training_cost(options.steps, tokens, shape, len(options.teachers) * options.taught)
    return replace(whole, ranks=options.task == "ranking")


def quality(options: DistillOptions, directory: Path, data: Path) -> Mapping[str, float]:
    """What gates compare of a model that writes reasons."""
    return measure_reasons(load_model_directory(directory), data, "valid")


def named(options: DistillOptions) -> list[str]:
    """Its teachers."""
    return [teacher.path for teacher in options.teachers] if options.taught else []


def reads(options: DistillOptions) -> Sequence[str]:
    """Tables that slates and rationales are made of, recorded requests, or a file of examples."""
    if options.task == "text":
        return TABLES if options.examples == RATIONALES else (options.examples,)
    rare = any(teacher.rare_share for teacher in options.teachers) and options.taught
    requests = request_files("train") if options.slates_of == "requests" or rare else ()
    return (*requests, *(TABLES if options.slates_of == "generated" else ()))


def check(options: DistillOptions, incoming: Incoming) -> None:
    """Raises RecipeError for a share of requests that holds none, a student without two labels, and
    a teacher of no words; TeacherError for one that is known to have other words; ExamplesError and
    DataError for a file that holds no examples.
    """
    if options.task == "ranking":
        require_labels(incoming, "distill")
    if options.task == "text" and options.examples != RATIONALES:
        FixedExamples.load(incoming.data / options.examples, 0)
    share = options.labelled_share
    if share < 1 and options.task == "ranking" and not labelled_requests(incoming.data, share):
        raise RecipeError(f"distill: labelled_share {share} holds no request of train; raise it")
    own = options.taught and any(teacher.path == TEACHER for teacher in options.teachers)
    if own and options.reads_decoders and not incoming.by_model:
        raise RecipeError(
            "distill: the recipe's teacher is no model directory, so only its labels can be "
            "learned; set scope: labels and hidden_weight: 0, or name another teacher"
        )
    if options.taught and options.reads_decoders:
        for teacher in options.teachers:
            refuse_unteachable(teacher.path, incoming)


STAGE = StageKind(
    run,
    DistillOptions,
    cost,
    named,
    reads,
    check,
    writes=lambda options: options.task == "text" and options.examples == RATIONALES,
    quality=quality,
)

if __name__ == "__main__":
    run_alone("distillation.distill", STAGE)

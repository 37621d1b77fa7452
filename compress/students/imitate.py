"""Stage: a small decoder that answers as an encoder teacher does. Does not know how it was made.

Its words start from the teacher's towers, are moved while the decoder is a comparison of bags, and
then the whole decoder learns, all on the teacher's log-odds of generated slates.

Run alone: python -m compress.students.imitate --data DIR --out DIR --options '{"teacher": "DIR"}'
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from tokenizers import Tokenizer
from torch import nn

from compress.data.requests import TABLES
from compress.data.substitution import Neighbours
from compress.data.tokenizer import MARKERS, save_tokenizer
from compress.data.worlds import Worlds, WorldSource
from compress.encoders.pair_slates import SpecialTokens
from compress.encoders.pair_teacher import EncoderTeacher
from compress.encoders.teacher_steps import TOWERS
from compress.stages.ahead import Ahead
from compress.stages.alone import run_alone
from compress.stages.loop import Checkpoints, Schedule, run_steps
from compress.stages.ranker_card import RANKER_HEADS, RANKER_PROMPTS, new_card
from compress.stages.stage import (
    RecipeError,
    StageInput,
    StageKind,
    directory_digest,
    lineage_entry,
    parse_options,
    prepare_process,
)
from compress.students.imitate_options import ImitateOptions, check, cost, named
from compress.students.neighbours import neighbours_of
from compress.students.student import StudentShape, deepened, student_of
from compress.students.student_steps import (
    StepDraws,
    StudentSteps,
    bag_weights,
    blended,
    full_weights,
    scored,
    student_optimizer,
)
from compress.students.teacher_labels import TeacherLabels
from compress.students.token_states import StateProbe, TeacherStates
from compress.students.whole_batches import as_slates
from compress.students.word_table import (
    Projection,
    projection_of,
    token_vectors,
    tokens_of,
    vocabulary_of,
)
from models.checkpoint import save_model_directory
from models.decoder import Decoder
from models.directory import TOKENIZER_NAME

WORLDS_COUNTED = 10  # whose texts say how common a word is


def run(stage: StageInput, raw_options: Mapping[str, Any]) -> None:
    """Writes the student's model directory."""
    options = parse_options(ImitateOptions, raw_options)
    prepare_process(stage)
    path = _teacher_path(stage, options)
    teacher = EncoderTeacher.load(path, stage.device, options.cpu_passes)
    if TOWERS not in teacher.parts:
        raise RecipeError("imitate takes its words from towers; train the teacher's towers too")
    tokenizer = _tokenizer(stage, options, teacher)
    _save(stage, options, teacher, _trained(stage, options, teacher, tokenizer))


def _trained(
    stage: StageInput, options: ImitateOptions, teacher: EncoderTeacher, tokenizer: Tokenizer
) -> Decoder:
    """The words first, then everything."""
    tokens, device = tokens_of(tokenizer), teacher.device
    towers = teacher.parts[TOWERS]
    vectors = token_vectors(towers, teacher.tokenizer, tokens, device, teacher.dtype)
    worlds = _worlds(stage, options, teacher, tokenizer, neighbours_of(tokens, vectors))
    projection = projection_of(vectors, _texts(worlds), StudentShape().hidden_size)
    steps = _steps(stage, options, teacher, worlds, projection)
    decoder = student_of(StudentShape(), projection(vectors), len(MARKERS)).to(device)
    _train_bags(stage, options, steps, decoder)
    decoder = deepened(decoder, StudentShape(layers=options.layers)).to(device)
    _train_whole(stage, options, steps, decoder)
    return decoder


def _save(
    stage: StageInput, options: ImitateOptions, teacher: EncoderTeacher, decoder: Decoder
) -> None:
    entry = lineage_entry("imitate", stage, options) | {"teacher": teacher.digest}
    entry["options"] |= {"teacher": ""}  # a path means nothing elsewhere
    stages = [*teacher.lineage, entry]
    card = replace(new_card(options.name, options.version), lineage={"stages": stages})
    save_model_directory(stage.out, decoder.cpu(), stage.work / TOKENIZER_NAME, card)


def _teacher_path(stage: StageInput, options: ImitateOptions) -> Path:
    if options.teacher:
        return Path(options.teacher)
    if stage.teacher is None:
        raise RecipeError("imitate needs a teacher; name one in the recipe or the options")
    return stage.teacher


def _tokenizer(stage: StageInput, options: ImitateOptions, teacher: EncoderTeacher) -> Tokenizer:
    path = stage.work / TOKENIZER_NAME
    counts = options.common_words, options.minimum_count
    save_tokenizer(vocabulary_of(stage.data, teacher.tokenizer, *counts), path)
    return Tokenizer.from_file(str(path))


def _worlds(
    stage: StageInput,
    options: ImitateOptions,
    teacher: EncoderTeacher,
    tokenizer: Tokenizer,
    neighbours: Neighbours,
) -> Worlds:
    source = WorldSource.load(stage.data, teacher.tokenizer, tokenizer, stage.seed, neighbours)
    worlds = Worlds(source, options.worlds, options.turn)
    worlds.build(stage.workers)
    return worlds


def _texts(worlds: Worlds) -> list[npt.NDArray[np.uint16]]:
    """Token ids of the first worlds, which say how common a word is."""
    return [side.flat for step in range(WORLDS_COUNTED) for side in worlds.of(step).student]


def _steps(
    stage: StageInput,
    options: ImitateOptions,
    teacher: EncoderTeacher,
    worlds: Worlds,
    projection: Projection,
) -> StudentSteps:
    draw = StepDraws(worlds.source, options.slates, options.candidates, options.inverted_share)
    counts = (options.slates, options.candidates, options.inverted_share, *options.worlds.values())
    slates = [directory_digest(stage.data), stage.seed, *counts]
    folder = stage.work / "labels"
    labels = TeacherLabels(teacher, draw, worlds.of, folder, slates, options.chunk)
    asked = options.whole_rates.asks_states
    states = _states(teacher, projection, options.chunk) if asked else None
    return StudentSteps(
        draw, worlds.of, labels, options.labelled, stage.device, options.parts, states
    )


def _states(teacher: EncoderTeacher, projection: Projection, chunk: int) -> TeacherStates:
    special, device = SpecialTokens.of(teacher.tokenizer), teacher.device
    towers = teacher.parts[TOWERS]
    return TeacherStates(towers, projection.to(device), special, device, teacher.dtype, chunk)


def _train_bags(
    stage: StageInput, options: ImitateOptions, steps: StudentSteps, decoder: Decoder
) -> None:
    rates = options.bag_rates
    batches = Ahead(partial(steps.bags, token_dropout=rates.token_dropout), stage.workers)
    run_steps(
        decoder,
        student_optimizer(bag_weights(decoder), rates, fused=True),
        lambda step: steps.bag_loss(decoder, batches(step), rates),
        Schedule(options.bag_steps, options.warmup),
        Checkpoints(stage.work / "bags.pt", options.checkpoint_every),
        "words",
        sharded=False,
        average=options.average,
    )


def _train_whole(
    stage: StageInput, options: ImitateOptions, steps: StudentSteps, decoder: Decoder
) -> None:
    rates, source = options.whole_rates, copy.deepcopy(decoder)
    batches = Ahead(partial(steps.full, token_dropout=rates.token_dropout), stage.workers)
    probe = _probe(steps, decoder) if rates.asks_states else None
    embedding, rest = full_weights(decoder)
    trained = nn.ModuleList([decoder] if probe is None else [decoder, probe])
    run_steps(
        trained,
        student_optimizer((embedding, [*rest, *trained[1:].parameters()]), rates, fused=True),
        lambda step: steps.full_loss(decoder, batches(step), rates, probe),
        Schedule(options.steps, options.warmup),
        Checkpoints(stage.work / "whole.pt", options.checkpoint_every),
        "whole",
        sharded=False,
        average=options.average,
    )
    blended(decoder, source, options.trained_share)


@torch.no_grad()
def _probe(steps: StudentSteps, decoder: Decoder) -> StateProbe:
    """As near as a linear map of the untrained states gets."""
    batch = steps.full(0, 0.0)
    _, states = scored(decoder, as_slates(batch.arrays, steps.device), steps.device)
    states, targets = steps.state_pairs(states, batch)
    probe = StateProbe(states.shape[-1], targets.shape[-1]).to(steps.device)
    probe.fit(states, targets)
    return probe


STAGE = StageKind(
    run,
    ImitateOptions,
    cost,
    named,
    reads=lambda options: TABLES,
    check=check,
    starts=False,
    prompts=RANKER_PROMPTS,
    heads=RANKER_HEADS,
)

if __name__ == "__main__":
    run_alone("students.imitate", STAGE)

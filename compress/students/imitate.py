"""Stage: a small decoder that answers as an encoder teacher does. Knows not how that was made.

Its words start from the teacher's towers, are moved while the decoder is a comparison of bags, and
then the whole decoder learns, all on the teacher's log-odds of generated slates.

Run alone: python -m compress.students.imitate --data DIR --out DIR --options '{"teacher": "DIR"}'
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from compress.data.tokenizer import MARKERS
from compress.data.worlds import TokenWorld, WorldSource
from compress.encoders.pair_teacher import EncoderTeacher
from compress.encoders.teacher_steps import TOWERS
from compress.stages.costs import CANDIDATE_TOKENS, CONTEXT_TOKENS, shape_of, training_cost
from compress.stages.loop import Checkpoints, Schedule, run_steps
from compress.stages.stage import (
    Cost,
    RecipeError,
    Shape,
    StageInput,
    StageKind,
    lineage_entry,
    new_card,
    parse_options,
    prepare_process,
    run_alone,
)
from compress.students.student import StudentShape, deepened, student_of
from compress.students.student_steps import (
    StepDraws,
    StudentRates,
    StudentSteps,
    bag_weights,
    blended,
    full_weights,
    is_mixed,
    student_optimizer,
)
from compress.students.teacher_labels import TeacherLabels
from compress.students.word_table import student_words, vocabulary_of
from models.checkpoint import save_model_directory
from models.decoder import Decoder
from models.directory import TOKENIZER_NAME

WORLDS_COUNTED = 10  # whose texts say how common a word is


@dataclass(frozen=True, slots=True)
class ImitateOptions:
    """Recipe options; counts are in steps, slates, words and texts. Rates are peaks.

    teacher: directory of an encoder teacher with towers; empty takes the recipe's own. labelled:
    steps whose slates the teacher answers; the student goes over them again and again, each time
    with other words left out. trained_share: as in train, of the whole decoder's steps.
    """

    teacher: str = ""
    name: str = "fairslate-demo"
    version: str = "2"
    layers: int = 3
    common_words: int = 16000
    minimum_count: int = 3
    labelled: int = 600
    bag_steps: int = 1500
    steps: int = 1200
    slates: int = 128
    candidates: int = 24
    parts: int = 2
    plain_worlds: int = 240
    mixed_worlds: int = 160
    inverted_share: float = 0.25
    bag_embedding_rate: float = 1e-3
    bag_rate: float = 2e-3
    embedding_rate: float = 2e-4
    rate: float = 7e-4
    temperature: float = 2.0
    truth_share: float = 0.3
    token_dropout: float = 0.15
    trained_share: float = 1.0
    warmup: int = 30
    checkpoint_every: int = 100

    def rates(self, embedding: float, rest: float) -> StudentRates:
        """Of one of the two trainings."""
        return StudentRates(embedding, rest, self.temperature, self.truth_share, self.token_dropout)


def run(stage: StageInput, raw_options: Mapping[str, Any]) -> None:
    """Writes the student's model directory."""
    options = parse_options(ImitateOptions, raw_options)
    prepare_process(stage)
    teacher = EncoderTeacher.load(_teacher_path(stage, options))
    if TOWERS not in teacher.parts:
        raise RecipeError("imitate takes its words from towers; train the teacher's towers too")
    tokenizer = _tokenizer(stage, options, teacher)
    source = WorldSource.load(stage.data, teacher.tokenizer, tokenizer, stage.seed)
    world_of = _worlds(source, options)
    steps = _steps(stage, options, teacher, source, world_of)
    decoder = _start(options, teacher, tokenizer, world_of)
    _train_bags(stage, options, steps, decoder)
    decoder = deepened(decoder, StudentShape(layers=options.layers)).to(teacher.device)
    _train_whole(stage, options, steps, decoder)
    entry = lineage_entry("imitate", stage, options) | {"teacher": teacher.digest}
    entry["options"] |= {"teacher": ""}  # a path means nothing elsewhere
    card = replace(new_card(options.name, options.version), lineage={"stages": [entry]})
    save_model_directory(stage.out, decoder.cpu(), stage.work / TOKENIZER_NAME, card)


def _teacher_path(stage: StageInput, options: ImitateOptions) -> Path:
    if options.teacher:
        return Path(options.teacher)
    if stage.teacher is None:
        raise RecipeError("imitate needs a teacher; name one in the recipe or the options")
    return stage.teacher


def _tokenizer(stage: StageInput, options: ImitateOptions, teacher: EncoderTeacher) -> Tokenizer:
    path = stage.work / TOKENIZER_NAME
    path.parent.mkdir(parents=True, exist_ok=True)
    vocabulary_of(stage.data, teacher.tokenizer, options.common_words, options.minimum_count).save(
        str(path)
    )
    return Tokenizer.from_file(str(path))


def _worlds(source: WorldSource, options: ImitateOptions) -> Callable[[int], TokenWorld]:
    """By labelled step; a few stay in memory."""

    @lru_cache(maxsize=8)
    def world(number: int, mixed: bool) -> TokenWorld:
        return source.build(number, mixed)

    def of_step(step: int) -> TokenWorld:
        mixed = is_mixed(step)
        return world(step % (options.mixed_worlds if mixed else options.plain_worlds), mixed)

    return of_step


def _steps(
    stage: StageInput,
    options: ImitateOptions,
    teacher: EncoderTeacher,
    source: WorldSource,
    world_of: Callable[[int], TokenWorld],
) -> StudentSteps:
    draw = StepDraws(source, options.slates, options.candidates, options.inverted_share)
    labels = TeacherLabels(teacher, draw, world_of, stage.work / "labels")
    return StudentSteps(draw, world_of, labels, options.labelled, teacher.device, options.parts)


def _start(
    options: ImitateOptions,
    teacher: EncoderTeacher,
    tokenizer: Tokenizer,
    world_of: Callable[[int], TokenWorld],
) -> Decoder:
    shape, texts = StudentShape(), []
    for step in range(WORLDS_COUNTED):
        texts += [side.flat for side in world_of(step).student]
    words = student_words(
        teacher.parts[TOWERS],
        teacher.tokenizer,
        tokenizer,
        texts,
        shape.hidden_size,
        teacher.device,
        teacher.dtype,
    )
    return student_of(shape, words, len(MARKERS)).to(teacher.device)


def _train_bags(
    stage: StageInput, options: ImitateOptions, steps: StudentSteps, decoder: Decoder
) -> None:
    rates = options.rates(options.bag_embedding_rate, options.bag_rate)
    optimizer = student_optimizer(bag_weights(decoder), rates, fused=True)
    run_steps(
        decoder,
        optimizer,
        lambda step: steps.bag_loss(decoder, steps.bags(step, rates.token_dropout), rates),
        Schedule(options.bag_steps, options.warmup),
        Checkpoints(stage.work / "bags.pt", options.checkpoint_every),
        "words",
        sharded=False,
    )


def _train_whole(
    stage: StageInput, options: ImitateOptions, steps: StudentSteps, decoder: Decoder
) -> None:
    rates, source = options.rates(options.embedding_rate, options.rate), copy.deepcopy(decoder)
    optimizer = student_optimizer(full_weights(decoder), rates, fused=True)
    run_steps(
        decoder,
        optimizer,
        lambda step: steps.full_loss(decoder, steps.full(step, rates.token_dropout), rates),
        Schedule(options.steps, options.warmup),
        Checkpoints(stage.work / "whole.pt", options.checkpoint_every),
        "whole",
        sharded=False,
    )
    blended(decoder, source, options.trained_share)


def cost(options: ImitateOptions, shape: Shape | None) -> Cost:
    """Of the whole decoder's steps: the bags are little beside them, the teacher's labels not."""
    vocabulary = options.common_words + 6000  # words of the trade and pieces come on top
    shape = shape_of(StudentShape(layers=options.layers).config(vocabulary))
    tokens = options.slates * (CONTEXT_TOKENS + options.candidates * CANDIDATE_TOKENS)
    return training_cost(options.steps, tokens // options.parts, shape)


STAGE = StageKind(run, ImitateOptions, cost)

if __name__ == "__main__":
    run_alone("students.imitate", run)

"""Stage: a small decoder that answers as an encoder teacher does. Knows not how that was made.

Its words start from the teacher's towers, are moved while the decoder is a comparison of bags, and
then the whole decoder learns, all on the teacher's log-odds of generated slates.

Run alone: python -m compress.students.imitate --data DIR --out DIR --options '{"teacher": "DIR"}'
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from compress.data.tokenizer import MARKERS
from compress.data.worlds import TokenWorld, Worlds, WorldSource
from compress.encoders.pair_teacher import EncoderTeacher
from compress.encoders.teacher_steps import TOWERS
from compress.stages.ahead import Ahead
from compress.stages.alone import run_alone
from compress.stages.costs import (
    CANDIDATE_TOKENS,
    CONTEXT_TOKENS,
    OCCUPATIONS,
    PAIR_TOKENS,
    TEXT_TOKENS,
    pass_cost,
    shape_of,
    together,
    training_cost,
)
from compress.stages.loop import Checkpoints, Schedule, run_steps
from compress.stages.stage import (
    Cost,
    RecipeError,
    Shape,
    StageInput,
    StageKind,
    directory_digest,
    lineage_entry,
    new_card,
    parse_options,
    prepare_process,
)
from compress.students import lexicon
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
OWN_WORDS = 6300  # words of the trade and pieces that the demo's vocabulary has beside common ones


@dataclass(frozen=True, slots=True)
class ImitateOptions:
    """Recipe options; counts are in steps, slates, words and texts. Rates are peaks.

    teacher: directory of an encoder teacher with towers; empty takes the recipe's own. labelled:
    steps whose slates the teacher answers; the student goes over them again and again, each time
    with other words left out. trained_share: as in train, of the whole decoder's steps. average:
    decay of the averaged weights that either training ends with; 0 takes those of the last step.
    chunk: pairs that the teacher reads at once.
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
    average: float = 0.0
    chunk: int = 512
    warmup: int = 30
    checkpoint_every: int = 100

    def __post_init__(self) -> None:
        for name in ("labelled", "bag_steps", "parts", "plain_worlds", "mixed_worlds"):
            if getattr(self, name) < 1:
                raise RecipeError(f"imitate: {name} is {getattr(self, name)}; use 1 or more")
        if not 0 <= self.average < 1 or not 0 <= self.trained_share <= 1:
            raise RecipeError("imitate: average is 0 to below 1, and trained_share 0 to 1")
        if self.slates % self.parts:
            raise RecipeError(
                f"imitate: {self.slates} slates do not divide into {self.parts} parts"
            )

    def rates(self, embedding: float, rest: float) -> StudentRates:
        """Of one of the two trainings."""
        return StudentRates(embedding, rest, self.temperature, self.truth_share, self.token_dropout)


def run(stage: StageInput, raw_options: Mapping[str, Any]) -> None:
    """Writes the student's model directory."""
    options = parse_options(ImitateOptions, raw_options)
    prepare_process(stage)
    teacher = EncoderTeacher.load(_teacher_path(stage, options), stage.device)
    if TOWERS not in teacher.parts:
        raise RecipeError("imitate takes its words from towers; train the teacher's towers too")
    tokenizer = _tokenizer(stage, options, teacher)
    source = WorldSource.load(stage.data, teacher.tokenizer, tokenizer, stage.seed)
    worlds = Worlds(source, options.plain_worlds, options.mixed_worlds)
    worlds.build(stage.workers)
    steps = _steps(stage, options, teacher, worlds)
    decoder = _start(options, teacher, tokenizer, steps.world_of)
    _train_bags(stage, options, steps, decoder)
    decoder = deepened(decoder, StudentShape(layers=options.layers)).to(stage.device)
    _train_whole(stage, options, steps, decoder)
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
    path.parent.mkdir(parents=True, exist_ok=True)
    vocabulary_of(stage.data, teacher.tokenizer, options.common_words, options.minimum_count).save(
        str(path)
    )
    return Tokenizer.from_file(str(path))


def _steps(
    stage: StageInput, options: ImitateOptions, teacher: EncoderTeacher, worlds: Worlds
) -> StudentSteps:
    draw = StepDraws(worlds.source, options.slates, options.candidates, options.inverted_share)
    names = ("slates", "candidates", "inverted_share", "plain_worlds", "mixed_worlds")
    slates = [directory_digest(stage.data), stage.seed, *(getattr(options, n) for n in names)]
    folder = stage.work / "labels"

    def world_of(step: int) -> TokenWorld:
        return worlds.of(step, is_mixed(step))

    labels = TeacherLabels(teacher, draw, world_of, folder, slates, options.chunk)
    return StudentSteps(draw, world_of, labels, options.labelled, stage.device, options.parts)


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
    rates, source = options.rates(options.embedding_rate, options.rate), copy.deepcopy(decoder)
    batches = Ahead(partial(steps.full, token_dropout=rates.token_dropout), stage.workers)
    run_steps(
        decoder,
        student_optimizer(full_weights(decoder), rates, fused=True),
        lambda step: steps.full_loss(decoder, batches(step), rates),
        Schedule(options.steps, options.warmup),
        Checkpoints(stage.work / "whole.pt", options.checkpoint_every),
        "whole",
        sharded=False,
        average=options.average,
    )
    blended(decoder, source, options.trained_share)


def cost(options: ImitateOptions, shape: Shape | None) -> Cost:
    """Of the teacher's labels, where its shape is known, of the bags and of the whole decoder."""
    vocabulary = options.common_words + OWN_WORDS
    student = shape_of(StudentShape(layers=options.layers).config(vocabulary))
    tokens = options.slates * (CONTEXT_TOKENS + options.candidates * CANDIDATE_TOKENS)
    whole = training_cost(options.steps, tokens // options.parts, student)
    bags = lexicon.LexiconOptions(
        vocab_size=vocabulary,
        steps=options.bag_steps,
        slates=options.slates,
        candidates=options.candidates,
    )
    parts = [lexicon.cost(bags, None), whole]
    return together(student, *(parts if shape is None else [_labels_cost(options, shape), *parts]))


def _labels_cost(options: ImitateOptions, teacher: Shape) -> Cost:
    """Each of a teacher's two parts has half its body: one reads pairs, one a world's texts."""
    pairs = options.slates * options.candidates * PAIR_TOKENS
    tokens = (pairs + 2 * OCCUPATIONS * TEXT_TOKENS) // 2
    return pass_cost(options.labelled * tokens, teacher)


STAGE = StageKind(run, ImitateOptions, cost)

if __name__ == "__main__":
    run_alone("students.imitate", run)

"""Opens the teachers that a distillation names, through caches where asked. Knows no losses."""

from __future__ import annotations

from pathlib import Path

from compress.data.requests import load_requests
from compress.data.text_slates import labelled_requests
from compress.distillation.distill_options import DistillOptions, TeacherOptions
from compress.distillation.hidden_states import refuse_other_states
from compress.distillation.teacher_cache import (
    CachedTeacher,
    CacheIdentity,
    cache_label_log_odds,
    text_digest,
)
from compress.distillation.teachers import (
    RankingTeacher,
    VocabularyTeacher,
    WeightedTeacher,
    open_teacher,
    rare_grades,
)
from compress.distillation.text_teachers import ReadingTeacher, TextTeacher, kept_teacher
from compress.reasons.text_examples import FixedExamples, TextSource
from compress.reasons.text_tokens import TextEncoder
from compress.stages.stage import StageInput
from models.directory import ModelDirectory


def ranking_teachers(stage: StageInput, options: DistillOptions) -> list[WeightedTeacher]:
    """All of them, in order. Raises TeacherCacheError for a cache of something else."""
    if not options.taught:
        return []
    return [
        WeightedTeacher(
            _ranking_teacher(stage, options, number, given), given.weight, _masked(stage, given)
        )
        for number, given in enumerate(options.teachers)
    ]


def vocabulary_teachers(
    stage: StageInput, student: ModelDirectory, options: DistillOptions
) -> list[VocabularyTeacher | None]:
    """A decoder for every teacher if any phase needs them. Raises TeacherError if it cannot be."""
    if not options.taught:
        return []
    if not options.reads_decoders:
        return [None] * len(options.teachers)
    teachers = [
        VocabularyTeacher.load(_path(stage, given), student, stage.device)
        for given in options.teachers
    ]
    if options.reads_hidden:
        for teacher in teachers:
            refuse_other_states(teacher.directory, student)
    return list(teachers)


def text_teacher(
    work: Path,
    number: int,
    given: TeacherOptions,
    teacher: VocabularyTeacher,
    encoder: TextEncoder,
    source: TextSource,
) -> TextTeacher:
    """One that reads along, or the cache of what it says about a fixed list of examples."""
    if not given.cache:
        return ReadingTeacher(teacher)
    assert isinstance(source, FixedExamples)  # or the options were refused
    path = work / f"teacher-{number}.safetensors"
    return kept_teacher(path, teacher, encoder, source.examples, given.kept)


def _path(stage: StageInput, given: TeacherOptions) -> Path:
    """An earlier stage's directory, or one by its path."""
    return stage.earlier.get(given.path) or Path(given.path)


def _ranking_teacher(
    stage: StageInput, options: DistillOptions, number: int, given: TeacherOptions
) -> RankingTeacher:
    teacher = open_teacher(_path(stage, given))
    if not given.cache:
        return teacher
    requests = labelled_requests(stage.data, options.labelled_share)
    slates = [(request.context, request.candidates) for request in requests]
    # A ranking teacher's digest covers its tokenizer and templates.
    identity = CacheIdentity(teacher.digest, teacher.digest, "default", text_digest(slates))
    path = stage.work / f"teacher-{number}.safetensors"
    if not path.exists():
        cache_label_log_odds(path, identity, teacher, slates)
    return CachedTeacher(path, identity)


def _masked(stage: StageInput, given: TeacherOptions) -> frozenset[int]:
    if not given.rare_share:
        return frozenset()
    requests = load_requests(stage.data, "train")
    return rare_grades([request.grades for request in requests], given.rare_share)

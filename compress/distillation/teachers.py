"""Who a student learns from: label log-odds of any ranker, logits of a decoder of its own words.

Knows nothing of losses, caches or training.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt
import torch

from compress.measure.scorers import SCORER_NAME, open_scorer, served_dtype
from compress.stages.stage import ON_CPU, Incoming
from models.card import file_digest
from models.checkpoint import ModelDirectory, load_decoder, load_model_directory
from models.config_reader import read_config
from models.decoder import Decoder
from models.directory import TOKENIZER_NAME
from models.engines.base import ScoreJob
from models.engines.fairslate import FairslateEngine
from models.errors import FairslateError

LogOdds = npt.NDArray[np.float32]
CACHE_BYTES = 64 << 20
JOBS_PER_BATCH = 8
LABELS_ONLY = "teach label probabilities only (task: ranking, scope: labels)"


class TeacherError(FairslateError):
    """A teacher that cannot teach this student, or not on these data."""

    status = HTTPStatus.BAD_REQUEST
    code = "teacher_mismatch"


@runtime_checkable
class RankingTeacher(Protocol):
    """Any model that says how likely a candidate is relevant."""

    @property
    def digest(self) -> str:
        """Names its weights, tokenizer and templates exactly."""
        ...

    def label_log_odds(
        self,
        prefixes: Sequence[str],
        candidates: Sequence[Sequence[str]],
        prompt: str | None = None,
    ) -> list[LogOdds]:
        """log P(yes) / P(no) of every prefix's candidates, in order; NaN where it does not judge.

        prompt: which of the card's prompts both texts are put in; None is the default one.
        """
        ...


class DecoderTeacher:
    """A model directory as ranking teacher; its labels, vocabulary and tokenizer are its own."""

    def __init__(self, path: Path) -> None:
        self._directory = load_model_directory(path)
        self._engine = FairslateEngine(
            self._directory, CACHE_BYTES, dtype=served_dtype(self._directory), backend="torch"
        )

    @property
    def digest(self) -> str:
        return self._directory.digest

    def label_log_odds(
        self,
        prefixes: Sequence[str],
        candidates: Sequence[Sequence[str]],
        prompt: str | None = None,
    ) -> list[LogOdds]:
        jobs = [
            self._job(prefix, slate, prompt)
            for prefix, slate in zip(prefixes, candidates, strict=True)
        ]
        return [
            np.array(scores.of_head(0), dtype=np.float32)
            for start in range(0, len(jobs), JOBS_PER_BATCH)
            for scores in self._engine.score(jobs[start : start + JOBS_PER_BATCH])
        ]

    def _job(self, prefix: str, slate: Sequence[str], prompt: str | None) -> ScoreJob:
        builder = self._directory.prompt
        context = builder.encode_context(prefix, prompt).ids
        hashes = builder.block_hashes(context, self._directory.card.block_size)
        encoded = builder.encode_candidates(list(slate), prompt)
        return ScoreJob(context, hashes, tuple(candidate.ids for candidate in encoded))


def open_teacher(path: Path) -> RankingTeacher:
    """A model directory, or a ranker of another kind (compress.measure.scorers) that can teach.

    Raises ModelDirectoryError for neither, TeacherError for one that only scores.
    """
    if not (path / SCORER_NAME).exists():
        return DecoderTeacher(path)
    found = open_scorer(path)
    if not isinstance(found, RankingTeacher):
        raise TeacherError(f"{path}: its module offers no label_log_odds; take another teacher")
    return found


@dataclass(frozen=True, slots=True)
class VocabularyTeacher:
    """A decoder whose whole distribution over tokens is taught, frozen."""

    directory: ModelDirectory
    decoder: Decoder

    @classmethod
    def load(
        cls, path: Path, student: ModelDirectory, device: torch.device = ON_CPU
    ) -> VocabularyTeacher:
        """Raises TeacherError unless both turn text into the same tokens."""
        refuse_wordless(path)
        directory = load_model_directory(path)
        refuse_other_words(path, student.path)
        return cls(directory, load_decoder(directory).to(device))


def tokenizer_digest(directory: Path) -> str:
    """Names how a model turns text into tokens."""
    return file_digest(directory / TOKENIZER_NAME)


def refuse_wordless(teacher: Path) -> None:
    """Raises TeacherError for a ranker that is no model directory."""
    if (teacher / SCORER_NAME).exists():
        raise TeacherError(f"{teacher} has no vocabulary at its output; {LABELS_ONLY}")


def refuse_other_words(teacher: Path, student: Path) -> None:
    """Raises TeacherError: token by token one can only learn from a model of the same tokens."""
    if tokenizer_digest(teacher) != tokenizer_digest(student):
        raise TeacherError(
            f"{teacher} and {student} have different tokenizers; {LABELS_ONLY}, or take "
            "a teacher with the student's tokenizer"
        )
    if read_config(teacher).num_labels or read_config(student).num_labels:
        raise TeacherError(
            f"{teacher} or {student} is a classifier without a vocabulary at its "
            f"output; {LABELS_ONLY}"
        )


def refuse_unteachable(teacher: str, incoming: Incoming) -> None:
    """Before anything starts, as far as is known then. teacher: the name of a stage, or a path.

    Raises TeacherError for one that could not teach the student that comes in token by token.
    """
    origin = incoming.origins.get(teacher, Path(teacher))
    if origin is not None:
        refuse_wordless(origin)
        if incoming.origin is not None:
            refuse_other_words(origin, incoming.origin)


@dataclass(frozen=True, slots=True)
class WeightedTeacher:
    """One of several teachers; it is not asked about candidates whose grade is masked."""

    teacher: RankingTeacher
    weight: float
    masked_grades: frozenset[int] = frozenset()

    def targets(
        self,
        prefixes: Sequence[str],
        candidates: Sequence[Sequence[str]],
        grades: npt.NDArray[np.int64],
        prompt: str | None = None,
    ) -> LogOdds:
        """(slates, candidates), NaN where masked. Raises TeacherError for a wrong shape."""
        with ON_CPU:  # whatever device the student's loop makes its tensors on
            answers = self.teacher.label_log_odds(prefixes, candidates, prompt)
        if [len(row) for row in answers] != [len(slate) for slate in candidates]:
            raise TeacherError(
                f"teacher {self.teacher.digest} answered {[len(row) for row in answers]} "
                f"candidates for slates of {[len(slate) for slate in candidates]}; mend its "
                "label_log_odds to answer one each"
            )
        return self.judged(np.stack(answers), grades)

    def judged(self, log_odds: LogOdds, grades: npt.NDArray[np.int64]) -> LogOdds:
        """`log_odds` of candidates of these grades, NaN where masked."""
        masked = np.isin(grades, list(self.masked_grades))
        return np.where(masked, np.nan, log_odds).astype(np.float32)


def rare_grades(grades: Sequence[Sequence[int]], share: float) -> frozenset[int]:
    """Grades (the recorded actions) that make up less than `share` of all candidates.

    A teacher has seen too few of them to be trusted there.
    """
    flat = np.concatenate([np.asarray(row) for row in grades])
    values, counts = np.unique(flat, return_counts=True)
    return frozenset(int(value) for value in values[counts < share * counts.sum()])

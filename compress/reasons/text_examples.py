"""Examples of a text to be written for a context and a candidate. Knows no tokens, no weights."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from typing import Protocol

import numpy as np

from compress.data.requests import read_rows
from models.errors import FairslateError


class ExamplesError(FairslateError):
    """A file that holds no examples."""

    status = HTTPStatus.BAD_REQUEST
    code = "examples_invalid"


@dataclass(frozen=True, slots=True)
class TextExample:
    """What is asked in the card's templates, and the answer to learn."""

    context: str
    candidate: str
    answer: str


class TextSource(Protocol):
    """Endless examples by step."""

    def draw(self, step: int, count: int) -> list[TextExample]:
        """Depends on the step alone, whatever was drawn before."""


@dataclass(frozen=True, slots=True)
class FixedExamples:
    """A list of examples, drawn without repetition within a step."""

    examples: Sequence[TextExample]
    seed: int

    @classmethod
    def load(cls, path: Path, seed: int) -> FixedExamples:
        """Rows {context, candidate, answer} of gzipped JSON lines; raises ExamplesError."""
        try:
            examples = [TextExample(**row) for row in read_rows(path)]
        except (OSError, TypeError, ValueError) as error:
            raise ExamplesError(
                f"{path}: not gzipped JSON lines of context, candidate and answer ({error}); write "
                "one object with these three texts a line"
            ) from error
        if not examples:
            raise ExamplesError(f"{path}: holds no example; write one a line, or name another file")
        return cls(examples, seed)

    def draw(self, step: int, count: int) -> list[TextExample]:
        random = np.random.default_rng([self.seed, 6, step])
        rows = random.choice(len(self.examples), min(count, len(self.examples)), replace=False)
        return [self.examples[row] for row in rows]

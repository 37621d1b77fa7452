"""A recipe: teacher, stages, gates, read from YAML and checked whole before anything starts.

Knows the names of stages and where they live, nothing of what they do.
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from compress.recipes.gates import WRITTEN, Gate
from compress.recipes.reading import UNREADABLE, read_yaml
from compress.stages.stage import (
    CPU,
    DEVICES,
    SOURCE,
    TEACHER,
    RecipeError,
    StageKind,
    parse_options,
)

TITLE = re.compile(r"[A-Za-z0-9_-]{1,64}")
STAGES = {
    "encoder_teacher": "compress.encoders.encoder_teacher",
    "imitate": "compress.students.imitate",
    "start": "compress.students.start",
    "lexicon": "compress.students.lexicon",
    "train": "compress.students.train",
    "reasoner": "compress.reasons.reasoner",
    "distill": "compress.distillation.distill",
    "recover": "compress.distillation.distill",
    "prune": "compress.pruning.prune",
    "gradual": "compress.pruning.gradual",
    "quantize": "compress.quantization.quantize",
    "calibrate": "compress.measure.calibrate",
    "embed_items": "compress.items.embed_items",
}


def of_stage(title: str, error: Exception) -> RecipeError:
    """The same refusal, which names the stage once."""
    said = str(error)
    return RecipeError(said if said.startswith((f"{title}: ", f"{title} ")) else f"{title}: {said}")


@dataclass(frozen=True, slots=True)
class RecipeStage:
    """One entry of a recipe. `gates` are lines that Gate reads; `name` is the stage's own."""

    stage: str
    gates: Sequence[str] = ()
    options: Mapping[str, Any] = field(default_factory=dict)
    name: str = ""

    def __post_init__(self) -> None:
        if self.stage not in STAGES:
            raise RecipeError(f"stage {self.stage!r} is unknown; use one of {', '.join(STAGES)}")
        if isinstance(self.gates, str):
            raise RecipeError(f"stage {self.stage!r}: gates is a list of lines, not one string")
        if self.title in (TEACHER, SOURCE) or not TITLE.fullmatch(self.title):
            raise RecipeError(
                f"stage {self.stage!r}: name {self.title!r} names a folder; write up to 64 "
                f"letters, digits, - and _, and neither {TEACHER!r} nor {SOURCE!r}"
            )
        self._refuse_options()
        for gate in self.conditions:  # what cannot be read or met must not cost a stage's time
            if gate.metric in WRITTEN and not self.writes:
                raise RecipeError(
                    f"{self.title}: gate {gate.line!r} is of a model that writes, but stage "
                    f"{self.stage!r} makes one that ranks; hold a ranking metric"
                )
            if gate.metric not in WRITTEN and self.writes:
                raise RecipeError(
                    f"{self.title}: gate {gate.line!r} is of a model that ranks, but stage "
                    f"{self.stage!r} makes one that writes; hold one of {', '.join(WRITTEN)}"
                )

    @property
    def title(self) -> str:
        """What other stages' gates and options call it."""
        return self.name or self.stage

    @property
    def kind(self) -> StageKind:
        """The stage's module, loaded now."""
        kind: StageKind = importlib.import_module(STAGES[self.stage]).STAGE
        return kind

    @property
    def named(self) -> Sequence[str]:
        """Stages and directories that its options read."""
        kind = self.kind
        return kind.named(kind.parse(self.options)) if kind.named else ()

    @property
    def writes(self) -> bool:
        """Whether the model that it makes writes; others rank."""
        kind = self.kind
        return kind.writes is not None and kind.writes(kind.parse(self.options))

    @property
    def conditions(self) -> list[Gate]:
        """Its gates, read."""
        return [Gate.parse(line) for line in self.gates]

    def _refuse_options(self) -> None:
        try:
            self.kind.parse(self.options)
        except RecipeError as error:
            raise of_stage(self.title, error) from error


@dataclass(frozen=True, slots=True)
class Recipe:
    """A recipe file; folders are relative to where the command runs.

    teacher: a stage that makes one, or the path of a directory that is one already. source: the
    model directory that the first stage starts from, where it does not make one itself. device:
    where training loops run, one of DEVICES; weights repeat bit for bit on one kind of device.
    """

    data: str
    seed: int
    threads: int
    stages: tuple[RecipeStage, ...]
    teacher: RecipeStage | str | None = None
    source: str | None = None
    device: str = CPU

    def __post_init__(self) -> None:
        if not self.stages:
            raise RecipeError("a recipe without stages makes nothing; name at least one")
        if self.device not in DEVICES:
            raise RecipeError(f"device is {self.device!r}; use one of {', '.join(DEVICES)}")
        if not self.stages[-1].kind.makes:
            raise RecipeError(
                f"{self.stages[-1].title}: the last stage makes no model that can be published; "
                "name it under teacher, and stages that learn from it"
            )
        known = set(self.given())
        before = SOURCE if self.source else None
        for title, entry in self.entries():
            if title in known:
                raise RecipeError(f"two stages are called {title!r}; give one another name")
            for gate in entry.conditions:
                _refuse_unknown(gate, title, before, known)
            known.add(title)
            before = title

    @classmethod
    def load(cls, path: Path) -> Recipe:
        """Raises RecipeError for what cannot be read or is not known."""
        try:
            raw = read_yaml(path)
            stages = tuple(parse_options(RecipeStage, entry) for entry in raw.pop("stages"))
            teacher = raw.pop("teacher", None)
            if isinstance(teacher, Mapping):
                teacher = parse_options(RecipeStage, teacher)
            return parse_options(cls, raw | {"stages": stages, "teacher": teacher})
        except UNREADABLE as error:
            raise RecipeError(f"{path}: not a recipe ({error}); see compress/recipes") from error

    def given(self) -> dict[str, Path]:
        """The directories that it starts from, under the names by which gates compare with them."""
        named = {TEACHER: self.teacher, SOURCE: self.source}
        return {name: Path(path) for name, path in named.items() if isinstance(path, str)}

    def refuse_missing(self) -> None:
        """Before anything is priced or started. Raises RecipeError for what is not there to read.

        A stage may name those before it, and directories.
        """
        for name, path in self.given().items():
            if not path.is_dir():
                raise RecipeError(f"{name} {str(path)!r} is no directory here; name one")
        known = set(self.given())
        for title, entry in self.entries():
            for name in entry.named:
                if name not in known and not Path(name).is_dir():
                    raise RecipeError(
                        f"{title}: {name!r} is no stage before it and no directory here; name one "
                        f"of {', '.join(sorted(known)) or 'no stage'}, or a directory; a kept "
                        "recipe's first lines say where to get it"
                    )
            known.add(title)

    def entries(self) -> Iterator[tuple[str, RecipeStage]]:
        """Every stage in the order in which they run, with its name."""
        if isinstance(self.teacher, RecipeStage):
            yield TEACHER, self.teacher
        for entry in self.stages:
            yield entry.title, entry


def _refuse_unknown(gate: Gate, title: str, before: str | None, known: set[str]) -> None:
    if not gate.change:
        return
    against = gate.against or before
    if against not in known:
        raise RecipeError(
            f"{title}: gate {gate.line!r} compares with {against or 'a stage before it'!r}, but "
            f"there is only {', '.join(sorted(known)) or 'none'} before it"
        )

"""What a distillation is told: its teachers, phases and data. Knows nothing of how it is done."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from compress.stages.loop import Schedule
from compress.stages.stage import RecipeError, parse_options
from compress.stages.storage import STORAGE
from kernels.losses.divergence_terms import resolve
from kernels.losses.ranking_terms import KINDS
from kernels.losses.sparse_rows import MAX_KEPT

PREFIX_SOURCES = ("data", "student", "teacher")
SCOPES = ("labels", "vocabulary")
TASKS = ("ranking", "text")
SLATES = ("generated", "requests")
RATIONALES = "rationales"
ABOVE_ZERO = ("steps", "new_tokens", "temperature", "ranking_temperature", "sampling_temperature")


@dataclass(frozen=True, slots=True)
class TeacherOptions:
    """One teacher: the name of an earlier stage of the recipe, or a directory.

    rare_share: candidates whose grade makes up less than this share of `train` are masked.
    cache: keeps its answers in the stage's work folder; for recorded requests and examples only.
    kept: outcomes a token that the cache keeps of a vocabulary, or all of a smaller one, beside the
    mass of the rest.
    """

    path: str = "teacher"
    weight: float = 1.0
    rare_share: float = 0.0
    cache: bool = False
    kept: int = 64

    def __post_init__(self) -> None:
        if not self.weight > 0 or not 0 <= self.rare_share < 1:
            raise RecipeError(
                f"teacher {self.path}: weight is {self.weight} and rare_share {self.rare_share}; "
                "use above 0, and 0 to below 1"
            )
        if self.kept > MAX_KEPT:
            raise RecipeError(
                f"teacher {self.path}: kept is {self.kept}; use 1 to {MAX_KEPT}, as many as the "
                "loss compares"
            )


@dataclass(frozen=True, slots=True)
class Phase:
    """Some steps with one loss.

        loss = (1 - soft_share) truth
             + soft_share (D(teacher, student) + ranking_weight R + hidden_weight H)

    soft_share 0 is supervised training. D is the `divergence` (`kernels.divergence`) at
    `temperature`, times its square, over the two labels or the whole vocabulary; R, slates only, a
    ranking loss (`kernels.ranking_loss`) on the teacher's log-odds; H, slates only, how far hidden
    states are from those of a teacher of the student's words and sizes
    (compress.distillation.hidden_states). The truth is always read on the data. D is read on the
    data's answers, or in a share `sampled_share` of the steps on what the student or teacher wrote
    at `sampling_temperature`, up to `new_tokens` of it.
    """

    steps: int
    soft_share: float = 0.9
    divergence: str = "forward_kl"
    mixture: float | None = None
    temperature: float = 1.0
    scope: str = "labels"
    ranking: str | None = None
    ranking_weight: float = 1.0
    ranking_temperature: float = 1.0
    hidden_weight: float = 0.0
    prefix_source: str = "data"
    sampled_share: float = 1.0
    new_tokens: int = 100
    sampling_temperature: float = 0.8

    def __post_init__(self) -> None:
        try:
            resolve(self.divergence, self.mixture)
        except ValueError as error:
            raise RecipeError(f"phase: {error}") from error
        for name, known in (
            ("prefix_source", PREFIX_SOURCES),
            ("scope", SCOPES),
            ("ranking", (None, *KINDS)),
        ):
            if getattr(self, name) not in known:
                raise RecipeError(f"phase: {name} is {getattr(self, name)!r}; use one of {known}")
        for name in ("soft_share", "sampled_share"):
            if not 0 <= getattr(self, name) <= 1:
                raise RecipeError(f"phase: {name} is {getattr(self, name)}; use 0 to 1")
        if not self.hidden_weight >= 0:
            raise RecipeError(f"phase: hidden_weight is {self.hidden_weight}; use 0 or more")
        for name in ABOVE_ZERO:
            if not getattr(self, name) > 0:
                raise RecipeError(f"phase: {name} is {getattr(self, name)}; use more than 0")


@dataclass(frozen=True, slots=True)
class DistillOptions:
    """Recipe options of the stage; counts are in steps, slates, candidates and examples.

    `trained_share` blends as in train. Rates have one warm-up and one decay over all phases, of
    which other trainings may have `steps_before` and `steps_after` (`compress.pruning.gradual`).
    Ranking reads `slates_of` generated ones or the requests of `train`, of a share `labelled_share`
    of its groups; text reads `examples`: rationales made from the tables, or a file of the data
    folder; `end` ends an answer, and `choice_weight` adds the loss of what the grammar of reasons
    leaves open (compress.reasons.choices). `wired_rate`, else `rate`, is that of all attention and
    of every MLP but the last, where a wired circuit is. `storage` is the weights' dtype on disk.
    """

    phases: Sequence[Phase]
    teachers: Sequence[TeacherOptions] = (TeacherOptions(),)
    task: str = "ranking"
    slates_of: str = "generated"
    labelled_share: float = 1.0
    batch: int = 8
    candidates: int = 12
    steps_per_world: int = 80
    inverted_share: float = 0.25
    token_dropout: float = 0.1
    rate: float = 2e-4
    wired_rate: float | None = None
    embedding_rate: float = 1e-4
    weight_decay: float = 0.01
    warmup: int = 30
    steps_before: int = 0
    steps_after: int = 0
    trained_share: float = 1.0
    examples: str = RATIONALES
    end: str = "<end>"
    choice_weight: float = 0.0
    storage: str = "float32"
    checkpoint_every: int = 25

    @classmethod
    def parse(cls, raw: Mapping[str, Any]) -> DistillOptions:
        """Raises RecipeError for unknown names and for what cannot be done together."""
        if not isinstance(raw, Mapping):
            raise RecipeError(f"distill: options are {raw!r}; write them as name: value")
        parts = dict(raw)
        for name, kind in (("phases", Phase), ("teachers", TeacherOptions)):
            if name in parts:
                if not isinstance(parts[name], list | tuple):
                    raise RecipeError(f"distill: {name} is {parts[name]!r}; write a list of them")
                parts[name] = tuple(parse_options(kind, entry) for entry in parts[name])
        return parse_options(cls, parts)

    @property
    def taught(self) -> bool:
        """Whether any phase asks a teacher."""
        return any(phase.soft_share for phase in self.phases)

    @property
    def reads_decoders(self) -> bool:
        """Whether any phase needs what a teacher computes before its labels' probabilities."""
        taught = [phase for phase in self.phases if phase.soft_share]
        if self.task == "text":
            return bool(taught)
        return self.reads_hidden or any(phase.scope == "vocabulary" for phase in taught)

    @property
    def reads_hidden(self) -> bool:
        """Whether any phase compares hidden states."""
        return any(phase.soft_share and phase.hidden_weight for phase in self.phases)

    @property
    def steps(self) -> int:
        """Of all phases."""
        return sum(phase.steps for phase in self.phases)

    @property
    def schedule(self) -> Schedule:
        """Of the rates, over all phases."""
        return Schedule(self.steps, self.warmup, before=self.steps_before, after=self.steps_after)

    def phase_of(self, step: int) -> Phase:
        """The phase that `step`, counted from 0, belongs to."""
        for phase in self.phases:
            if step < phase.steps:
                return phase
            step -= phase.steps
        raise IndexError(step)

    def __post_init__(self) -> None:
        if self.task not in TASKS or self.slates_of not in SLATES:
            raise RecipeError(
                f"distill: task is one of {TASKS} and slates_of one of {SLATES}, not "
                f"{self.task!r} and {self.slates_of!r}"
            )
        if self.storage not in STORAGE:
            raise RecipeError(
                f"distill: storage is {self.storage!r}; use one of {', '.join(STORAGE)}"
            )
        if not 0 < self.labelled_share <= 1:
            raise RecipeError(f"distill: labelled_share is {self.labelled_share}; use above 0 to 1")
        if self.labelled_share < 1 and self.slates_of != "requests":
            raise RecipeError("distill: labelled_share is of requests; set slates_of: requests")
        if self.choice_weight and (self.task != "text" or self.examples != RATIONALES):
            raise RecipeError("distill: choice_weight is of rationales; set task: text")
        if not self.phases:
            raise RecipeError("distill: phases is empty; name at least one with its steps")
        for phase in self.phases:
            self._refuse(phase)
        for teacher in self.teachers:
            if teacher.cache and self.taught:
                self._refuse_cache(teacher)

    def _refuse_cache(self, teacher: TeacherOptions) -> None:
        """Of what is made anew at every step nothing can be kept."""
        if self.task == "text" and self.examples == RATIONALES:
            raise RecipeError(
                f"teacher {teacher.path}: a cache holds answers on a file of examples; name one in "
                "`examples`, or use cache: false"
            )
        if self.task == "ranking" and self.slates_of != "requests":
            raise RecipeError(
                f"teacher {teacher.path}: a cache holds answers on recorded requests; use "
                "slates_of: requests, or cache: false"
            )

    def _refuse(self, phase: Phase) -> None:
        if phase.soft_share and not self.teachers:
            raise RecipeError(
                "distill: a phase has a soft_share but no teacher; name one, or set it to 0"
            )
        if self.task == "ranking" and phase.prefix_source != "data":
            raise RecipeError("distill: a ranker writes nothing; its prefix_source must be data")
        if self.task == "text" and phase.ranking:
            raise RecipeError(f"distill: text has no slates for {phase.ranking}; leave ranking out")
        if self.task == "text" and phase.hidden_weight:
            raise RecipeError("distill: hidden states are compared on slates; set hidden_weight: 0")

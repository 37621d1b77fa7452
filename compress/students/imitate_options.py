"""What an imitating student's stage may be told, and what that costs. Knows no step of it."""

from __future__ import annotations

from dataclasses import dataclass, replace

from compress.data.worlds import Kind
from compress.stages.costs import (
    CANDIDATE_TOKENS,
    CONTEXT_TOKENS,
    OCCUPATIONS,
    PAIR_TOKENS,
    TEXT_TOKENS,
    in_passes,
    pass_cost,
    shape_of,
    together,
    training_cost,
)
from compress.stages.passes import WIDE, refuse_other_passes
from compress.stages.stage import Cost, Incoming, RecipeError, Shape
from compress.students import lexicon
from compress.students.student import StudentShape
from compress.students.student_steps import StudentRates

LEAST_LAYERS = 2
OWN_WORDS = 6300  # words of the trade and pieces that the demo's vocabulary has beside common ones


@dataclass(frozen=True, slots=True)
class ImitateOptions:
    """Recipe options; counts are in steps, slates, words and texts. Rates are peaks.

    teacher: directory of an encoder teacher with towers; empty takes the recipe's own. labelled:
    steps whose slates the teacher answers; the student goes over them again and again, each time
    with other words left out. trained_share: as in train, of the whole decoder's steps. average:
    decay of the averaged weights that either training ends with; 0 takes those of the last step.
    chunk: pairs that the teacher reads at once. pooled_weight, token_weight: of what the whole
    decoder misses of the states of the teacher's towers, see token_states; 0 for both asks none.
    substituted_worlds: of texts with other words, see compress.data.substitution; half of all steps
    are theirs where there are any. cpu_passes: what the teacher's passes run in on a CPU, see
    compress.stages.passes.
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
    substituted_worlds: int = 0
    inverted_share: float = 0.25
    bag_embedding_rate: float = 1e-3
    bag_rate: float = 2e-3
    embedding_rate: float = 2e-4
    rate: float = 7e-4
    temperature: float = 2.0
    truth_share: float = 0.3
    token_dropout: float = 0.15
    pooled_weight: float = 0.0
    token_weight: float = 0.0
    trained_share: float = 1.0
    average: float = 0.0
    chunk: int = 512
    cpu_passes: str = WIDE
    warmup: int = 30
    checkpoint_every: int = 100

    def __post_init__(self) -> None:
        refuse_other_passes("imitate", self.cpu_passes)
        for name in ("labelled", "bag_steps", "parts", "plain_worlds", "mixed_worlds"):
            if getattr(self, name) < 1:
                raise RecipeError(f"imitate: {name} is {getattr(self, name)}; use 1 or more")
        for name in ("pooled_weight", "token_weight"):
            if getattr(self, name) < 0:
                raise RecipeError(f"imitate: {name} is {getattr(self, name)}; use 0 or more")
        if self.layers < LEAST_LAYERS:
            raise RecipeError(
                f"imitate: layers is {self.layers}; use {LEAST_LAYERS} or more, for the first and "
                "the last are wired"
            )
        if not 0 <= self.average < 1:
            raise RecipeError(f"imitate: average is {self.average}; use 0 to below 1")
        if self.slates % self.parts:
            raise RecipeError(
                f"imitate: {self.slates} slates do not divide into {self.parts} parts"
            )

    @property
    def bag_rates(self) -> StudentRates:
        """Of the words' training."""
        return self._rates(self.bag_embedding_rate, self.bag_rate)

    @property
    def whole_rates(self) -> StudentRates:
        """Of the whole decoder's."""
        rates = self._rates(self.embedding_rate, self.rate)
        return replace(rates, pooled=self.pooled_weight, token=self.token_weight)

    def _rates(self, embedding: float, rest: float) -> StudentRates:
        return StudentRates(embedding, rest, self.temperature, self.truth_share, self.token_dropout)

    @property
    def worlds(self) -> dict[Kind, int]:
        """How many of each kind."""
        counts = self.plain_worlds, self.mixed_worlds, self.substituted_worlds
        return dict(zip(Kind, counts, strict=True))

    @property
    def turn(self) -> tuple[Kind, ...]:
        """The kinds of consecutive steps."""
        plain, mixed, substituted = Kind
        if not self.substituted_worlds:
            return plain, mixed, plain, mixed, plain
        return plain, substituted, mixed, substituted, plain, substituted


def named(options: ImitateOptions) -> list[str]:
    """Its own teacher."""
    return [options.teacher] if options.teacher else []


def check(options: ImitateOptions, incoming: Incoming) -> None:
    """Raises RecipeError without an encoder to learn from."""
    if options.teacher or (incoming.taught and not incoming.by_model):
        return
    raise RecipeError(
        "imitate learns from an encoder teacher; make the recipe's teacher an encoder_teacher "
        "stage, or name a directory that one wrote"
    )


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
    return together(student, *_asked(options, shape), *parts)


def _asked(options: ImitateOptions, teacher: Shape | None) -> list[Cost]:
    """Of a teacher whose shape is known: labels, and states where they are read."""
    if teacher is None:
        return []
    states = [_states_cost(options, teacher)] if options.whole_rates.asks_states else []
    asked = [_labels_cost(options, teacher), *states]
    return [in_passes(cost, options.cpu_passes) for cost in asked]


def _states_cost(options: ImitateOptions, teacher: Shape) -> Cost:
    """A tower reads every text of a whole decoder's step once; most postings are in some slate."""
    texts = options.slates // options.parts + OCCUPATIONS
    return pass_cost(options.steps * texts * TEXT_TOKENS // 2, teacher)


def _labels_cost(options: ImitateOptions, teacher: Shape) -> Cost:
    """Each of a teacher's two parts has half its body: one reads pairs, one a world's texts."""
    pairs = options.slates * options.candidates * PAIR_TOKENS
    tokens = (pairs + 2 * OCCUPATIONS * TEXT_TOKENS) // 2
    return pass_cost(options.labelled * tokens, teacher)

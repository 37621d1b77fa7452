"""Stage: makes a ranking teacher of a pre-trained encoder. Knows nothing of students.

Run alone: python -m compress.encoders.encoder_teacher --data DIR --out DIR
    --options '{"encoder": "DIR"}'
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from compress.data.requests import TABLES
from compress.data.worlds import Kind, Worlds, WorldSource
from compress.encoders.encoder import WEIGHTS_NAME, EncoderConfig, load_encoder
from compress.encoders.pair_encoder import PairEncoder
from compress.encoders.pair_slates import SpecialTokens
from compress.encoders.pair_teacher import (
    EncoderTeacher,
    encoder_tokenizer,
    save_teacher,
)
from compress.encoders.teacher_steps import JOINT, PARTS, TOWERS, TeacherRates, TeacherSteps
from compress.stages.ahead import Ahead
from compress.stages.alone import run_alone
from compress.stages.costs import (
    OCCUPATIONS,
    PAIR_TOKENS,
    TEXT_TOKENS,
    in_passes,
    together,
    training_cost,
)
from compress.stages.loop import Checkpoints, Schedule, run_steps
from compress.stages.passes import WIDE, refuse_other_passes
from compress.stages.stage import (
    Cost,
    RecipeError,
    Shape,
    StageInput,
    StageKind,
    lineage_entry,
    parse_options,
    prepare_process,
)
from models.card import file_digest

DROPOUT_STEPS = 1_000_000  # steps a seed has to itself

__all__ = ["EncoderTeacher", "EncoderTeacherOptions", "run"]


@dataclass(frozen=True, slots=True)
class EncoderTeacherOptions:
    """Recipe options; counts are in steps, slates and texts. A part without steps is left out.

    encoder: a Hugging Face directory of a BERT encoder. joint_weight: share of the joint part's
    log-odds where both parts are trained. Rates are peaks. chunk: texts or pairs read at once.
    average: decay of the averaged weights that are written; 0 writes those of the last step.
    cpu_passes: what a CPU's passes run in, see compress.stages.passes.
    """

    encoder: str
    tower_steps: int = 1000
    joint_steps: int = 1000
    joint_weight: float = 0.5
    slates: int = 64
    candidates: int = 24
    worlds: int = 240
    inverted_share: float = 0.25
    token_dropout: float = 0.1
    dropout: float = 0.1
    rate: float = 1e-4
    head_rate: float = 1e-3
    warmup: int = 50
    chunk: int = 512
    average: float = 0.0
    cpu_passes: str = WIDE
    checkpoint_every: int = 100

    def __post_init__(self) -> None:
        refuse_other_passes("encoder_teacher", self.cpu_passes)
        if not 0 <= self.average < 1:
            raise RecipeError(f"encoder_teacher: average is {self.average}; use 0 to below 1")
        if not any(self.steps.values()) or not 0 < self.joint_weight < 1:
            raise RecipeError(
                "encoder_teacher: give tower_steps, joint_steps or both, and a joint_weight "
                "between 0 and 1"
            )

    @property
    def steps(self) -> dict[str, int]:
        """By part."""
        return {TOWERS: self.tower_steps, JOINT: self.joint_steps}

    @property
    def weights(self) -> dict[str, float]:
        """By part that is trained, of its log-odds; they sum to 1."""
        both = {TOWERS: 1 - self.joint_weight, JOINT: self.joint_weight}
        trained = {part: both[part] for part in PARTS if self.steps[part]}
        return trained if len(trained) > 1 else dict.fromkeys(trained, 1.0)


def run(stage: StageInput, raw_options: Mapping[str, Any]) -> None:
    """Writes a teacher directory, which `EncoderTeacher.load` opens."""
    options = parse_options(EncoderTeacherOptions, raw_options)
    prepare_process(stage)
    encoder = Path(options.encoder)
    steps = _steps(stage, options, encoder)
    parts = {part: _train(stage, options, steps, part, encoder) for part in options.weights}
    entry = lineage_entry("encoder_teacher", stage, options)
    # A path means nothing elsewhere; what lay there does.
    entry["options"] |= {"encoder": file_digest(encoder / WEIGHTS_NAME)}
    save_teacher(stage.out, encoder, parts, options.weights, {"lineage": {"stages": [entry]}})


def _train(
    stage: StageInput,
    options: EncoderTeacherOptions,
    steps: TeacherSteps,
    part: str,
    encoder: Path,
) -> PairEncoder:
    torch.manual_seed(stage.seed)  # of the head, whatever was trained before
    model = PairEncoder(load_encoder(encoder), joint=part == JOINT).to(steps.device)
    batches = Ahead(partial(steps.batch, part), stage.workers)

    def loss_of_step(step: int) -> Tensor:
        torch.manual_seed(DROPOUT_STEPS * stage.seed + step)  # dropout too must resume bit for bit
        return steps.loss(model, batches(step))

    run_steps(
        model,
        steps.optimizer(model),
        loss_of_step,
        Schedule(options.steps[part], options.warmup),
        Checkpoints(stage.work / f"{part}.pt", options.checkpoint_every),
        part,
        sharded=False,
        average=options.average,
    )
    return model


def _steps(stage: StageInput, options: EncoderTeacherOptions, encoder: Path) -> TeacherSteps:
    reader = encoder_tokenizer(encoder)
    source = WorldSource.load(stage.data, reader, reader, stage.seed)
    worlds = Worlds(source, {Kind.PLAIN: options.worlds}, (Kind.PLAIN,))
    worlds.build(stage.workers)
    rates = TeacherRates(
        options.rate,
        options.head_rate,
        token_dropout=options.token_dropout,
        dropout=options.dropout,
    )
    return TeacherSteps(
        worlds.source,
        worlds.of,
        SpecialTokens.of(reader),
        stage.device,
        options.slates,
        options.candidates,
        options.inverted_share,
        rates,
        options.chunk,
        options.cpu_passes,
    )


def cost(options: EncoderTeacherOptions, shape: Shape | None) -> Cost:
    """Of both parts on a CPU, with texts of the usual length; what is written shares its words."""
    config = EncoderConfig.load(Path(options.encoder) / "config.json")
    hidden, inner = config.hidden_size, config.intermediate_size
    words = config.vocab_size * hidden
    body = config.num_hidden_layers * (4 * hidden * hidden + 2 * hidden * inner)
    encoder = Shape(words + body, words, hidden, config.num_hidden_layers)
    pairs, texts = options.slates * options.candidates, 2 * OCCUPATIONS
    written = replace(
        encoder, parameters=words + len(options.weights) * body, bytes_per_parameter=2
    )
    return together(
        written,
        _part_cost(options, options.joint_steps, pairs, PAIR_TOKENS, encoder),
        _part_cost(options, options.tower_steps, texts, TEXT_TOKENS, encoder),
    )


def _part_cost(
    options: EncoderTeacherOptions, steps: int, rows: int, tokens: int, encoder: Shape
) -> Cost:
    """One chunk's activations are held at a time; each pass is done again for its gradient."""
    whole = in_passes(training_cost(steps, rows * tokens, encoder, again=True), options.cpu_passes)
    return replace(
        whole, memory=training_cost(1, min(rows, options.chunk) * tokens, encoder).memory
    )


STAGE = StageKind(
    run,
    EncoderTeacherOptions,
    cost,
    named=lambda options: [options.encoder],
    reads=lambda options: TABLES,
    starts=False,
    makes=False,
)

if __name__ == "__main__":
    run_alone("encoders.encoder_teacher", STAGE)

"""Stage: prunes MLP neurons, KV groups and whole layers of a model. Knows nothing of training.

Run alone: python -m compress.pruning.prune --source MODEL --data DIR --out DIR --options JSON
Halves of layers are pruned in the order in which they run, so each is fitted to the inputs that the
pruned halves before it give, against the outputs of the dense model: the one that came in, or the
teacher that it was pruned and recovered from.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from tqdm import tqdm

from compress.decoders.slates import SlateBatch
from compress.distillation.hidden_states import refuse_other_states
from compress.distillation.teachers import VocabularyTeacher, refuse_unteachable
from compress.layers.calibration_slates import calibration_slates
from compress.layers.streaming import ATTENTION, MLP, Half, Streams
from compress.pruning.allocation import Slates, budgets_of, scores_of
from compress.pruning.budgets import (
    Budget,
    least_share,
    refuse_large_step,
    uniform_budget,
)
from compress.pruning.osscar import prune, refit
from compress.pruning.prune_options import PruneOptions
from compress.pruning.sensitivity import (
    least_needed_layers,
    problem_of,
    put_solution,
    without_layers,
)
from compress.pruning.slicing import LayerCut, sliced, sliced_config
from compress.stages.alone import run_alone
from compress.stages.lineage import card_after
from compress.stages.required import required_shape, required_source
from compress.stages.stage import (
    TEACHER,
    Cost,
    Incoming,
    RecipeError,
    Shape,
    StageInput,
    StageKind,
    lineage_entry,
    parse_options,
    prepare_process,
)
from models.checkpoint import load_decoder, load_model_directory, save_model_directory
from models.config import DecoderConfig
from models.decoder import Decoder
from models.directory import TOKENIZER_NAME, ModelDirectory

NO_TEACHER = "prune: fit_to is teacher and there is no model directory that is one; name it"


def run(stage: StageInput, raw_options: Mapping[str, Any]) -> None:
    """Writes the pruned model; the card says what every layer kept and its relative error."""
    options = parse_options(PruneOptions, raw_options)
    source = required_source(stage, "prune")
    prepare_process(stage)
    directory = load_model_directory(source)
    decoder = load_decoder(directory)
    refuse_sizes(decoder.config, options)
    aim = _aim(stage, directory, options)

    def slates() -> Iterator[SlateBatch]:
        return calibration_slates(directory, stage.data, options.calibration, stage.seed)

    decoder, dropped = _without_least_needed(decoder, directory, slates, options)
    budgets = budgets_of(decoder, directory, slates, stage, options)
    dense = aim.decoder if aim else copy.deepcopy(decoder)
    with Streams(slates(), stage.work, decoder, dense) as streams:
        cuts, errors = prune_decoder(decoder, dense, streams, budgets, options.ridge, options.swap)
    report = {
        "dropped_layers": dropped,
        "kept": [{"neurons": one.neurons, "kv_groups": one.kv_groups} for one in budgets],
        "errors": errors,
    }
    entry = lineage_entry("prune", stage, options)
    if aim:
        entry["teachers"] = [aim.directory.digest]
    card = card_after(directory.card, directory.digest, entry, prune=report)
    save_model_directory(stage.out, sliced(decoder, cuts), source / TOKENIZER_NAME, card)


def prune_decoder(
    decoder: Decoder,
    dense: Decoder,
    streams: Streams,
    budgets: Sequence[Budget],
    ridge: float,
    swap: int,
) -> tuple[list[LayerCut], dict[str, float]]:
    """Masks and refits `decoder` in place; returns what stays, and each half's relative error.

    streams: of `decoder` and `dense`. The error is what pruning adds to the layer's objective,
    over what the whole layer gains.
    """
    cuts, errors = [], {}
    for layer, budget in enumerate(tqdm(budgets, "prune", mininterval=5)):
        kept = {}
        for part, keep in ((ATTENTION, budget.kv_groups), (MLP, budget.neurons)):
            half = Half(layer, part)
            kept[part], error = _prune_half(decoder, dense, streams, half, keep, ridge, swap)
            errors[f"layers.{layer}.{part}"] = error
            streams.advance(half)
        cuts.append(LayerCut(layer, kept[MLP], kept[ATTENTION]))
    return cuts, errors


def _prune_half(
    decoder: Decoder,
    dense: Decoder,
    streams: Streams,
    half: Half,
    keep: int,
    ridge: float,
    swap: int,
) -> tuple[tuple[int, ...], float]:
    whole = LayerCut.whole(decoder.config, half.layer)
    everything = whole.kv_groups if half.part == ATTENTION else whole.neurons
    if keep == len(everything):
        return everything, 0.0
    name = "o_proj" if half.part == ATTENTION else "down_proj"
    moments = streams.inputs(half, [name])[name].moments
    problem = problem_of(decoder, half, moments, ridge, dense)
    found = prune(problem, keep, min(swap, keep))
    put_solution(decoder, half, problem.rows(found.kept), found.weights)
    best = refit(problem, everything).objective
    return found.kept, (found.objective - best) / max(-best, 1e-300)


def refuse_sizes(whole: DecoderConfig, options: PruneOptions) -> None:
    """Before anything is measured. Raises RecipeError or BudgetError for what cannot go."""
    if options.kv_share and whole.model_type == "qwen2":
        raise RecipeError(
            "prune: vLLM takes the size of a Qwen2's heads from their number, so all must stay; "
            "set kv_share to 0"
        )
    budget = uniform_budget(whole, options.mlp_share, options.kv_share, options.multiple)
    refuse_large_step(whole, budget, options.most, options.force)
    refuse_nothing_taken(whole, options)
    layers = whole.num_hidden_layers
    if options.drop_layers >= layers:
        raise RecipeError(
            f"prune: {options.drop_layers} of {layers} layers cannot go, because one must stay; "
            "drop fewer"
        )
    if options.drop_layers > layers * options.most and not options.force:
        raise RecipeError(
            f"prune: {options.drop_layers} of {layers} layers cannot go at once; drop fewer, or "
            "raise most"
        )


def refuse_nothing_taken(whole: DecoderConfig, options: PruneOptions) -> None:
    """Raises RecipeError for a share that rounds to nothing, with the least that does not."""
    budget = uniform_budget(whole, options.mlp_share, options.kv_share, options.multiple)
    neurons, groups = whole.intermediate_size, whole.num_key_value_heads
    if options.mlp_share and budget.neurons == neurons:
        raise RecipeError(
            f"prune: mlp_share {options.mlp_share} takes none of {neurons} neurons in multiples of "
            f"{options.multiple}; {_instead(neurons, options.multiple)}, or lower multiple"
        )
    if options.kv_share and budget.kv_groups == groups:
        raise RecipeError(
            f"prune: kv_share {options.kv_share} takes none of {groups} KV groups; "
            f"{_instead(groups, 1)}"
        )


def _instead(count: int, multiple: int) -> str:
    least = least_share(count, multiple)
    return "set it to 0" if least is None else f"set it to {least} or more, or to 0"


def _aim(
    stage: StageInput, directory: ModelDirectory, options: PruneOptions
) -> VocabularyTeacher | None:
    """The teacher where it is aimed at. Raises TeacherError where it has other words or layers."""
    if options.fit_to == "source":
        return None
    if stage.teacher is None:
        raise RecipeError(NO_TEACHER)
    teacher = VocabularyTeacher.load(stage.teacher, directory)
    refuse_other_states(teacher.directory, directory)
    return teacher


def _without_least_needed(
    decoder: Decoder,
    directory: ModelDirectory,
    slates: Slates,
    options: PruneOptions,
) -> tuple[Decoder, list[int]]:
    if not options.drop_layers:
        return decoder, []
    scores = scores_of(decoder, directory, slates())
    gone = least_needed_layers(decoder, scores, options.drop_layers)
    layers = range(decoder.config.num_hidden_layers)
    return without_layers(decoder, [layer for layer in layers if layer not in gone]), gone


def cost(options: PruneOptions, shape: Shape | None) -> Cost:
    """Of the calibration in the model and its unchanged copy."""
    shape = required_shape(shape, "prune")
    return replace(options.calibration.cost(shape, decoders=2), shape=left_of(shape, options))


def left_of(shape: Shape, options: PruneOptions) -> Shape:
    """About what is stored, and computed in training: shares are taken of all layers alike and not
    in whole multiples; otherwise some layer may stay whole, and all are as wide as that.
    """
    layers = shape.layers - options.drop_layers
    part, alike = layers / shape.layers, options.allocation == "uniform"
    mlp = int(shape.mlp * part * (1 - options.mlp_share * alike))
    attention = int(shape.attention * part * (1 - options.kv_share * alike))
    gone = shape.mlp + shape.attention - mlp - attention
    return replace(
        shape,
        parameters=shape.parameters - gone,
        layers=layers,
        attention=attention,
        mlp=mlp,
        config=_config_left(shape.config, options) if alike else None,
    )


def _config_left(whole: DecoderConfig | None, options: PruneOptions) -> DecoderConfig | None:
    """What all layers alike leave; None where it is not known, or where nothing would be left."""
    if whole is None or options.drop_layers >= whole.num_hidden_layers:
        return None
    budget = uniform_budget(whole, options.mlp_share, options.kv_share, options.multiple)
    kept = tuple(range(budget.neurons)), tuple(range(budget.kv_groups))
    layers = range(whole.num_hidden_layers - options.drop_layers)
    return sliced_config(whole, [LayerCut(layer, *kept) for layer in layers])


def check(options: PruneOptions, incoming: Incoming) -> None:
    """Raises a FairslateError for sizes, slates or a teacher with which nothing can be pruned."""
    if options.fit_to == "teacher" and not incoming.by_model:
        raise RecipeError(NO_TEACHER)
    if options.fit_to == "teacher":
        refuse_unteachable(TEACHER, incoming)
    config = incoming.shape.config if incoming.shape else None
    if config:
        refuse_sizes(config, options)
    options.calibration.refuse(incoming.data, _read_at_answers(config, options))


def _read_at_answers(config: DecoderConfig | None, options: PruneOptions) -> dict[str, int]:
    """Inputs of what is fitted."""
    if config is None:
        return {}
    heads = config.num_attention_heads * config.head_dim
    fitted = {"o_proj": (options.kv_share, heads)}
    fitted["down_proj"] = options.mlp_share, config.intermediate_size
    return {name: width for name, (share, width) in fitted.items() if share}


STAGE = StageKind(
    run, PruneOptions, cost, reads=lambda options: options.calibration.reads, check=check
)

if __name__ == "__main__":
    run_alone("pruning.prune", STAGE)

"""What every layer keeps: alike, or where scores lose least for the time or the weights it takes.

Measures losses and times on calibration slates; knows nothing of how a half is
pruned to its width.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import islice

from compress.decoders.slates import SlateBatch
from compress.layers.streaming import ATTENTION, MLP
from compress.pruning.budgets import (
    Budget,
    Choice,
    Prices,
    allocate,
    uniform_budget,
    weights_of,
)
from compress.pruning.latency import LatencyTable, measure_latency
from compress.pruning.prune_options import PruneOptions
from compress.pruning.sensitivity import Scores, width_losses
from compress.stages.stage import StageInput
from models.decoder import Decoder
from models.directory import ModelDirectory

SCORED_BATCHES = 8  # of calibration slates
Slates = Callable[[], Iterator[SlateBatch]]


def budgets_of(
    decoder: Decoder,
    directory: ModelDirectory,
    slates: Slates,
    stage: StageInput,
    options: PruneOptions,
) -> list[Budget]:
    """Of every layer, as `options` ask. slates: gives the calibration slates, anew each time.

    Raises BudgetError where no choice of widths is small enough.
    """
    config = decoder.config
    alike = uniform_budget(config, options.mlp_share, options.kv_share, options.multiple)
    if options.allocation == "uniform":
        return [alike] * config.num_hidden_layers
    sizes = _sizes(decoder, options)
    prices = _prices(decoder, slates, stage, sizes, options)
    scores = scores_of(decoder, directory, slates())
    losses = width_losses(decoder, slates(), scores, sizes, stage.work, options.ridge)
    choices = [
        [
            Choice(size, (prices.mlp if half.part == MLP else prices.attention)[size], loss)
            for size, loss in by_size.items()
        ]
        for half, by_size in losses.items()
    ]
    layer = prices.mlp[alike.neurons] + prices.attention[alike.kv_groups]
    found = allocate(choices, layer * config.num_hidden_layers)
    pairs = zip(found[::2], found[1::2], strict=True)
    return [Budget(mlp.size, attention.size) for attention, mlp in pairs]


def _prices(
    decoder: Decoder,
    slates: Slates,
    stage: StageInput,
    sizes: Mapping[str, Sequence[int]],
    options: PruneOptions,
) -> Prices:
    if options.allocation == "weights":
        return weights_of(decoder.config, sizes[MLP], sizes[ATTENTION])
    return _latency(decoder, next(slates()), stage, sizes)


def _sizes(decoder: Decoder, options: PruneOptions) -> dict[str, list[int]]:
    """What each half may keep: multiples of neurons and counts of groups, as one step may leave."""
    config, least = decoder.config, 0.0 if options.force else 1 - options.most
    narrower = range(options.multiple, config.intermediate_size, options.multiple)
    neurons = {*narrower} if options.mlp_share else set()
    groups = range(1, config.num_key_value_heads + 1)
    fewest = 1 if options.kv_share else config.num_key_value_heads
    return {
        MLP: sorted(
            size
            for size in {*neurons, config.intermediate_size}
            if size >= config.intermediate_size * least
        ),
        ATTENTION: [
            size for size in groups if size >= max(fewest, config.num_key_value_heads * least)
        ],
    }


def _latency(
    decoder: Decoder, batch: SlateBatch, stage: StageInput, sizes: Mapping[str, Sequence[int]]
) -> LatencyTable:
    """Measured once a run: a run that goes on after a kill must choose the same widths."""
    path = stage.work / "latency.json"
    if not path.exists():
        table = measure_latency(decoder.config, batch, sizes[MLP], sizes[ATTENTION])
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(table.to_json()), encoding="utf-8")
    return LatencyTable.from_json(json.loads(path.read_text(encoding="utf-8")))


def scores_of(decoder: Decoder, directory: ModelDirectory, slates: Iterable[SlateBatch]) -> Scores:
    """By which layers and widths are compared."""
    return Scores.of(decoder, list(islice(slates, SCORED_BATCHES)), directory.prompt.heads)

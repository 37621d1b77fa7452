"""Stage: stores the weights as shipped, fits Platt scaling, measures once. Knows no training.

Run alone: python -m compress.calibrate --source MODEL --data DIR --out DIR
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import chain
from typing import Any

import torch

from compress.data import halves, load_requests
from compress.evaluate import evaluate, raw_logits
from compress.stage import (
    RecipeError,
    StageInput,
    lineage_entry,
    parse_options,
    prepare_process,
    run_alone,
)
from models.calibration import fit_platt
from models.card import write_card
from models.checkpoint import (
    load_decoder,
    load_model_directory,
    save_model_directory,
)
from models.directory import TOKENIZER_NAME

STORAGE = {"float16": torch.float16, "bfloat16": torch.bfloat16, "float32": torch.float32}


@dataclass(frozen=True, slots=True)
class CalibrateOptions:
    """`storage` is the dtype on disk; the model is served in float32 whatever it is."""

    storage: str = "float16"


def run(stage: StageInput, raw_options: Mapping[str, Any]) -> None:
    """Calibrates on the second half of `valid`; the card gains the metrics of `test`."""
    options = parse_options(CalibrateOptions, raw_options)
    if stage.source is None or options.storage not in STORAGE:
        raise RecipeError(f"calibrate needs a model directory and a storage of {list(STORAGE)}")
    prepare_process(stage)
    parent = load_model_directory(stage.source)
    stages = [*parent.card.lineage["stages"], lineage_entry("calibrate", stage, options)]
    card = replace(parent.card, lineage={"stages": stages, "parent": parent.digest})
    tokenizer = stage.source / TOKENIZER_NAME
    card = save_model_directory(
        stage.out, load_decoder(parent), tokenizer, card, STORAGE[options.storage]
    )
    _, held_out = halves(load_requests(stage.data, "valid"))
    logits = list(chain.from_iterable(raw_logits(load_model_directory(stage.out), held_out)))
    labels = [int(label) for request in held_out for label in request.relevant]
    card = write_card(stage.out, replace(card, calibration=fit_platt(logits, labels)))
    report = evaluate(load_model_directory(stage.out), load_requests(stage.data, "test"))
    report.pop("model")
    write_card(stage.out, replace(card, metrics={**card.metrics, "test": report}))


if __name__ == "__main__":
    run_alone("calibrate", run)

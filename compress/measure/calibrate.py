"""Stage: stores the weights as shipped, fits calibrations, measures once. Knows no training.

Run alone: python -m compress.measure.calibrate --source MODEL --data DIR --out DIR --options JSON
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from compress.data.requests import Request, halves, load_requests, request_files
from compress.measure.evaluation import evaluate
from compress.measure.scorers import CACHE_BYTES, JOBS_PER_BATCH, DirectoryScorer, served_dtype
from compress.measure.slices import slice_names
from compress.stages.alone import run_alone
from compress.stages.lineage import lineage_after
from compress.stages.required import required_source
from compress.stages.stage import (
    Incoming,
    RecipeError,
    StageInput,
    StageKind,
    directory_digest,
    file_digests,
    lineage_entry,
    parse_options,
    prepare_process,
    refuse_changed,
)
from compress.stages.storage import STORAGE
from models.calibration import KINDS, AnyCalibration, fit_calibration, refuse_few_labels
from models.card import ModelCard, with_files, write_card
from models.checkpoint import (
    ModelDirectory,
    load_decoder,
    load_model_directory,
    save_model_files,
)
from models.directory import TOKENIZER_NAME, directory_of
from models.engines.base import ScoreJob
from models.engines.fairslate import FairslateEngine
from models.errors import CalibrationError
from models.item_encoder import ENCODER_PATH, carry_item_encoder


@dataclass(frozen=True, slots=True)
class CalibrateOptions:
    """`storage` is the dtype on disk; quantized weights stay as they are stored, and so do those
    for which an item encoder was trained, which goes along.

    kind: one of `models.calibration.KINDS`. heads: by name of a head, the data directory of its own
    labels; the others learn from the stage's data. tenants: by tenant, then by head, the data
    directory of what that tenant's own members chose. name, version: of the model from here on;
    empty leaves those of the source.
    """

    storage: str = "float16"
    kind: str = "platt"
    heads: Mapping[str, str] = field(default_factory=dict)
    tenants: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    name: str = ""
    version: str = ""

    def __post_init__(self) -> None:
        if self.storage not in STORAGE or self.kind not in KINDS:
            raise RecipeError(
                f"calibrate takes a storage of {', '.join(STORAGE)}, not {self.storage!r}, and a "
                f"kind of {', '.join(KINDS)}, not {self.kind!r}"
            )
        for by_head in (self.heads, *self.tenants.values()):
            if not isinstance(by_head, Mapping) or not all(
                type(data) is str for data in by_head.values()
            ):
                raise RecipeError(
                    f"calibrate: {by_head!r} is no data directory by name of a head; write "
                    "head: directory"
                )


def run(stage: StageInput, raw_options: Mapping[str, Any]) -> None:
    """Calibrates on the second half of every `valid`; the card gains the metrics of `test`.

    Raises CalibrationError for too few labels, and RecipeError for a head that the model lacks.
    """
    options = parse_options(CalibrateOptions, raw_options)
    source = required_source(stage, "calibrate")
    prepare_process(stage)
    parent = load_model_directory(source)
    _refuse_unknown_heads(options, tuple(parent.card.scoring_heads))
    learnt_from = _labels(options, parent.card, stage.data)
    _refuse_missing(stage.data / "test.jsonl.gz", *(one / "valid.jsonl.gz" for one in learnt_from))
    _store(parent, stage, options)
    # The card is written last: one that is not calibrated yet must not pass for one that is.
    card = with_files(stage.out, _card(parent, stage, options))
    fits = _Fits(directory_of(stage.out, card), options.kind)
    heads = {
        name: fits.fit(name, Path(options.heads.get(name, stage.data)))
        for name in card.scoring_heads
    }
    tenants = {
        tenant: {name: fits.fit(name, Path(data)) for name, data in by_head.items()}
        for tenant, by_head in options.tenants.items()
    }
    metrics = {**card.metrics, **fits.label_mass()}
    card = replace(with_calibrations(card, heads), tenant_calibrations=tenants, metrics=metrics)
    scorer = DirectoryScorer(directory_of(stage.out, card))
    report = evaluate(scorer, load_requests(stage.data, "test"), slice_names(stage.data, "test"))
    report.pop("digest")  # of a card that did not hold this report yet
    for directory, files in ({stage.data: stage.data_files} | learnt_from).items():
        refuse_changed(directory, files, stage.work)
    write_card(stage.out, replace(card, metrics={**card.metrics, "test": report}))


def with_calibrations(card: ModelCard, heads: Mapping[str, AnyCalibration]) -> ModelCard:
    """The card with every head calibrated anew."""
    if not card.heads:
        (calibration,) = heads.values()
        return replace(card, calibration=calibration)
    parts = {name: replace(head, calibration=heads[name]) for name, head in card.heads.items()}
    return replace(card, heads=parts)


class _Fits:
    """Fits one stored model's heads; scores the held-out half of a data directory once."""

    def __init__(self, directory: ModelDirectory, kind: str) -> None:
        self._directory = directory
        self._kind = kind
        self._engine = FairslateEngine(directory, CACHE_BYTES, dtype=served_dtype(directory))
        self._heads = list(directory.card.scoring_heads)
        self._scored: dict[Path, tuple[list[tuple[float, ...]], list[int]]] = {}
        self._mass: list[float] = []

    def fit(self, head: str, data: Path) -> AnyCalibration:
        """Raises CalibrationError as `fit_calibration` does."""
        if data not in self._scored:
            held_out = _held_out(data)
            self._scored[data] = self._raw_logits(held_out), _labels_of(held_out)
        logits, labels = self._scored[data]
        return fit_calibration(self._kind, logits[self._heads.index(head)], labels)

    def label_mass(self) -> dict[str, Any]:
        """What the card says of it: nothing for a classification head, whose outputs are labels."""
        if not self._mass:
            return {}
        mean = sum(self._mass) / len(self._mass)
        return {"label_mass": {"mean": round(mean, 6), "samples": len(self._mass)}}

    def _raw_logits(self, requests: Sequence[Request]) -> list[tuple[float, ...]]:
        """Raw logits of all candidates, by head."""
        by_head: list[list[float]] = [[] for _ in self._heads]
        for start in range(0, len(requests), JOBS_PER_BATCH):
            batch = requests[start : start + JOBS_PER_BATCH]
            for scores in self._engine.score([self._job(request) for request in batch]):
                for index, logits in enumerate(by_head):
                    logits += scores.of_head(index)
            self._mass += self._engine.drain_label_mass()
        return [tuple(logits) for logits in by_head]

    def _job(self, request: Request) -> ScoreJob:
        prompt, block_size = self._directory.prompt, self._directory.card.block_size
        context = prompt.encode_context(request.context).ids
        candidates = prompt.encode_candidates(request.candidates)
        hashes = prompt.block_hashes(context, block_size)
        return ScoreJob(context, hashes, tuple(candidate.ids for candidate in candidates))


def _held_out(data: Path) -> list[Request]:
    """The half of `valid` that calibrates."""
    return halves(load_requests(data, "valid"))[1]


def _labels_of(requests: Sequence[Request]) -> list[int]:
    return [int(label) for request in requests for label in request.relevant]


def _store(parent: ModelDirectory, stage: StageInput, options: CalibrateOptions) -> None:
    """All but the card."""
    if parent.config.quantization is not None or (parent.path / ENCODER_PATH).exists():
        stage.out.mkdir(parents=True)
        for name in parent.card.files:
            shutil.copyfile(parent.path / name, stage.out / name)
        carry_item_encoder(parent.path, stage.out)
        return
    tokenizer = parent.path / TOKENIZER_NAME
    save_model_files(stage.out, load_decoder(parent), tokenizer, STORAGE[options.storage])


def _card(parent: ModelDirectory, stage: StageInput, options: CalibrateOptions) -> ModelCard:
    """Of a model that is calibrated as its parent still, and knows none of its files yet."""
    entry = lineage_entry("calibrate", stage, options)
    # Paths mean nothing elsewhere; what lay there does.
    entry["options"] |= {
        "heads": {name: directory_digest(Path(data)) for name, data in options.heads.items()},
        "tenants": {
            tenant: {name: directory_digest(Path(data)) for name, data in by_head.items()}
            for tenant, by_head in options.tenants.items()
        },
    }
    return replace(
        parent.card,
        name=options.name or parent.card.name,
        version=options.version or parent.card.version,
        lineage=lineage_after(parent.card, parent.digest, entry),
    )


def _labels(
    options: CalibrateOptions, card: ModelCard, data: Path
) -> dict[Path, Mapping[str, str]]:
    """The directories whose labels calibrations are learnt from, with their files' digests."""
    own = [options.heads.get(name, data) for name in card.scoring_heads]
    return {one: file_digests(one) for one in map(Path, (*own, *named(options)))}


def _refuse_missing(*paths: Path) -> None:
    """Before anything is written."""
    for path in paths:
        if not path.is_file():
            raise RecipeError(f"calibrate reads {path}, and it is not there; name other data")


def _refuse_unknown_heads(options: CalibrateOptions, known: Sequence[str]) -> None:
    asked = {*options.heads, *(name for heads in options.tenants.values() for name in heads)}
    for name in sorted(asked - {*known}):
        raise RecipeError(
            f"calibrate: head {name!r} is not one of the model's: {', '.join(known)}; name those"
        )


def named(options: CalibrateOptions) -> list[str]:
    """Data directories of heads and tenants."""
    tenants = (data for by_head in options.tenants.values() for data in by_head.values())
    return [*options.heads.values(), *tenants]


def check(options: CalibrateOptions, incoming: Incoming) -> None:
    """Raises RecipeError for a head that the model lacks, where its heads are known, and for a data
    directory of its own without a `valid`; CalibrationError for a `valid` with too few labels, and
    DataError for one that cannot be read.
    """
    if incoming.heads:
        _refuse_unknown_heads(options, incoming.heads)
    files = request_files("valid")
    _refuse_missing(*(Path(directory) / name for directory in named(options) for name in files))
    own = not options.heads or any(head not in options.heads for head in incoming.heads)
    for data in dict.fromkeys([*([incoming.data] if own else []), *map(Path, named(options))]):
        _refuse_few_labels(options.kind, data)


def _refuse_few_labels(kind: str, data: Path) -> None:
    held_out = _held_out(data)
    try:
        refuse_few_labels(kind, _labels_of(held_out))
    except CalibrationError as error:
        raise CalibrationError(
            f"{data / 'valid.jsonl.gz'}: {len(held_out)} requests are in the half that calibrates; "
            f"{error}"
        ) from error


STAGE = StageKind(
    run,
    CalibrateOptions,
    named=named,
    reads=lambda options: request_files("valid", "test"),
    check=check,
    keeps=True,
)

if __name__ == "__main__":
    run_alone("measure.calibrate", STAGE)

"""One run of a recipe: stage after stage, each measured, gated and given its name whole.

A stage writes into OUT.work; its directory gets the stage's name when the gates have passed, and
the last one becomes OUT. Knows no stage's inside and no command line.
"""

from __future__ import annotations

import json
import shutil
import sys
import time
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

from compress.recipes.beforehand import refuse_what_cannot_work
from compress.recipes.own_stages import refuse_damaged, refuse_others_stages
from compress.recipes.places import publish, refuse_taken, work_of
from compress.recipes.recipe import Recipe, RecipeStage
from compress.recipes.records import (
    MEASURED_NAME,
    Record,
    folder_digests,
    ranker_record,
    write_records,
    writer_record,
)
from compress.recipes.selecting import selecting
from compress.recipes.sources import (
    refuse_changed_sources,
    sources_of,
    stages_of,
    start_of,
)
from compress.stages import parallel
from compress.stages.loop import LOSSES_NAME
from compress.stages.own_work import alone_in
from compress.stages.stage import SOURCE, TEACHER, GateError, StageInput, device_of
from models.card import CARD_NAME, read_card, write_card

GIVEN = "given"  # stands for the stage of a directory that a recipe starts from
SAID = (
    "gauc",
    "ndcg@10",
    "ece",
    "validation_loss",
    "format_validity",
)  # of every stage, on the terminal


class Run:
    """One recipe on its way to OUT; finished stages and checkpoints lie in OUT.work."""

    def __init__(self, recipe: Recipe, out: Path) -> None:
        self._recipe, self._out, self._work = recipe, out, work_of(out)
        self._data = Path(recipe.data)
        self._begun_with: Mapping[Path, str] = {}
        self._records: dict[str, Record] = {}
        self._finished: dict[str, Path] = {}

    def start(self) -> None:
        """From the last finished stage and checkpoint; returns when OUT is there.

        Raises RecipeError while another run makes the same OUT.
        """
        with ExitStack() as held:
            self._begun_with = parallel.first(lambda: self._prepare(held))
            self._run()

    def _run(self) -> None:
        for title in self._recipe.given():
            self._records[title] = Record.read(self._work / f"{title}.json")
        entries = list(self._recipe.entries())
        for number, (title, entry) in enumerate(entries):
            if parallel.rank() == 0:
                print(f"stage {number + 1} of {len(entries)}: {title}", file=sys.stderr)
            done = self._work / f"{number}-{title}"
            if parallel.first(done.exists):  # its gates may have been tightened since
                self._go_on(entry, done)
            else:
                self._make(title, entry, done)
            self._finished[title] = done
            self._records[title] = Record.read(_record_of(done))
        parallel.meet()  # or the others still remove of their own what is about to be cleared up
        parallel.first(lambda: self._publish(done))

    def _prepare(self, held: ExitStack) -> dict[Path, str]:
        """Returns what the run begins with."""
        refuse_taken(self._out)
        refuse_what_cannot_work(self._recipe)
        sources = sources_of(self._recipe)
        start, stages = start_of(self._recipe), stages_of(self._recipe)
        held.enter_context(alone_in(self._work))
        refuse_taken(self._out)  # another run may just have made it
        refuse_others_stages(start, stages, self._work)
        for title, directory in self._recipe.given().items():
            path = self._work / f"{title}.json"
            if not path.exists():
                self._measure_ranker(title, GIVEN, directory).write(path)
        return sources

    def _refuse_changed(self) -> None:
        refuse_changed_sources(self._recipe, self._begun_with, self._work)

    def _go_on(self, entry: RecipeStage, done: Path) -> None:
        """From a stage that an earlier start has finished."""
        record = Record.read(_record_of(done))
        parallel.first(lambda: refuse_damaged(done, _record_of(done), record.folders))
        self._hold_gates(entry, record)

    def _make(self, title: str, entry: RecipeStage, done: Path) -> None:
        parallel.first(self._refuse_changed)
        inputs, begin = self._inputs(done), time.perf_counter()
        shutil.rmtree(inputs.out, ignore_errors=True)  # of a run that was killed
        try:
            entry.kind.run(inputs, entry.options)
            seconds = time.perf_counter() - begin
            parallel.first(lambda: self._finish(title, entry, inputs, done, seconds))
        finally:  # half a stage, or what ranks above 0 wrote
            shutil.rmtree(inputs.out, ignore_errors=True)

    def _inputs(self, done: Path) -> StageInput:
        """What the stage is given; ranks above 0 write where nobody reads."""
        students = [path for title, path in self._finished.items() if title != TEACHER]
        given = self._recipe.given()
        inputs = StageInput(
            source=students[-1] if students else given.get(SOURCE),
            data=self._data,
            out=self._work / "unfinished",
            work=done.with_name(done.name + ".state"),
            seed=self._recipe.seed,
            threads=self._recipe.threads,
            teacher=given.get(TEACHER) or self._finished.get(TEACHER),
            earlier=given | self._finished,
            device=device_of(self._recipe.device),
        )
        return _of_rank(inputs, parallel.rank())

    def _finish(
        self, title: str, entry: RecipeStage, inputs: StageInput, done: Path, seconds: float
    ) -> None:
        """Measures, holds the gates against it and gives it its name, in this order."""
        record = self._measure(title, entry, inputs.out)
        self._refuse_changed()  # or gates were held on other requests than those of its record
        print(f"{title}: {_line(record)}", file=sys.stderr)
        losses = inputs.work / LOSSES_NAME
        record = replace(
            record,
            seconds=seconds,
            losses=json.loads(losses.read_text(encoding="utf-8")) if losses.exists() else (),
        )
        self._hold_gates(entry, record)
        self._records[title] = record
        digest = _note(inputs.out, self._records) or record.digest
        folders = folder_digests(inputs.out)
        replace(record, digest=digest, folders=folders).write(_record_of(done))
        inputs.out.rename(done)

    def _measure(self, title: str, entry: RecipeStage, directory: Path) -> Record:
        kind = entry.kind
        if entry.writes and kind.quality:
            written = kind.quality(kind.parse(entry.options), directory, self._data)
            return writer_record(title, entry.stage, directory, written)
        return self._measure_ranker(title, entry.stage, directory)

    def _measure_ranker(self, title: str, stage: str, directory: Path) -> Record:
        return ranker_record(title, stage, directory, *selecting(self._data))

    def _hold_gates(self, entry: RecipeStage, record: Record) -> None:
        for gate in entry.conditions:
            against = self._records.get(gate.against or next(reversed(self._records), ""))
            earlier = against.quality if against else None
            failure = gate.failure(record.quality, earlier)
            if failure:
                raise GateError(f"{record.name}: valid {failure}")

    def _publish(self, last: Path) -> None:
        write_records(last / MEASURED_NAME, list(self._records.values()))
        publish(last, self._out)


def _of_rank(inputs: StageInput, rank: int) -> StageInput:
    if rank == 0:
        return inputs
    out, work = (path.with_name(f"{path.name}.rank{rank}") for path in (inputs.out, inputs.work))
    return replace(inputs, out=out, work=work)


def _record_of(done: Path) -> Path:
    return done.with_name(done.name + ".json")


def _line(record: Record) -> str:
    said = [f"{name} {record.metrics[name]:.4f}" for name in SAID if name in record.metrics]
    if record.speed:
        said.append(f"{record.speed.items_per_s:,.0f} items/s")
    return f"valid {', '.join(said)}, {record.size / 1e6:.1f} MB"


def _note(directory: Path, records: Mapping[str, Record]) -> str:
    """The card says what every stage until here reached on `valid`.

    Returns the digest that it has then, nothing of what has no card.
    """
    if not (directory / CARD_NAME).exists():
        return ""
    card = read_card(directory)
    reached = {
        name: {
            **card.metrics.get(name, {}),
            "valid": dict(record.metrics),
            "parameters": record.parameters,
        }
        for name, record in records.items()
    }
    return write_card(directory, replace(card, metrics={**card.metrics, **reached})).digest

"""Measures scorers side by side on this machine's CPU.

`python -m models.bench --suite cpu --shapes A,B,C --peers hf,vllm,ort --json -` prints a line a
provider, shape and state of the cache; `--csv` keeps them. Shapes:

A  27 M decoder, 205 tokens of context, 64 candidates of 24      B  the same slate, Qwen3-0.6B
C  the demo ranker on the slates of its test data                D  50 and 50 x 150, 376 M
L  Qwen3-0.6B, 12,000 tokens of context, 50 x 150: minutes a call, so only when it is named
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, replace
from fnmatch import fnmatch
from itertools import chain
from pathlib import Path
from typing import Any

from models.benches.checks import check_engine
from models.benches.providers import PEERS, limits, ours, transformers_peers
from models.benches.quality import Quality
from models.benches.rows import Row, conditions, keep_rows, rows_of, usable_cores
from models.benches.slates import GradedJob
from models.benches.subjects import LEFT_OUT, Subject, prepare
from models.benches.turns import Process, ProviderError, Spec, take_turns

SHAPES = ("A", "B", "C", "D", "L")
QUALITY_STEP = 8  # everybody scores one in so many of the graded slates
SCORES_ALL = ("fairslate", "hf-shared fp32")  # provider, or provider and dtype


def main() -> None:
    """Runs what is asked for; see the module's first lines."""
    arguments = _arguments()
    stated = conditions()
    for name in arguments.shapes.split(","):
        with tempfile.TemporaryDirectory() as scratch:
            subject = prepare(name, Path(scratch), arguments.threads)
            asked = list(_asked(subject, arguments.peers, arguments.skip))
            rows = measure(subject, asked, arguments.rounds, arguments.caches.split(","))
            _publish(arguments.json, arguments.csv, rows, stated)
            if arguments.checks:
                found = [check for spec in _served(asked) for check in check_engine(subject, spec)]
                kept = arguments.csv and arguments.csv.with_stem(arguments.csv.stem + "_checks")
                _publish(arguments.json, kept, found, stated)


def measure(
    subject: Subject, asked: Sequence[Spec], rounds: int, caches: Sequence[str]
) -> list[Row]:
    """Rows of all providers that start, one state of the cache after the other, and of the others
    with their reason."""
    setting = subject.setting
    with ExitStack() as stack:
        processes, unstarted = _start(stack, [*asked, *limits(setting)])
        loaded = {process.spec: process.loaded_mb for process in processes}
        rows: list[Row] = []
        for cache in caches:
            turns = take_turns(processes, subject.slates(cache == "warm"), rounds, cache == "warm")
            rows += rows_of(subject.name, cache, setting.directory.config, turns, loaded)
            rows += [
                Row(subject.name, spec.provider, spec.dtype, cache, note=reason)
                for spec, reason in unstarted.items()
            ]
        quality = measure_quality(subject, processes)
    return [_with_quality(row, quality) for row in rows]


def measure_quality(
    subject: Subject, processes: Sequence[Process]
) -> dict[tuple[str, str], Quality]:
    """By provider and dtype, where the subject has grades: against transformers in fp32."""
    if not subject.graded:
        return {}
    (reference,) = (s for s in transformers_peers(subject.setting) if s.dtype == "fp32")
    with Process(reference) as process:
        truth = [process.score(item.job).logits for item in subject.graded]
    return {
        (process.spec.provider, process.spec.dtype): _quality(subject.graded, process, truth)
        for process in processes
        if process.spec.kind != "product"
    }


def _quality(
    graded: Sequence[GradedJob], process: Process, truth: Sequence[Sequence[float]]
) -> Quality:
    """Of the slates that every provider scores, and of all by those that score all."""
    named = {process.spec.provider, f"{process.spec.provider} {process.spec.dtype}"}
    step = 1 if named & set(SCORES_ALL) else QUALITY_STEP
    logits = [process.score(item.job).logits for item in graded[::step]]
    grades = [item.grades for item in graded]
    every = slice(None, None, QUALITY_STEP)
    sample = Quality.of(logits[:: QUALITY_STEP // step], truth[every], grades[every])
    return sample.with_all(Quality.of(logits, truth, grades)) if step == 1 else sample


def _asked(subject: Subject, peers: str, skip: str | None) -> Iterator[Spec]:
    """All but those that match a pattern; without patterns, but those a shape leaves out."""
    patterns = LEFT_OUT.get(subject.name, ()) if skip is None else skip.split(",")
    if skip is None and patterns:
        print(f"{subject.name}: without {', '.join(patterns)}; --skip '' has all", file=sys.stderr)
    named = filter(None, peers.split(","))
    for spec in chain(ours(subject.setting), *(PEERS[peer](subject.setting) for peer in named)):
        if not any(fnmatch(f"{spec.provider} {spec.dtype}", pattern) for pattern in patterns):
            yield spec


def _served(asked: Sequence[Spec]) -> list[Spec]:
    """Those of ours that the service would take: the first backend that runs here."""
    own = [spec for spec in asked if spec.kind == "fairslate"]
    return [spec for spec in own if spec.provider == own[0].provider]


def _start(stack: ExitStack, specs: Sequence[Spec]) -> tuple[list[Process], dict[Spec, str]]:
    """One after another, so that each has the machine for itself as it loads."""
    processes, unstarted = [], {}
    for spec in specs:
        try:
            processes.append(stack.enter_context(Process(spec)))
        except ProviderError as error:
            unstarted[spec] = str(error)
    return processes, unstarted


def _with_quality(row: Row, quality: Mapping[tuple[str, str], Quality]) -> Row:
    found = quality.get((row.provider, row.dtype))
    return replace(row, **asdict(found)) if found else row


def _publish(lines: str, kept: Path | None, rows: Sequence[Any], stated: Mapping[str, Any]) -> None:
    """As JSON lines, and as CSV where asked."""
    text = "".join(json.dumps({**asdict(row), **stated}) + "\n" for row in rows)
    if lines == "-":
        print(text, end="", flush=True)
    else:
        with Path(lines).open("a", encoding="utf-8") as file:
            file.write(text)
    if kept and rows:
        keep_rows(kept, rows, stated)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--suite", choices=["cpu"], default="cpu")
    parser.add_argument("--shapes", default="A,B,C", help=f"of {', '.join(SHAPES)}")
    parser.add_argument("--peers", default="hf,vllm,ort", help=f"of {', '.join(PEERS)}, or empty")
    parser.add_argument(
        "--skip", help="patterns of 'provider dtype' to leave out in place of a shape's own"
    )
    parser.add_argument("--caches", default="warm,cold")
    parser.add_argument("--rounds", type=int, default=7, help="timed turns of each provider")
    parser.add_argument("--threads", type=int, default=usable_cores(), help="of each provider")
    parser.add_argument("--checks", action="store_true", help="also memory, linearity, savings")
    parser.add_argument("--json", default="-", help="file for the lines, - prints them")
    parser.add_argument(
        "--csv", type=Path, help="file that keeps the rows of each shape's last run"
    )
    return parser.parse_args()


if __name__ == "__main__":
    main()

"""A data directory of made-up requests, for stages that only need some slates."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

from compress.stages.stage import StageInput

WORDS = ("nurse", "welder", "roofer", "clerk", "pilot", "baker", "tailor", "miner")


def write_slates(directory: Path, requests: int = 16, candidates: int = 10) -> Path:
    """`train.jsonl.gz`, the same as `valid.jsonl.gz`, and their items."""
    directory.mkdir()
    texts = [f"{word} of grade {grade}" for word in WORDS for grade in range(5)]
    rows = [
        {
            "qid": str(number),
            "prefix": f"Member {number} was a {WORDS[number % 8]} for {number + 2} years",
            "cand": [str((7 * number + 3 * place) % len(texts)) for place in range(candidates)],
            "label": [place % 2 for place in range(candidates)],
        }
        for number in range(requests)
    ]
    _write(directory / "items.jsonl.gz", [{"id": str(i), "text": t} for i, t in enumerate(texts)])
    for split in ("train", "valid"):
        _write(directory / f"{split}.jsonl.gz", rows)
    return directory


def stage_input(source: Path, data: Path, out: Path) -> StageInput:
    """One thread, seed 5."""
    return StageInput(source, data, out, out.with_name(out.name + ".work"), seed=5, threads=1)


def _write(path: Path, rows: list[dict[str, Any]]) -> None:
    with gzip.open(path, "wt", encoding="utf-8") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)

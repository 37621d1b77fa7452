"""Records the gate's verbs as JSON lines and replays them on a pool, which must dispatch the same.

    python -m loadtest.simulation.replay TRACE

Knows no engine and no Redis. The first line holds the settings, every other line one verb with its
arguments (times are Redis' own, in milliseconds) and, for a claim, what it dispatched. Whatever
serves these verbs can write such a file with `line`; `record` does it for a pool.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass, fields, is_dataclass
from functools import partial
from pathlib import Path
from typing import Any

from service.gate.job import Claim, Claimed, Job, Level, Settlement
from service.gate.pool import Pool
from service.gate.settings import GateSettings

VERBS = (
    *("join", "leave", "drain", "submit", "claim", "settle", "renew", "cancel", "reap"),
    *("configure", "explain"),  # the latter moves the clock
)
KINDS: dict[str, type] = {
    kind.__name__: kind for kind in (Claimed, GateSettings, Job, Level, Settlement)
}


@dataclass(frozen=True, slots=True)
class Dispatch:
    """A job that a claim handed to a worker, and what was reserved for it."""

    line: int
    worker: str
    job_id: str
    epoch: int
    charged: int


@dataclass(frozen=True, slots=True)
class Replay:
    """What a trace says was dispatched, and what the replay dispatched."""

    recorded: list[Dispatch]
    replayed: list[Dispatch]


def record(pool: Pool, write: Callable[[str], object]) -> Pool:
    """Makes a fresh pool pass every verb to `write`, one line each; returns the pool."""
    write(line("settings", pool.settings))
    for verb in VERBS:
        setattr(pool, verb, partial(_recorded, verb, getattr(pool, verb), write))
    return pool


def line(verb: str, *values: object, answer: object = None, **named: object) -> str:
    """One verb as a line of a trace."""
    cells: dict[str, object] = {"verb": verb, "values": encode(values), "named": encode(named)}
    if isinstance(answer, Claim):
        cells["jobs"] = [[job.job_id, job.epoch, job.charged] for job in answer.jobs]
    return json.dumps(cells) + "\n"


def replay(trace: Iterable[str]) -> Replay:
    """Calls a new pool as the trace says. Raises ValueError for a trace without settings."""
    lines = [json.loads(text) for text in trace]
    if not lines or lines[0]["verb"] != "settings":
        raise ValueError("the trace must begin with its settings; record it anew")
    pool, result = Pool(decode(lines[0]["values"])[0]), Replay([], [])
    for number, cells in enumerate(lines[1:], start=2):
        values = decode(cells["values"])
        answer = getattr(pool, cells["verb"])(*values, **decode(cells["named"]))
        if isinstance(answer, Claim):
            jobs = [(job.job_id, job.epoch, job.charged) for job in answer.jobs]
            result.replayed.extend(Dispatch(number, values[0], *job) for job in jobs)
            result.recorded.extend(Dispatch(number, values[0], *job) for job in cells["jobs"])
    return result


def encode(value: object) -> Any:
    """A value as JSON; dataclasses and bytes keep their kind."""
    if is_dataclass(value):
        cells = {field.name: encode(getattr(value, field.name)) for field in fields(value)}
        return {"kind": type(value).__name__, "cells": cells}
    if isinstance(value, bytes):
        return {"kind": "bytes", "cells": value.hex()}
    if isinstance(value, dict):
        return {"kind": "dict", "cells": {name: encode(cell) for name, cell in value.items()}}
    if isinstance(value, (list, tuple)):
        return [encode(cell) for cell in value]
    return value


def decode(value: Any) -> Any:
    """What `encode` was given; lists come back as tuples."""
    if isinstance(value, list):
        return tuple(decode(cell) for cell in value)
    if not isinstance(value, dict):
        return value
    if value["kind"] == "bytes":
        return bytes.fromhex(value["cells"])
    cells = {name: decode(cell) for name, cell in value["cells"].items()}
    return cells if value["kind"] == "dict" else KINDS[value["kind"]](**cells)


def _recorded(
    verb: str,
    call: Callable[..., object],
    write: Callable[[str], object],
    *values: object,
    **named: object,
) -> object:
    answer = call(*values, **named)
    write(line(verb, *values, answer=answer, **named))
    return answer


def main() -> int:
    """The command line: 1 if any dispatch differs."""
    with Path(sys.argv[1]).open(encoding="utf-8") as trace:
        result = replay(trace)
    pairs = zip(result.recorded, result.replayed, strict=False)
    for recorded, replayed in pairs:
        if recorded != replayed:
            print(f"differs: recorded {recorded}, replayed {replayed}")
            return 1
    same = len(result.recorded) == len(result.replayed)
    print(f"{len(result.replayed)} dispatches, {'all as recorded' if same else 'not as many'}")
    return int(not same)


if __name__ == "__main__":
    sys.exit(main())

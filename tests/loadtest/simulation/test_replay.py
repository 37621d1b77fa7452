"""A recorded trace dispatches the same jobs in the same order, and a changed one is found out."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from loadtest.simulation.engine import Simulation
from loadtest.simulation.hardware import A10, LLAMA_3B, engine
from loadtest.simulation.replay import decode, encode, main, record, replay
from loadtest.simulation.workloads import panel
from service.gate.job import Claimed, Job, Level, Settlement
from service.gate.pool import Pool
from service.gate.settings import GateSettings

SECONDS = 10_000.0
MOST_RUNNING = 32


def traced(policy: str, workers: int = 2) -> list[str]:
    lines: list[str] = []
    Simulation(
        replace(engine(A10, LLAMA_3B, 32), max_running=MOST_RUNNING),
        panel("s1-tot", 1),
        GateSettings(policy=policy, worker_quantum=20_000),
        workers,
        gate=lambda settings: record(Pool(settings), lines.append),
    ).run(SECONDS)
    return lines


@pytest.mark.parametrize("policy", ["dlpm", "vtc", "lpm", "fcfs", "hrrn"])
def test_a_replay_dispatches_as_recorded(policy: str) -> None:
    result = replay(traced(policy))
    assert len(result.recorded) > 2 * MOST_RUNNING
    assert result.replayed == result.recorded


def test_every_verb_is_replayed() -> None:
    lines: list[str] = []
    pool = record(Pool(GateSettings(lease_ms=50)), lines.append)
    for name in ("one", "two"):
        pool.join(name, 0)
    for number in range(9):
        pool.submit(job(f"{number}"), number)
    (first, second, *_), held = pool.claim("one", 500, 4, 10).jobs, pool.claim("two", 500, 4, 11)
    pool.renew("one", [first], 20)
    assert pool.settle("one", [Settlement(first.job_id, first.epoch, 10, b"x")], 21) == [True]
    pool.configure("lpm", 22)
    assert pool.cancel("8", 23)
    pool.drain("two", 24)
    assert pool.leave("two", 25) == len(held.jobs)
    assert pool.explain(second.job_id, 26).state == "leased"
    pool.reap(90)
    pool.claim("one", 500, 4, 91)
    result = replay(lines)
    assert len(result.recorded) > 8
    assert result.replayed == result.recorded


def job(name: str) -> Job:
    return Job(
        name, (Level("t"), Level("u", 2)), 0, ("a", "b"), 16, 32, 8, 60_000, "r", b"\x00\xff"
    )


def test_a_trace_that_was_tampered_with_is_found_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = traced("dlpm")
    trace = tmp_path / "trace.jsonl"
    monkeypatch.setattr("sys.argv", ["replay", str(trace)])
    trace.write_text("".join(lines), encoding="utf-8")
    assert main() == 0
    claims = [
        number for number, text in enumerate(lines) if len(json.loads(text).get("jobs", "")) > 1
    ]
    cells = json.loads(lines[claims[0]])
    cells["jobs"].reverse()
    lines[claims[0]] = json.dumps(cells) + "\n"
    trace.write_text("".join(lines), encoding="utf-8")
    assert main() == 1
    assert f"line={claims[0] + 1}" in capsys.readouterr().out


def test_a_trace_needs_its_settings() -> None:
    with pytest.raises(ValueError, match="begin with its settings"):
        replay(traced("fcfs")[1:])


@pytest.mark.parametrize(
    "value",
    [job("a"), Claimed("a", 1, b"\x01", "r", 2, 3, 4), {"n": (1, None, True)}, GateSettings()],
)
def test_what_is_encoded_comes_back(value: object) -> None:
    assert decode(json.loads(json.dumps(encode(value)))) == value

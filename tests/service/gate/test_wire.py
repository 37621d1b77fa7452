"""Script arguments and answers; that the scripts agree is test_differential.py's matter."""

from __future__ import annotations

import json
from typing import Any

import pytest

from service.gate import policy, wire
from service.gate.job import (
    Claim,
    Claimed,
    Explanation,
    GateStats,
    LevelStanding,
    NodeStats,
    Outcome,
    Reaped,
    Reply,
    Settlement,
    Verdict,
)
from service.gate.settings import GateSettings
from tests.service.gate.jobs import build_job

CLAIMED = Claimed("job", 7, b"\0payload", "api", 42, 16, 5)
SETTINGS = GateSettings(quantum=100, overtakes=3)


def test_a_jobs_facts_travel_beside_its_payload() -> None:
    job = build_job("job", "acme:3/alice:2", "ab", tenant_level=0, output_tokens=4, short_by=1)
    facts, payload = wire.submit_arguments(job)
    assert isinstance(facts, str)
    assert payload == b"job"
    assert json.loads(facts) == {
        "id": "job",
        "leaf": "acme/alice",
        "tenant": "acme",
        "weights": [3, 2],
        "context": "ab~_____",
        "chain": "a_______ab~_____",
        "width": 8,
        "blocks": 2,
        "block_size": 16,
        "context_tokens": 31,
        "candidate_tokens": 10,
        "output_tokens": 4,
        "tokens": 45,
        "deadline_ms": 60_000,
        "reply_to": "api",
    }


def test_a_job_without_a_context_has_a_chain_of_no_width() -> None:
    facts, _payload = wire.submit_arguments(build_job("job", context=""))
    assert isinstance(facts, str)
    cells = json.loads(facts)
    assert (cells["context"], cells["chain"], cells["width"], cells["blocks"]) == ("", "", 0, 0)


def test_a_claim_counts_the_inserted_blocks_before_the_evicted() -> None:
    cells = wire.claim_arguments(
        "w", 900, 8, ["a", "b"], ["c"], strict=True, acknowledged=7, instance="i"
    )
    assert cells == ["w", 900, 8, 1, 7, "i", 2, "a", "b", "c"]


def test_a_claim_may_have_heard_of_no_epoch() -> None:
    assert wire.claim_arguments("w", 900, 8) == ["w", 900, 8, 0, -1, "", 0]
    assert wire.claim_arguments("w", 900, 8, acknowledged=0)[4] == 0


def test_a_settlement_travels_before_the_cache_events() -> None:
    rows = [Settlement("one", 7, 30, b"r", Outcome.FAILED, 4), Settlement("two", 8, 1, b"")]
    assert wire.settle_arguments("w", rows, ["a"], ["b"]) == [
        *["w", 2],
        *["one", 7, 30, 4, "failed", b"r"],
        *["two", 8, 1, 0, "scored", b""],
        *[1, "a", "b"],
    ]


def test_a_renewal_names_jobs_and_epochs() -> None:
    assert wire.renew_arguments("w", [CLAIMED]) == ["w", "job", 7]


def test_verdicts_keep_the_order_of_the_jobs() -> None:
    jobs = [build_job("one"), build_job("two", candidate_tokens=68)]
    answer = [1_000, [b"queued", 0, 0, 50], [b"tenant_full", 300, 100, 50]]
    expected = [Verdict("queued"), Verdict("tenant_full", 6_000)]  # 3 x 100 tokens at 50 a second
    assert wire.read_verdicts(answer, jobs, SETTINGS) == expected


@pytest.mark.parametrize("known", [True, False])
def test_a_claims_answer(known: bool) -> None:
    row = [b"job", 7, b"\0payload", b"api", 42, 16, 5]
    assert wire.read_claim([1_000, int(known), 3, row]) == Claim((CLAIMED,), 3, 1_000, known)


def test_a_reaps_answer() -> None:
    reaped = wire.read_reaped([1_000, 1, 2, 3])
    assert reaped == Reaped(requeued=1, lost=2, expired=3, now_ms=1_000)


@pytest.mark.parametrize("outcome", Outcome)
def test_a_reply_may_hold_any_bytes(outcome: Outcome) -> None:
    raw = b"job\0" + outcome.value.encode() + b"\0\xff\0result"
    assert wire.read_reply(raw) == Reply("job", outcome, b"\xff\0result")


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ([1_000, b"unknown"], Explanation("unknown")),
        (
            [1_000, b"leased", b"w", 30, 500],
            Explanation("leased", "w", queue_ms=30, deadline_in_ms=500),
        ),
    ],
)
def test_a_job_that_does_not_wait_is_explained_briefly(
    answer: list[Any], expected: Explanation
) -> None:
    assert wire.read_explanation(answer) == expected


def test_a_waiting_jobs_explanation_holds_the_bound_that_follows() -> None:
    rows = [[b"acme", -50, 2, 1, 1, 4], [b"acme/alice", 30, 1, 0, 0, 0]]
    acme = LevelStanding("acme", deficit=-50, weight=2, rounds=1, rivals=1, rival_weight=4)
    levels = (acme, LevelStanding("acme/alice", 30, 1, 0, 0, 0))
    answer = [1_000, b"queued", b"w", 30, 500, 2, 4, rows, 700, 350, 9_000, 100, 100, 3]
    assert wire.read_explanation(answer) == Explanation(
        state="queued",
        worker="w",
        queue_ms=30,
        deadline_in_ms=500,
        due_before=2,
        matched_blocks=4,
        levels=levels,
        queued_cost=700,
        largest_cost=350,
        drain_rate=9_000,
        bound=policy.wait_bound(levels, 2, 100, 100, 3, 350),
    )


def test_a_snapshot_names_nodes_and_workers() -> None:
    node = [b"acme", -50, 2, 3, 120, 1, 900]
    answer = [1_000, b"vtc", 3, 120, 1, 12, 950, 50, 7, 800, [node], [[b"w", 15]]]
    assert wire.read_stats(answer) == GateStats(
        policy="vtc",
        queued_jobs=3,
        queued_tokens=120,
        leased_jobs=1,
        round=12,
        service=950,
        platform=50,
        uncharged=7,
        drain_rate=800,
        now_ms=1_000,
        nodes={
            "acme": NodeStats(
                deficit=-50, weight=2, queued_jobs=3, queued_tokens=120, leased_jobs=1, service=900
            )
        },
        workers={"w": 15},
    )

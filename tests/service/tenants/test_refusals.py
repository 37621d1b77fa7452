"""A refused tenant is refused unread for a moment, others never."""

from __future__ import annotations

import collections
import gc
import weakref
from contextlib import ExitStack, nullcontext

import pytest

from service.gate.errors import PoolFullError, TenantThrottledError
from service.tenants.refusals import LEAST_TRIALS, LONGEST_MS, MOST_TRIALS, Refusals


class Clock:
    """Seconds that pass when told to."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def refusals(clock: Clock) -> Refusals:
    return Refusals(clock)


def refuse(refusals: Refusals, tenant: str, retry_after_ms: int | None) -> None:
    """The gate refuses the tenant."""
    with pytest.raises(TenantThrottledError), refusals.noting(tenant):
        raise TenantThrottledError("wait for answers", retry_after_ms=retry_after_ms)


def test_a_refused_tenant_hears_the_same_again_and_others_do_not(refusals: Refusals) -> None:
    refuse(refusals, "loud", 700)
    with pytest.raises(TenantThrottledError, match="wait for answers") as caught:
        refusals.check(["loud"])
    assert caught.value.retry_after_ms == 700
    refusals.check(["quiet"])


@pytest.mark.parametrize("retry_after_ms", [LONGEST_MS // 2, LONGEST_MS, 10 * LONGEST_MS])
def test_a_refusal_holds_until_it_said_a_retry_helps_but_not_for_long(
    refusals: Refusals, clock: Clock, retry_after_ms: int
) -> None:
    refuse(refusals, "loud", retry_after_ms)
    clock.now += min(retry_after_ms, LONGEST_MS) / 1000 - 0.001
    with pytest.raises(TenantThrottledError):
        refusals.check(["loud"])
    clock.now += 0.001
    refusals.check(["loud"])


def tries(refusals: Refusals) -> int:
    """How many slates go on to the gate in this moment."""
    for tried in range(10 * MOST_TRIALS):
        if refusals.refuses("loud"):
            return tried
        refusals.enter("loud")
    return 10 * MOST_TRIALS


def test_when_a_refusal_has_ended_a_few_try_and_more_once_they_succeed(
    refusals: Refusals, clock: Clock
) -> None:
    refuse(refusals, "loud", LONGEST_MS)
    with pytest.raises(TenantThrottledError):
        refusals.enter("loud")
    expected = LEAST_TRIALS
    while expected <= MOST_TRIALS:
        clock.now += LONGEST_MS / 1000 + 1e-6
        assert tries(refusals) == expected
        expected *= 2
    clock.now += LONGEST_MS / 1000 + 1e-6
    assert tries(refusals) == 10 * MOST_TRIALS


def test_as_many_tries_again_as_half_of_those_that_were_refused(
    refusals: Refusals, clock: Clock
) -> None:
    refuse(refusals, "loud", LONGEST_MS)
    clock.now += 4.5 * LONGEST_MS / 1000
    assert tries(refusals) == 8 * LEAST_TRIALS
    for _ in range(3):  # those that were under way hear it one after the other
        refuse(refusals, "loud", LONGEST_MS)
    clock.now += 1.5 * LONGEST_MS / 1000
    assert tries(refusals) == 4 * LEAST_TRIALS


def test_one_late_refusal_holds_nobody_back_once_answers_are_fast(
    refusals: Refusals, clock: Clock
) -> None:
    def late() -> TenantThrottledError:
        clock.now += 30
        return TenantThrottledError("wait for answers", retry_after_ms=LONGEST_MS)

    with pytest.raises(TenantThrottledError), refusals.noting("loud"):
        raise late()
    clock.now += LONGEST_MS / 1000
    refusals.enter("loud")
    with refusals.noting("loud"):
        clock.now += 0.05
    clock.now += 6 * LONGEST_MS / 1000
    assert tries(refusals) == 10 * MOST_TRIALS


def test_a_tenant_that_has_waited_long_starts_anew(refusals: Refusals, clock: Clock) -> None:
    refuse(refusals, "loud", LONGEST_MS)
    clock.now += 3600
    assert not refusals.refuses("loud")
    assert tries(refusals) == 10 * MOST_TRIALS


@pytest.mark.parametrize("lag_s", [0.005, 0.1, 0.5, 2.0])
@pytest.mark.parametrize("drain", [20, 100, 400])
def test_however_late_the_gate_answers_few_are_read_and_the_queue_never_runs_empty(
    refusals: Refusals, clock: Clock, lag_s: float, drain: int
) -> None:
    """A tenant sends 1,000 a second; the gate keeps 8 seconds of `drain` a second."""
    cap, queued, read, starved = 8 * drain, 0.0, 0, 0
    under_way: collections.deque[tuple[float, ExitStack]] = collections.deque()
    for turn in range(60_000):
        clock.now += 0.001
        queued = max(0.0, queued - drain / 1000)
        while under_way and under_way[0][0] <= clock.now:
            _, gate = under_way.popleft()
            with pytest.raises(TenantThrottledError) if queued >= cap else nullcontext(), gate:
                if queued >= cap:
                    raise TenantThrottledError("wait for answers", retry_after_ms=1000)
                queued += 1
        if not refusals.refuses("loud"):
            refusals.enter("loud")
            gate = ExitStack()
            gate.enter_context(refusals.noting("loud"))
            under_way.append((clock.now + lag_s, gate))
            read += turn >= 30_000
        starved += turn >= 30_000 and queued < 1
    assert starved == 0
    assert read / 30 < max(100, 1.6 * drain)


def test_a_class_at_its_cap_leaves_the_tenants_other_classes_open(refusals: Refusals) -> None:
    refuse(refusals, "bulk/loud", 700)
    refusals.check(["interactive/loud", "bulk/loud"])
    refuse(refusals, "interactive/loud", 300)
    with pytest.raises(TenantThrottledError) as caught:
        refusals.check(["interactive/loud", "bulk/loud"])
    assert caught.value.retry_after_ms == 300


def test_a_refusal_that_names_no_time_is_not_remembered(refusals: Refusals) -> None:
    refuse(refusals, "loud", None)
    refusals.check(["loud"])


def test_a_full_pool_is_no_tenants_fault(refusals: Refusals) -> None:
    with pytest.raises(PoolFullError), refusals.noting("any"):
        raise PoolFullError("full", retry_after_ms=1000)
    refusals.check(["any"])


def test_the_error_itself_is_not_kept(refusals: Refusals) -> None:
    error: TenantThrottledError | None = TenantThrottledError("wait", retry_after_ms=1000)
    assert error is not None
    kept = weakref.ref(error)
    try:
        with refusals.noting("loud"):
            raise error
    except TenantThrottledError:
        error = None
    gc.collect()
    assert kept() is None

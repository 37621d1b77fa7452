"""A refused tenant is refused unread for a moment, others never."""

from __future__ import annotations

import gc
import weakref

import pytest

from service.gate.errors import PoolFullError, TenantThrottledError
from service.refusals import LONGEST_MS, Refusals


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

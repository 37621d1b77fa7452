"""Keys find their tenant, and nothing else finds one; its requests find their place below it."""

from __future__ import annotations

import hashlib
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.base.errors import InvalidRequestError, UnauthorizedError
from service.gate.job import Level
from service.tenants.tenants import OPEN_TENANT, Tenant, Tenants, user_name

INTERACTIVE, BATCH, ACME = Level("interactive", 8), Level("batch"), Level("acme", 2)


def digest(key: str) -> str:
    return hashlib.sha256(key.encode()).hexdigest()


KNOWN = Tenants(
    ((digest("key-of-ada"), Tenant("ada", 2)), (digest("key-of-bob"), Tenant("bob", 1)))
)


def test_key_finds_its_tenant() -> None:
    assert KNOWN.authenticate("Bearer key-of-bob") == Tenant("bob", 1)
    assert KNOWN.authenticate("bearer key-of-ada") == Tenant("ada", 2)


@given(st.text().filter(lambda key: key.strip() not in ("key-of-ada", "key-of-bob")))
def test_any_other_key_is_refused(key: str) -> None:
    with pytest.raises(UnauthorizedError):
        KNOWN.authenticate(f"Bearer {key}")


@pytest.mark.parametrize("header", [None, "", "key-of-ada", "Basic key-of-ada", "Bearer"])
def test_header_without_a_bearer_key_is_refused(header: str | None) -> None:
    with pytest.raises(UnauthorizedError, match="Authorization: Bearer"):
        KNOWN.authenticate(header)


def test_a_key_is_found_in_as_many_steps_among_many_tenants_as_among_few() -> None:
    def steps(tenants: int) -> int:
        named = [(digest(f"key-{number}"), Tenant(f"t{number}")) for number in range(tenants)]
        known, calls = Tenants(tuple(named)), []
        sys.setprofile(lambda _frame, event, _argument: calls.append(event))
        try:
            known.authenticate("Bearer key-1")
        finally:
            sys.setprofile(None)
        return len(calls)

    assert steps(1_000) == steps(2)


@pytest.mark.parametrize("header", [None, "Bearer somebody", "Basic abc"])
def test_the_open_tenant_needs_no_key_and_looks_at_none(header: str | None) -> None:
    assert Tenants().authenticate(header) == OPEN_TENANT


def test_a_tenant_with_two_keys_is_one_tenant() -> None:
    ada = Tenant("ada", 2)
    twice = Tenants(((digest("one"), ada), (digest("two"), ada), (digest("b"), Tenant("bob"))))
    assert twice.all == (ada, Tenant("bob"))
    assert Tenants().all == (OPEN_TENANT,)


@pytest.mark.parametrize(
    ("tenant", "path", "level"),
    [
        (Tenant("ada", 3), "ada", 0),
        (Tenant("ada", 3, users=True), "ada/u1", 0),
        (Tenant("ada", 3, organisation=ACME), "acme/ada", 1),
        (Tenant("ada", 3, (INTERACTIVE, BATCH), ACME, users=True), "interactive/acme/ada/u1", 2),
    ],
)
def test_path_goes_from_the_class_down_to_the_user(tenant: Tenant, path: str, level: int) -> None:
    levels = tenant.path("u1")
    assert "/".join(step.name for step in levels) == path
    assert tenant.level == level
    assert levels[level] == Level("ada", 3)


def test_priority_chooses_among_the_tenants_classes_only() -> None:
    ada = Tenant("ada", classes=(INTERACTIVE, BATCH))
    assert ada.path()[0] == INTERACTIVE
    assert ada.path(priority="batch")[0] == BATCH
    assert ada.nodes == ("interactive/ada", "batch/ada")
    with pytest.raises(InvalidRequestError, match=r"'bulk' is not open .* interactive, batch"):
        ada.path(priority="bulk")
    with pytest.raises(InvalidRequestError, match="no classes, send none"):
        Tenant("bob").path(priority="batch")


@given(st.none() | st.text(st.characters()))
def test_any_user_becomes_a_level_of_one_depth(user: str | None) -> None:
    levels = Tenant("ada", users=True).path(user)
    assert len(levels) == 2
    assert len(levels[1].name) <= 64
    assert levels[1].name.isascii()


@given(st.lists(st.text(st.characters()), unique=True))
def test_two_users_never_share_a_level(users: list[str]) -> None:
    assert len({user_name(user) for user in users}) == len(users)


def test_plain_users_keep_their_name_and_others_do_not() -> None:
    assert user_name("ada@example.org:7") == "ada@example.org:7"
    assert user_name("a/b").startswith("sha256:")
    assert user_name("u" * 65).startswith("sha256:")


def test_private_tenants_have_salts_of_their_own() -> None:
    assert Tenant("ada").salt == Tenant("bob").salt == ""
    assert Tenant("ada", private=True).salt != Tenant("bob", private=True).salt

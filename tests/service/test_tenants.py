"""Keys find their tenant, and nothing else finds one."""

from __future__ import annotations

import hashlib
import logging
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from service.config import SettingsError
from service.errors import UnauthorizedError
from service.tenants import OPEN_TENANT, Tenant, Tenants, load_tenants


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


def test_open_service_says_so_and_needs_no_key(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        tenants = load_tenants("")
    assert "one open tenant" in caplog.text
    assert tenants.authenticate(None) == OPEN_TENANT
    with pytest.raises(UnauthorizedError):
        tenants.authenticate("Bearer somebody")


def test_file_is_read(tmp_path: Path) -> None:
    path = write(tmp_path, [{"name": "ada", "key_sha256": digest("a"), "weight": 3}])
    tenants = load_tenants(path)
    assert tenants.authenticate("Bearer a") == Tenant("ada", 3)
    assert tenants.names == ("ada",)


@pytest.mark.parametrize(
    ("entry", "fault"),
    [
        ({"key_sha256": digest("a")}, "name"),
        ({"name": "ada", "key_sha256": "a"}, "key_sha256"),
        ({"name": "ada", "key_sha256": digest("a").upper()}, "key_sha256"),
        ({"name": "ada", "key_sha256": digest("a"), "weight": 0}, "weight"),
        ({"name": "ada", "key_sha256": digest("a"), "weight": True}, "weight"),
        ({"name": "ada", "key_sha256": digest("a"), "wieght": 1}, "expected name"),
        ("ada", "expected name"),
    ],
)
def test_bad_entry_is_named(tmp_path: Path, entry: Any, fault: str) -> None:
    good = {"name": "bob", "key_sha256": digest("b")}
    with pytest.raises(SettingsError, match=rf"tenants\[1\].*{fault}"):
        load_tenants(write(tmp_path, [good, entry]))


def test_shared_key_and_empty_or_absent_file_are_refused(tmp_path: Path) -> None:
    twins = [{"name": name, "key_sha256": digest("same")} for name in ("ada", "bob")]
    with pytest.raises(SettingsError, match="share one key"):
        load_tenants(write(tmp_path, twins))
    with pytest.raises(SettingsError, match="non-empty list"):
        load_tenants(write(tmp_path, []))
    with pytest.raises(SettingsError, match="cannot be read"):
        load_tenants(str(tmp_path / "absent.yaml"))


def write(directory: Path, entries: list[Any]) -> str:
    path = directory / "tenants.yaml"
    path.write_text(yaml.safe_dump({"tenants": entries}))
    return str(path)

"""The tenants file is read whole, or refused by the entry at fault."""

from __future__ import annotations

import hashlib
import logging
from pathlib import Path
from typing import Any

import pytest
import yaml

from service.base.config import SettingsError
from service.gate.job import Level
from service.tenants.tenants import Tenant, Tenants
from service.tenants.tenants_file import load_tenants

CLASSES = {"interactive": 8, "batch": 1}
ADA = {"name": "ada", "key_sha256": hashlib.sha256(b"a").hexdigest()}
BOB = {"name": "bob", "key_sha256": hashlib.sha256(b"b").hexdigest()}


def write(directory: Path, entries: list[Any], **sections: Any) -> str:
    path = directory / "tenants.yaml"
    path.write_text(yaml.safe_dump({"tenants": entries, **sections}, sort_keys=False))
    return str(path)


def test_no_file_opens_the_service_and_says_so(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        assert load_tenants("") == Tenants()
    assert "one open tenant" in caplog.text


def test_every_field_is_read(tmp_path: Path) -> None:
    entry = ADA | {"weight": 3, "organisation": "acme", "private": True, "users": True}
    sections = {"classes": CLASSES, "organisations": {"acme": 2}}
    (ada,) = load_tenants(write(tmp_path, [entry], **sections)).all
    classes = (Level("interactive", 8), Level("batch"))
    assert ada == Tenant("ada", 3, classes, Level("acme", 2), private=True, users=True)


@pytest.mark.parametrize(
    ("entry", "names"),
    [
        ({}, ["interactive", "batch"]),
        ({"class": "batch"}, ["batch"]),
        ({"classes": []}, ["interactive"]),
        ({"class": "batch", "classes": ["interactive"]}, ["batch", "interactive"]),
    ],
)
def test_a_tenants_own_class_comes_first_and_lower_ones_are_open_to_it(
    tmp_path: Path, entry: dict[str, Any], names: list[str]
) -> None:
    (ada,) = load_tenants(write(tmp_path, [ADA | entry], classes=CLASSES)).all
    assert [level.name for level in ada.classes] == names


@pytest.mark.parametrize(
    ("entry", "fault"),
    [
        ({"name": None}, "name"),
        ({"name": "a/b"}, "holds no /, not 'a/b'"),
        ({"name": "a\0b"}, "name"),
        ({"key_sha256": "a"}, "key_sha256"),
        ({"key_sha256": ADA["key_sha256"].upper()}, "key_sha256"),
        ({"weight": 0}, "weight: .* not 0"),
        ({"weight": True}, "weight"),
        ({"wieght": 1}, "'wieght' is no field of a tenant; expected name"),
        ({"organisation": "acne"}, "organisation: 'acne' is not known.*acme"),
        ({"class": "bulk"}, "class: 'bulk' is not known.*interactive, batch"),
        ({"classes": ["batch", "bulk"]}, "classes: 'bulk' is not known"),
        ({"classes": "batch"}, "classes: expected a list"),
        ({"private": "yes"}, "private: expected true or false, not 'yes'"),
        ({"users": 1}, "users: expected true or false"),
        ({"name": "acme"}, "names an organisation too"),
        ({"name": "bob", "weight": 2}, "'bob' stands twice"),
    ],
)
def test_bad_entry_is_named(tmp_path: Path, entry: dict[str, Any], fault: str) -> None:
    sections = {"classes": CLASSES, "organisations": {"acme": 2}}
    load_tenants(write(tmp_path, [BOB, ADA], **sections))
    with pytest.raises(SettingsError, match=rf"tenants\[1\].*{fault}"):
        load_tenants(write(tmp_path, [BOB, ADA | entry], **sections))


def test_a_class_needs_classes(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"tenants\[0\].class: the file names no `classes`"):
        load_tenants(write(tmp_path, [ADA | {"class": "batch"}]))


def test_one_tenant_may_have_two_keys(tmp_path: Path) -> None:
    tenants = load_tenants(write(tmp_path, [ADA, BOB | {"name": "ada"}]))
    assert tenants.authenticate("Bearer a") is not None
    assert tenants.authenticate("Bearer b") == tenants.authenticate("Bearer a")


@pytest.mark.parametrize(
    ("sections", "fault"),
    [
        ({"classes": {"batch": 0}}, r"classes\.batch: expected a whole number"),
        ({"classes": ["batch"]}, "classes: expected names with weights"),
        ({"organisations": {"a/b": 1}}, "organisations: expected a name"),
        ({"organizations": {}}, "expected `tenants`"),
    ],
)
def test_bad_section_is_named(tmp_path: Path, sections: dict[str, Any], fault: str) -> None:
    with pytest.raises(SettingsError, match=fault):
        load_tenants(write(tmp_path, [ADA], **sections))


def test_shared_key_and_empty_or_absent_file_are_refused(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="share one key"):
        load_tenants(write(tmp_path, [ADA, ADA | {"name": "bob"}]))
    with pytest.raises(SettingsError, match="non-empty list"):
        load_tenants(write(tmp_path, []))
    with pytest.raises(SettingsError, match=r"cannot be read .*; FAIRSLATE_TENANTS_FILE names"):
        load_tenants(str(tmp_path / "absent.yaml"))

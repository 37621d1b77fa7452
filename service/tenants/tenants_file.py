"""Reads the tenants file and refuses it by entry. Knows nothing of requests, deficits or queues."""

from __future__ import annotations

import logging
import string
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from service.base.config import SettingsError
from service.gate.job import Level
from service.tenants.tenants import OPEN_TENANT, Tenant, Tenants

logger = logging.getLogger("fairslate.tenants")

MAX_WEIGHT = 1000
SECTIONS = ("classes", "organisations", "tenants")
REQUIRED = ("name", "key_sha256")
OPTIONAL = ("weight", "organisation", "class", "classes", "private", "users")

Levels = Mapping[str, Level]


def load_tenants(path: str) -> Tenants:
    """Reads `classes`, `organisations` and `tenants`; an empty path opens the service to all.

    Raises SettingsError naming the file and the entry.
    """
    if not path:
        logger.warning('no tenants file: one open tenant "%s" serves everybody', OPEN_TENANT.name)
        return Tenants()
    raw = _read(path)
    classes = _levels(path, "classes", raw.get("classes", {}))
    organisations = _levels(path, "organisations", raw.get("organisations", {}))
    listed = raw.get("tenants")
    if not isinstance(listed, list) or not listed:
        raise SettingsError(f"{path}: expected a non-empty list under `tenants`")
    entries = tuple(
        _entry(f"{path}: tenants[{index}]", item, classes, organisations)
        for index, item in enumerate(listed)
    )
    _check_together(path, entries, organisations)
    return Tenants(entries)


def _read(path: str) -> dict[str, Any]:
    try:
        raw = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError, UnicodeDecodeError) as error:
        raise SettingsError(
            f"{path}: cannot be read ({error}); FAIRSLATE_TENANTS_FILE names a YAML file in UTF-8"
        ) from error
    if not isinstance(raw, dict) or raw.keys() - set(SECTIONS):
        raise SettingsError(
            f"{path}: expected `tenants`, a non-empty list, and, optionally, `classes` and "
            "`organisations`"
        )
    return raw


def _levels(path: str, section: str, raw: Any) -> dict[str, Level]:
    if not isinstance(raw, dict):
        raise SettingsError(f"{path}: {section}: expected names with weights, such as acme: 2")
    return {
        _name(f"{path}: {section}", name): Level(name, _weight(f"{path}: {section}.{name}", weight))
        for name, weight in raw.items()
    }


def _entry(where: str, item: Any, classes: Levels, organisations: Levels) -> tuple[str, Tenant]:
    expected = f"{', '.join(REQUIRED)} and, optionally, {', '.join(OPTIONAL)}"
    if not isinstance(item, dict):
        raise SettingsError(f"{where}: expected {expected}, not {item!r}")
    for field in item.keys() - {*REQUIRED, *OPTIONAL}:
        raise SettingsError(f"{where}: {field!r} is no field of a tenant; expected {expected}")
    name, key = _name(f"{where}.name", item.get("name")), item.get("key_sha256")
    if not isinstance(key, str) or len(key) != 64 or set(key) - set("0123456789abcdef"):
        raise SettingsError(f"{where}.key_sha256: expected 64 lower-case hex digits")
    tenant = Tenant(
        name=name,
        weight=_weight(f"{where}.weight", item.get("weight", 1)),
        classes=_classes(where, item, classes),
        organisation=_organisation(where, item, organisations),
        private=_flag(where, item, "private"),
        users=_flag(where, item, "users"),
    )
    return key, tenant


def _classes(where: str, item: dict[str, Any], known: Levels) -> tuple[Level, ...]:
    """The tenant's own class first, then what its requests may choose: by default lower ones."""
    if not known:
        for field in ("class", "classes"):
            if field in item:
                raise SettingsError(f"{where}.{field}: the file names no `classes`; add them")
        return ()
    own = _known(f"{where}.class", item.get("class", next(iter(known))), known)
    lower = [level.name for level in known.values() if level.weight < own.weight]
    listed = item.get("classes", lower)
    if not isinstance(listed, list):
        raise SettingsError(
            f"{where}.classes: expected a list of {', '.join(known)}, not {listed!r}"
        )
    others = [_known(f"{where}.classes", name, known) for name in listed]
    return tuple(dict.fromkeys([own, *others]))


def _organisation(where: str, item: dict[str, Any], known: Levels) -> Level | None:
    if "organisation" not in item:
        return None
    return _known(f"{where}.organisation", item["organisation"], known)


def _known(where: str, name: Any, known: Levels) -> Level:
    if not isinstance(name, str) or name not in known:
        names = ", ".join(known) or "none, add it under `organisations`"
        raise SettingsError(f"{where}: {name!r} is not known; the file names: {names}")
    return known[name]


def _flag(where: str, item: dict[str, Any], field: str) -> bool:
    value = item.get(field, False)
    if not isinstance(value, bool):
        raise SettingsError(f"{where}.{field}: expected true or false, not {value!r}")
    return value


def _name(where: str, name: Any) -> str:
    printable = isinstance(name, str) and name.isprintable() and name.strip(string.whitespace)
    if not printable or "/" in name:
        raise SettingsError(
            f"{where}: expected a name that is not empty and holds no /, not {name!r}"
        )
    assert isinstance(name, str)
    return name


def _weight(where: str, weight: Any) -> int:
    if type(weight) is not int or not 1 <= weight <= MAX_WEIGHT:
        raise SettingsError(
            f"{where}: expected a whole number from 1 to {MAX_WEIGHT}, not {weight!r}"
        )
    return weight


def _check_together(
    path: str, entries: tuple[tuple[str, Tenant], ...], organisations: Levels
) -> None:
    if len({key for key, _ in entries}) < len(entries):
        raise SettingsError(f"{path}: two tenants share one key_sha256; give each its own")
    seen: dict[str, Tenant] = {}
    for index, (_, tenant) in enumerate(entries):
        if seen.setdefault(tenant.name, tenant) != tenant:
            raise SettingsError(
                f"{path}: tenants[{index}]: {tenant.name!r} stands twice; repeat a name only to "
                "give one tenant another key, with all else equal"
            )
        if tenant.organisation is None and tenant.name in organisations:
            raise SettingsError(
                f"{path}: tenants[{index}]: {tenant.name!r} names an organisation too; rename one"
            )

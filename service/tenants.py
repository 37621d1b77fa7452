"""Who asks: API keys to tenants. Knows nothing of requests, deficits or queues."""

from __future__ import annotations

import hashlib
import hmac
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from service.config import SettingsError
from service.errors import UnauthorizedError

logger = logging.getLogger("fairslate.tenants")

MAX_WEIGHT = 1000


@dataclass(frozen=True, slots=True)
class Tenant:
    """Who is billed and isolated; `weight` scales the DLPM quantum."""

    name: str
    weight: int


OPEN_TENANT = Tenant(name="demo", weight=1)


@dataclass(frozen=True, slots=True)
class Tenants:
    """Keys are held and compared as SHA-256 digests only. No entries means one open tenant."""

    entries: tuple[tuple[str, Tenant], ...] = ()

    @property
    def names(self) -> tuple[str, ...]:
        """Names of all tenants in the file's order."""
        return tuple(tenant.name for _, tenant in self.entries) or (OPEN_TENANT.name,)

    def authenticate(self, authorization: str | None) -> Tenant:
        """Takes an `Authorization` header. Raises UnauthorizedError when it names nobody.

        The open tenant needs no key, but a key that is presented must still be known: a client
        which believes that it is somebody must not be billed as "demo".
        """
        if authorization is None and not self.entries:
            return OPEN_TENANT
        digest = hashlib.sha256(_bearer_key(authorization).encode()).hexdigest()
        # Every entry is compared, so that the time taken says nothing about which one matched.
        matches = [tenant for key, tenant in self.entries if hmac.compare_digest(key, digest)]
        if not matches:
            raise UnauthorizedError("the API key is not known; ask the operator for one")
        return matches[0]


def load_tenants(path: str) -> Tenants:
    """Reads `tenants: [{name, key_sha256, weight}]`; an empty path opens the service to all.

    Raises SettingsError naming the file and the entry.
    """
    if not path:
        logger.warning('no tenants file: one open tenant "%s" serves everybody', OPEN_TENANT.name)
        return Tenants()
    try:
        raw = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError, UnicodeDecodeError) as error:
        raise SettingsError(f"{path}: cannot be read ({error})") from error
    listed = raw.get("tenants") if isinstance(raw, dict) else None
    if not isinstance(listed, list) or not listed:
        raise SettingsError(f"{path}: expected a non-empty list under `tenants`")
    entries = tuple(_entry(path, index, item) for index, item in enumerate(listed))
    if len({key for key, _ in entries}) < len(entries):
        raise SettingsError(f"{path}: two tenants share one key_sha256; give each its own")
    return Tenants(entries)


def _bearer_key(authorization: str | None) -> str:
    scheme, _, key = (authorization or "").partition(" ")
    if scheme.lower() != "bearer" or not key.strip():
        raise UnauthorizedError("send the API key as `Authorization: Bearer <key>`")
    return key.strip()


def _entry(path: str, index: int, item: Any) -> tuple[str, Tenant]:
    where = f"{path}: tenants[{index}]"
    if not isinstance(item, dict) or item.keys() - {"name", "key_sha256", "weight"}:
        raise SettingsError(f"{where}: expected name, key_sha256 and, optionally, weight")
    name, key, weight = item.get("name"), item.get("key_sha256"), item.get("weight", 1)
    if not isinstance(name, str) or not name:
        raise SettingsError(f"{where}.name: expected a non-empty string")
    if not isinstance(key, str) or len(key) != 64 or set(key) - set("0123456789abcdef"):
        raise SettingsError(f"{where}.key_sha256: expected 64 lower-case hex digits")
    if type(weight) is not int or not 1 <= weight <= MAX_WEIGHT:
        raise SettingsError(f"{where}.weight: expected a whole number from 1 to {MAX_WEIGHT}")
    return key, Tenant(name, weight)

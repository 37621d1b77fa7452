"""Who asks, and where they stand in the gate's weighted tree. Knows no requests, no queues."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass, field

from service.base.errors import InvalidRequestError, UnauthorizedError
from service.gate.job import Level

NO_USER = "-"
_PLAIN_USER = re.compile(r"[\w.@:-]{1,64}", re.ASCII)


@dataclass(frozen=True, slots=True)
class Tenant:
    """Who is billed and isolated; each weight scales the quantum among its siblings.

    classes: what a request may choose by `priority`, the first one is the default; empty where the
    file names none. private: its prefixes are hashed so that no other tenant can meet them. users:
    its share is split evenly among the users that its requests name.
    """

    name: str
    weight: int = 1
    classes: tuple[Level, ...] = ()
    organisation: Level | None = None
    private: bool = False
    users: bool = False

    @property
    def level(self) -> int:
        """Index of the tenant itself in its paths, all of which are of one length."""
        return bool(self.classes) + (self.organisation is not None)

    @property
    def salt(self) -> str:
        """Goes into the block hashes beside the model's digest; empty shares prefixes with all."""
        return f"tenant:{self.name}" if self.private else ""

    @property
    def nodes(self) -> tuple[str, ...]:
        """Ids of the tenant's nodes in the gate's tree, one per class."""
        above = [self.organisation.name] if self.organisation else []
        classes = [[level.name] for level in self.classes] or [[]]
        return tuple("/".join([*names, *above, self.name]) for names in classes)

    def path(self, user: str | None = None, priority: str | None = None) -> tuple[Level, ...]:
        """Levels from the class down to the user. Raises InvalidRequestError for `priority`."""
        above = [self._class(priority)] if self.classes or priority is not None else []
        above += [self.organisation] if self.organisation else []
        below = [Level(user_name(user))] if self.users else []
        return (*above, Level(self.name, self.weight), *below)

    def _class(self, priority: str | None) -> Level:
        allowed = {level.name: level for level in self.classes}
        name = priority if priority is not None else next(iter(allowed))
        if name not in allowed:
            known = f"use {', '.join(allowed)}" if allowed else "it has no classes, send none"
            raise InvalidRequestError(
                f"priority {name!r} is not open to tenant {self.name!r}; {known}",
                code="unknown_priority",
                param="priority",
            )
        return allowed[name]


OPEN_TENANT = Tenant(name="demo")


@dataclass(frozen=True, slots=True)
class Tenants:
    """Keys are held and compared as SHA-256 digests only. No entries means one open tenant."""

    entries: tuple[tuple[str, Tenant], ...] = ()
    _by_key: dict[str, Tenant] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        first_of_each = dict(reversed(self.entries))
        object.__setattr__(self, "_by_key", first_of_each)

    @property
    def all(self) -> tuple[Tenant, ...]:
        """Every tenant once, in the file's order."""
        return tuple(dict.fromkeys(tenant for _, tenant in self.entries)) or (OPEN_TENANT,)

    def authenticate(self, authorization: str | None) -> Tenant:
        """Takes an `Authorization` header. Raises UnauthorizedError when it names nobody.

        Where there is only the open tenant nobody needs a key, and nobody is asked whether it is
        known: many clients always send one.
        """
        if not self.entries:
            return OPEN_TENANT
        # What time a look-up takes says something of a digest, from which no key can be found.
        digest = hashlib.sha256(bearer_key(authorization).encode()).hexdigest()
        if digest not in self._by_key:
            raise UnauthorizedError("the API key is not known; ask the operator for one")
        return self._by_key[digest]


def bearer_key(authorization: str | None) -> str:
    """The key of an `Authorization: Bearer` header. Raises UnauthorizedError without one."""
    scheme, _, key = (authorization or "").partition(" ")
    if scheme.lower() != "bearer" or not key.strip():
        raise UnauthorizedError("send the API key as `Authorization: Bearer <key>`")
    return key.strip()


def user_name(user: str | None) -> str:
    """A level's name for what a client calls its user: itself if it is plain, else a digest."""
    if user is None:
        return NO_USER
    if _PLAIN_USER.fullmatch(user):
        return user
    # Lone surrogates have passed the JSON parser; two users must not become one for that.
    return f"sha256:{hashlib.sha256(user.encode('utf-8', 'surrogatepass')).hexdigest()[:32]}"

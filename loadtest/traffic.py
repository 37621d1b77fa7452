"""Draws ranking requests from real members and postings, seeded. Knows nothing of HTTP or load.

A tenant is a SOC major group of the O*NET data. Tenants and a tenant's members are drawn by Zipf's
law, members return in sessions: one context, several slates, so that prefixes are worth caching.
"""

from __future__ import annotations

import gzip
import json
import random
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any

TENANT_EXPONENT = 1.1
MEMBER_EXPONENT = 0.9
MEAN_EXTRA_PAGES = 2.0
SLATE_SIZE = 24


@dataclass(frozen=True, slots=True)
class Member:
    """A context and the posting ids of its labelled slate, the first page of a session."""

    text: str
    slate: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Catalogue:
    """What requests are drawn from: posting id to text, and each tenant's members."""

    postings: dict[str, str]
    members: dict[str, list[Member]]


@dataclass(frozen=True, slots=True)
class RankCall:
    """One request; `body` is the JSON of `POST /v1/rank`."""

    tenant: str
    body: dict[str, Any]


def read_rows(path: Path) -> Iterator[dict[str, Any]]:
    """Objects of a gzipped JSON-lines file."""
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        yield from map(json.loads, lines)


def load_catalogue(data: Path, split: str = "test") -> Catalogue:
    """Reads `SPLIT.jsonl.gz` and `items.jsonl.gz` of a data directory."""
    members = defaultdict(list)
    for row in read_rows(data / f"{split}.jsonl.gz"):
        members[row["tenant"]].append(Member(row["prefix"], tuple(row["cand"])))
    postings = {row["id"]: row["text"] for row in read_rows(data / "items.jsonl.gz")}
    return Catalogue(postings, dict(members))


class Zipf:
    """Draws items[rank] with probability proportional to 1 / (rank + 1)^exponent."""

    def __init__(self, items: list[Any], exponent: float) -> None:
        self._items = items
        self._cumulative = list(accumulate((r + 1) ** -exponent for r in range(len(items))))

    def draw(self, generator: random.Random) -> Any:
        return generator.choices(self._items, cum_weights=self._cumulative)[0]


class Traffic:
    """An endless, seeded stream of sessions over a catalogue."""

    def __init__(self, catalogue: Catalogue, seed: int) -> None:
        # Ranks are shuffled by one fixed seed: every user agrees on who the popular tenants are.
        ranks = random.Random(0)
        self._catalogue = catalogue
        self._random = random.Random(seed)
        self._posting_ids = sorted(catalogue.postings)
        self._tenants = Zipf(shuffled(sorted(catalogue.members), ranks), TENANT_EXPONENT)
        self._members = {
            tenant: Zipf(shuffled(members, ranks), MEMBER_EXPONENT)
            for tenant, members in sorted(catalogue.members.items())
        }

    def draw_tenant(self) -> str:
        """A tenant by its share of the traffic."""
        tenant: str = self._tenants.draw(self._random)
        return tenant

    def session(self, tenant: str) -> Iterator[RankCall]:
        """The labelled slate of one member, then slates of random postings for the same member."""
        member: Member = self._members[tenant].draw(self._random)
        yield self._call(tenant, member, member.slate)
        while self._random.random() < MEAN_EXTRA_PAGES / (1 + MEAN_EXTRA_PAGES):
            page = self._random.sample(self._posting_ids, SLATE_SIZE)
            yield self._call(tenant, member, tuple(page))

    def _call(self, tenant: str, member: Member, slate: tuple[str, ...]) -> RankCall:
        candidates = [{"id": name, "text": self._catalogue.postings[name]} for name in slate]
        return RankCall(tenant, {"context": member.text, "candidates": candidates})


def shuffled(items: list[Any], generator: random.Random) -> list[Any]:
    """A shuffled copy."""
    return generator.sample(items, len(items))

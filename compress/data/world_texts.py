"""A new member and a new posting of every occupation, by world. Knows nothing of slates."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from compress.data.generate import World, member, posting
from compress.data.requests import Occupation


@dataclass
class WorldTexts:
    """Keeps one world at a time; a world has the same texts whenever it is asked for.

    key: what draws them beside the world's number, a seed and a number of the caller's own.
    """

    occupations: Sequence[Occupation]
    key: tuple[int, int]
    _last: tuple[int, list[str], list[str]] = field(default=(-1, [], []), init=False)

    def of(self, world: int) -> tuple[list[str], list[str]]:
        """Members and postings, one each by occupation."""
        if self._last[0] != world:
            random = np.random.default_rng([*self.key, world])
            divided = World.divide(self.occupations, random)
            ours = zip(self.occupations, divided.member_facts, strict=True)
            theirs = zip(self.occupations, divided.posting_facts, strict=True)
            members = [member(occupation, facts, random) for occupation, facts in ours]
            postings = [posting(occupation, facts, random) for occupation, facts in theirs]
            self._last = world, members, postings
        return self._last[1:]

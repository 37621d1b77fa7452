"""Cuts the work of a batch into passes that fit the device's buffers. Knows no tensors."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from models.errors import CandidateTooLongError
from models.packing import TokenIds


@dataclass(frozen=True, slots=True)
class Segment:
    """A run of tokens computed in one pass: a candidate, or a missing part of a context.

    It sees itself and the `prefix_tokens` tokens before it, whose keys and values lie in `pages`.
    """

    ids: TokenIds
    prefix_tokens: int
    pages: tuple[int, ...]
    kept: bool  # part of the context: its own keys and values go to `pages`, nobody scores it

    def cut(self, tokens: int) -> tuple[Segment, Segment]:
        """The first `tokens` tokens, and the rest behind them."""
        rest = replace(self, ids=self.ids[tokens:], prefix_tokens=self.prefix_tokens + tokens)
        return replace(self, ids=self.ids[:tokens]), rest

    def shares_prefix(self, other: Segment) -> bool:
        """Whether both see the same keys before their own: such neighbours form a group."""
        return self.pages is other.pages and self.prefix_tokens == other.prefix_tokens


@dataclass(frozen=True, slots=True)
class PassSize:
    """What a pass holds, or the most it may hold."""

    tokens: int = 0
    items: int = 0  # segments that are scored
    groups: int = 0
    pages: int = 0  # of all groups together

    def __add__(self, other: PassSize) -> PassSize:
        return PassSize(
            self.tokens + other.tokens,
            self.items + other.items,
            self.groups + other.groups,
            self.pages + other.pages,
        )

    def fits(self, limits: PassSize) -> bool:
        """Whether no part exceeds its limit."""
        return (
            self.tokens <= limits.tokens
            and self.items <= limits.items
            and self.groups <= limits.groups
            and self.pages <= limits.pages
        )


class PassPlanner:
    """Fills passes in the order segments come, and launches each as it is full.

    A context part that does not fit is continued in the next pass; a candidate moves there whole.
    """

    def __init__(
        self, limits: PassSize, launch: Callable[[Sequence[Segment], PassSize], None]
    ) -> None:
        self._limits = limits
        self._launch = launch
        self._segments: list[Segment] = []
        self._size = PassSize()

    def add(self, segment: Segment) -> None:
        """Raises CandidateTooLongError for a candidate that fits no pass."""
        if segment.kept:
            segment = self._add_parts(segment)
        elif len(segment.ids) > self._limits.tokens:
            raise CandidateTooLongError(
                f"a candidate of {len(segment.ids)} tokens exceeds {self._limits.tokens}, the most "
                "one pass takes; shorten it"
            )
        if not self._with(segment).fits(self._limits):
            self.flush()
        self._take(segment)

    def flush(self) -> None:
        """Launches what is gathered, if anything."""
        if self._segments:
            self._launch(self._segments, self._size)
        self._segments, self._size = [], PassSize()

    def _add_parts(self, segment: Segment) -> Segment:
        """Fills passes with the segment until the rest fits into the one begun, and returns it."""
        while (room := self._limits.tokens - self._size.tokens) < len(segment.ids):
            part, rest = segment.cut(room)
            if part.ids and self._with(part).fits(self._limits):
                self._take(part)
                segment = rest
            self.flush()
        return segment

    def _take(self, segment: Segment) -> None:
        self._size = self._with(segment)
        self._segments.append(segment)

    def _with(self, segment: Segment) -> PassSize:
        """The pass begun, `segment` added."""
        opens = not self._segments or not segment.shares_prefix(self._segments[-1])
        pages = len(segment.pages) if opens else 0
        return self._size + PassSize(len(segment.ids), not segment.kept, opens, pages)

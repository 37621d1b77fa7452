"""What simulated programs send, and how a program goes on. Knows no engine, gate or clock."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import count
from typing import Protocol

NO_DEADLINE = 10**9


@dataclass(frozen=True, slots=True)
class Request:
    """One call of a program: a prompt of whole shared blocks and own tokens, then an output."""

    context: tuple[str, ...]  # block chain
    candidate_tokens: int = 0  # prompt tokens that no other request shares
    output_tokens: int = 0  # what the model will really generate
    output_cap: int = 0  # what it may generate: this is reserved
    produces: tuple[str, ...] = ()  # blocks that the output adds behind the context
    depth: int = 0  # place within its program
    delay_ms: int = 0  # think time before it is sent
    deadline_ms: int = NO_DEADLINE
    deadline_told: bool = True  # to the gate; else it is only measured


class Program(Protocol):
    """A closed loop: the next requests follow from finished ones."""

    def start(self) -> Sequence[Request]:
        """The first requests."""
        ...

    def after(self, request: Request) -> Sequence[Request]:
        """What is sent because `request` is finished; a program without open requests is done."""
        ...


class Names:
    """Gives every new KV block a name of its own, all of one length."""

    def __init__(self) -> None:
        self._counter = count()

    def take(self, blocks: int) -> tuple[str, ...]:
        """Names of `blocks` new blocks."""
        return tuple(f"{next(self._counter):08x}" for _ in range(blocks))

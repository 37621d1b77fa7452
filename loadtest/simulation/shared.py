"""Documents that several tenants read: one opens them, the others follow. Knows no policy or gate.

Who pays for a document is the question of attribution: as the opener computes it and the followers
find it cached, a gate that charges the first toucher makes the opener pay for everybody.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from random import Random

from loadtest.simulation.clients import Client, Gamma
from loadtest.simulation.programs import Single
from loadtest.simulation.requests import Names, Program, Request

FOLLOWERS = 2
PAUSE_MS = 200.0


@dataclass(frozen=True, slots=True)
class ShelfShape:
    """All parameters; tokens unless the name says otherwise."""

    document: int = 1_024
    recent: int = 6  # documents among which followers choose
    eager_share: float = 0.5  # of followers' questions: on documents not yet read
    question: int = 64
    answer: int = 32
    slots: int = 160  # questions that each client has open
    block: int = 128


class Shelf:
    """The documents that were asked about last, and those of them that were read."""

    def __init__(self, shape: ShelfShape) -> None:
        self._shape, self._names = shape, Names()
        first = self._names.take(shape.document // shape.block)
        self._asked = deque([first], maxlen=shape.recent)
        self._read = deque([first], maxlen=shape.recent)

    def open(self, random: Random) -> Program:
        """A question on a new document."""
        document = self._names.take(self._shape.document // self._shape.block)
        self._asked.append(document)
        return Opening(self._ask(document), self._read)

    def follow(self, random: Random) -> Program:
        """A question on a document at hand; some wait for it together with its opener."""
        eager = random.random() < self._shape.eager_share
        return Single(self._ask(random.choice(self._asked if eager else self._read)))

    def _ask(self, document: tuple[str, ...]) -> Request:
        shape = self._shape
        return Request(document, shape.question, shape.answer, shape.answer)


class Opening:
    """The first question on a document; most others hear of it once this one is answered."""

    def __init__(self, request: Request, read: deque[tuple[str, ...]]) -> None:
        self._request, self._read = request, read

    def start(self) -> list[Request]:
        return [self._request]

    def after(self, request: Request) -> list[Request]:
        self._read.append(request.context)
        return []


def readers(shape: ShelfShape) -> list[Client]:
    """The opener and its followers, all with as many questions open."""
    shelf, arrivals = Shelf(shape), Gamma(PAUSE_MS, 1.0, shape.slots)
    opener = Client("opener", shelf.open, arrivals, True, repr(shape))
    return [
        opener,
        *(
            Client(f"follower-{number}", shelf.follow, arrivals, True, "questions on the same")
            for number in range(FOLLOWERS)
        ),
    ]

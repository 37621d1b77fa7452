"""What a simulation counts, by client. Knows no event, gate or engine."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Span:
    """Something of one client that began and ended, in milliseconds."""

    client: int
    began: float
    ended: float

    @property
    def seconds(self) -> float:
        """How long it took."""
        return (self.ended - self.began) / 1e3


@dataclass(frozen=True, slots=True)
class Due:
    """A request with a deadline that was answered or dropped, and whether that was too late."""

    client: int
    ended: float
    missed: bool


@dataclass(frozen=True, slots=True)
class Sample:
    """Services so far, by client, and the prompt tokens that were computed of all."""

    at: float
    delivered: tuple[int, ...]
    charged: tuple[int, ...]
    extend_tokens: int
    prompt_tokens: int


class Totals:
    """Counters and records of one simulation."""

    def __init__(self, clients: int) -> None:
        self.delivered = [0] * clients  # all input + 2 output tokens, as a client sees it
        self.charged = [0] * clients  # as the gate charges it, net of refunds
        self.refundable = [0] * clients  # reserved by running jobs above what they will use
        self.most_refundable = [0] * clients
        self.prompt_tokens = self.extend_tokens = self.output_tokens = 0
        self.programs: list[Span] = []
        self.first_tokens: list[Span] = []
        self.dues: list[Due] = []
        self.samples: list[Sample] = []
        self.idle_with_work = 0  # passes that left a worker idle beside jobs it might have had

    def reserve(self, client: int, tokens: int) -> None:
        """A job begins of which the gate will refund `tokens`."""
        self.refundable[client] += tokens
        self.most_refundable[client] = max(self.most_refundable[client], self.refundable[client])

    def snapshot(self, at: float) -> Sample:
        """The services so far."""
        services = tuple(self.delivered), tuple(self.charged)
        return Sample(at, *services, self.extend_tokens, self.prompt_tokens)

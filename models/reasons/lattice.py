"""A finite set of token sequences as a graph, in which common parts stand once. Knows no words."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from models.errors import FairslateError

Branches = dict[int, "Branches"]  # what may follow: token to node; shared where ways meet again


class LatticeError(FairslateError):
    """A graph that is no lattice, or a sequence that is none of its own."""

    code = "lattice_invalid"


@dataclass(frozen=True)
class Lattice:
    """nodes[n]: edges (token, target) of node n. Ways lead from node 0 to the last node.

    Every target is larger than its node and every node but the last has an edge, so each way ends
    there, whatever is chosen on it. Raises LatticeError for any other graph.
    """

    nodes: tuple[tuple[tuple[int, int], ...], ...]

    def __post_init__(self) -> None:
        last = len(self.nodes) - 1
        if last < 1 or self.nodes[last]:
            raise LatticeError("a lattice needs two nodes and no edge behind its last one")
        for number, edges in enumerate(self.nodes[:-1]):
            if not edges or not all(number < target <= last for _, target in edges):
                raise LatticeError(f"node {number} needs edges that lead on, up to node {last}")
            if len({token for token, _ in edges}) < len(edges):
                raise LatticeError(f"node {number} has two edges of one token")

    @classmethod
    def of(cls, start: Branches) -> Lattice:
        """Of nested branches that all end in one and the same empty node."""
        order: list[Branches] = []
        seen: set[int] = set()

        def visit(node: Branches) -> None:
            seen.add(id(node))
            for target in node.values():
                if id(target) not in seen:
                    visit(target)
            order.append(node)

        visit(start)
        numbers = {id(node): number for number, node in enumerate(reversed(order))}
        return cls(
            tuple(
                tuple((token, numbers[id(target)]) for token, target in node.items())
                for node in reversed(order)
            )
        )

    @property
    def end(self) -> int:
        """The node where every way ends."""
        return len(self.nodes) - 1

    @cached_property
    def longest(self) -> int:
        """Tokens of the longest way."""
        lengths = [0] * len(self.nodes)
        for number in range(self.end - 1, -1, -1):
            lengths[number] = 1 + max(lengths[target] for _, target in self.nodes[number])
        return lengths[0]

    def follow(self, node: int, token: int) -> int:
        """The node behind an edge. Raises LatticeError where there is none."""
        for known, target in self.nodes[node]:
            if known == token:
                return target
        raise LatticeError(f"token {token} does not follow at node {node}")

    def forced(self, node: int) -> tuple[list[int], int]:
        """Tokens that follow without a choice, and the node with a choice, or the end."""
        tokens = []
        while len(self.nodes[node]) == 1:
            token, node = self.nodes[node][0]
            tokens.append(token)
        return tokens, node


def insert(start: Branches, tokens: Sequence[int], end: Branches) -> None:
    """Adds one way from `start` to `end`; nothing may stand in its way but its own beginning."""
    for token in tokens[:-1]:
        start = start.setdefault(token, {})
    assert start.get(tokens[-1], end) is end, "a way ends inside another one"
    start[tokens[-1]] = end

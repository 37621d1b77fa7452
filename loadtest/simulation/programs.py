"""The paper's workloads as closed-loop programs, with every parameter it omits stated here.

Knows no engine, gate or clock. Source: arXiv 2501.14312, section 6.1 with Tables 2 and 3; what is
not there is marked "ours". All lengths are whole KV blocks of `block` tokens, so that a prefix ends
where a block ends. Outputs are capped at 256 tokens. A thought is uniform on multiples of `block`
from 64 tokens up: with all at 256, prompts could not average the 546 tokens of Table 2.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random

from loadtest.simulation.requests import Names, Request

SHORTEST_OUTPUT = 64
OUTPUT_CAP = 256


@dataclass(frozen=True, slots=True)
class TreeShape:
    """Tree of thoughts: height 4 (Table 2), an average prompt of about 546 tokens."""

    branches: int  # bad client of S1: 4, good: 2
    question: int = 64  # tokens, as in GSM8K; bad client of S2: ten times as many
    instruction: int = 32  # ours: prompt text between two thoughts
    height: int = 4
    block: int = 32


@dataclass(frozen=True, slots=True)
class JudgeShape:
    """Branch, solve, merge: one judgement per dimension, then one merged verdict."""

    dimensions: int  # bad client of S1: 16, good: 2
    article: int = 2_688  # tokens; Table 2: 2,701. S2: 608 more for the bad client (paper: 600)
    question: int = 16  # ours: own text of each dimension
    output: int = 256  # Table 2
    block: int = 32


@dataclass(frozen=True, slots=True)
class LibraryShape:
    """Single questions on long documents, in shuffled order, a new set of documents after each."""

    document: int = 21_504  # tokens; Table 2: 21,449. Bad client of S2: twice as many
    documents: int = 40  # ours
    questions: int = 8  # ours: LooGLE has 6,448 questions on 776 documents
    question: int = 32  # ours
    answer: int = 15  # Table 2
    block: int = 128


@dataclass(frozen=True, slots=True)
class ChatShape:
    """Turns of one conversation; each prompt is all that was said before."""

    turns: float = 4.0  # ours: mean of a geometric number
    message: int = 64  # Table 2: 56
    think_ms: int = 10_000  # ours: mean, exponential
    block: int = 32


def drawn_output(random: Random, block: int) -> int:
    """Tokens of one generated text."""
    return block * random.randint(SHORTEST_OUTPUT // block, OUTPUT_CAP // block)


class TreeOfThoughts:
    """Every thought branches on as soon as it is finished."""

    def __init__(self, shape: TreeShape, names: Names, random: Random) -> None:
        self._shape, self._names, self._random = shape, names, random

    def start(self) -> list[Request]:
        return self._thoughts(self._names.take(self._shape.question // self._shape.block), 0)

    def after(self, request: Request) -> list[Request]:
        if request.depth + 1 == self._shape.height:
            return []
        instruction = self._names.take(self._shape.instruction // self._shape.block)
        prompt = request.context + request.produces + instruction
        return self._thoughts(prompt, request.depth + 1)

    def _thoughts(self, prompt: tuple[str, ...], depth: int) -> list[Request]:
        return [self._thought(prompt, depth) for _ in range(self._shape.branches)]

    def _thought(self, prompt: tuple[str, ...], depth: int) -> Request:
        tokens = drawn_output(self._random, self._shape.block)
        text = self._names.take(tokens // self._shape.block)
        return Request(prompt, 0, tokens, OUTPUT_CAP, text, depth)


class Judge:
    """All dimensions at once over one article; the verdict reads the article and all of them."""

    def __init__(self, shape: JudgeShape, names: Names) -> None:
        self._shape = shape
        self._article = names.take(shape.article // shape.block)
        self._open, self._judgements = shape.dimensions, 0

    def start(self) -> list[Request]:
        return [self._ask(self._shape.question, 0) for _ in range(self._shape.dimensions)]

    def after(self, request: Request) -> list[Request]:
        self._open -= 1
        self._judgements += request.output_tokens
        return [] if self._open else [self._ask(self._judgements, 1)]

    def _ask(self, own_tokens: int, depth: int) -> Request:
        output = self._shape.output
        return Request(self._article, own_tokens, output, output, (), depth)


class Library:
    """Draws a client's questions; each is a program of its own."""

    def __init__(self, shape: LibraryShape, names: Names) -> None:
        self._shape, self._names = shape, names
        self._left: list[Request] = []

    def draw(self, random: Random) -> Single:
        """The next question."""
        if not self._left:
            self._left = [
                question for _ in range(self._shape.documents) for question in self._ask()
            ]
            random.shuffle(self._left)
        return Single(self._left.pop())

    def _ask(self) -> list[Request]:
        shape = self._shape
        document = self._names.take(shape.document // shape.block)
        return [Request(document, shape.question, shape.answer, shape.answer)] * shape.questions


class Chat:
    """Each turn's prompt is the whole conversation so far and a new message."""

    def __init__(self, shape: ChatShape, names: Names, random: Random) -> None:
        self._shape, self._names, self._random = shape, names, random

    def start(self) -> list[Request]:
        return [self._turn((), 0, 0)]

    def after(self, request: Request) -> Sequence[Request]:
        if self._random.random() < 1 / self._shape.turns:
            return []
        delay = int(self._random.expovariate(1 / self._shape.think_ms))
        return [self._turn(request.context + request.produces, request.depth + 1, delay)]

    def _turn(self, said: tuple[str, ...], depth: int, delay: int) -> Request:
        block = self._shape.block
        prompt = said + self._names.take(self._shape.message // block)
        tokens = drawn_output(self._random, block)
        text = self._names.take(tokens // block)
        return Request(prompt, 0, tokens, OUTPUT_CAP, text, depth, delay)


class Single:
    """A program of one request."""

    def __init__(self, request: Request) -> None:
        self._request = request

    def start(self) -> list[Request]:
        return [self._request]

    def after(self, request: Request) -> list[Request]:
        return []

"""The clients of every suite. Knows no policy, gate or worker; see `programs` for the programs.

As in the paper one client misbehaves; that there are three of them is read off its plots, where
unfair policies reach a Jain index of 1/3. The paper states no rates: here every client has so many
programs open, in proportion to the workers, that it would take more than its share;
fig1 has half as many again, so that VTC loses as much to LPM as published.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from random import Random
from typing import Any

from loadtest.simulation.clients import Client, Gamma
from loadtest.simulation.programs import (
    Chat,
    ChatShape,
    Judge,
    JudgeShape,
    Library,
    LibraryShape,
    Single,
    TreeOfThoughts,
    TreeShape,
)
from loadtest.simulation.requests import Names, Program, Request
from service.gate.job import Level

CLIENTS = 3  # the first one misbehaves
PAUSE_MS, PAUSE_SHAPE = 2_000.0, 1.0  # between two programs of one slot
TREE_SLOTS = 32  # programs that a client has open, per worker
JUDGE_SLOTS = 96
QUESTION_SLOTS = 160
CHAT_SLOTS = 100
GREEDY = 3  # S1 of long-context QA: the bad client's request rate over the others'
OVERLOAD_PER_S = (1.5, 3.0)
OVERLOAD_TOKENS = 256  # input, and output
SYBIL_IDS, SYBIL_RIVALS = 1_000, 3
SYBIL_SLOTS, RIVAL_SLOTS = 1_000, 50
SYBIL_TOKENS = (500, 1_500)

Maker = Callable[[Random], Program]


def panel(name: str, load: float) -> list[Client]:
    """Clients of one panel: s1 or s2, then tot, judge, qa or chat; `load` counts workers."""
    setting, workload = name.split("-")
    return PANELS[workload](setting, load)


def tree_of_thoughts(setting: str, load: float) -> list[Client]:
    """S1: the bad client branches four times instead of twice; S2: its questions are 10x longer.

    S0: it behaves like the others.
    """
    good = TreeShape(branches=2)
    bad = {"s0": good, "s1": TreeShape(branches=4), "s2": TreeShape(branches=2, question=640)}
    names = Names()
    return clients(
        lambda shape: lambda random: TreeOfThoughts(shape, names, random),
        [bad[setting], good],
        [round(TREE_SLOTS * load)] * CLIENTS,
    )


def judge(setting: str, load: float) -> list[Client]:
    """S1: the bad client asks for 16 dimensions, not 2; S2: it puts 608 tokens before articles."""
    good = JudgeShape(dimensions=2)
    bad = JudgeShape(dimensions=16) if setting == "s1" else JudgeShape(dimensions=2, article=3_296)
    names = Names()
    return clients(
        lambda shape: lambda random: Judge(shape, names),
        [bad, good],
        [round(JUDGE_SLOTS * load)] * CLIENTS,
    )


def questions(setting: str, load: float) -> list[Client]:
    """S1: the bad client asks three times as often; S2: its documents are twice as long."""
    rate = GREEDY if setting == "s1" else 1
    good = LibraryShape(documents=round(LibraryShape().documents * load))
    bad = LibraryShape(
        documents=good.documents * rate, document=good.document * (1 if setting == "s1" else 2)
    )
    names = Names()
    slots = [round(QUESTION_SLOTS * load) * share for share in (rate, 1, 1)]
    return clients(lambda shape: Library(shape, names).draw, [bad, good], slots)


def chat(setting: str, load: float) -> list[Client]:
    """Conversations of four turns on average; the bad client has three times as many open."""
    names, slots = Names(), round(CHAT_SLOTS * load)
    return clients(
        lambda shape: lambda random: Chat(shape, names, random),
        [ChatShape(), ChatShape()],
        [GREEDY * slots, slots, slots],
    )


def clients(
    program: Callable[[Any], Maker], shapes: Sequence[Any], slots: Sequence[int]
) -> list[Client]:
    """One bad client of the first shape and good ones of the second."""
    made = []
    for index, open_programs in enumerate(slots):
        shape = shapes[min(index, 1)]
        arrivals = Gamma(PAUSE_MS, PAUSE_SHAPE, open_programs)
        name = f"client-{index}"
        made.append(Client(name, program(shape), arrivals, index > 0, repr(shape)))
    return made


def overload() -> list[Client]:
    """VTC's two clients above capacity: 256 tokens in, 256 out, lengths known, constant gaps."""
    request = Request((), OVERLOAD_TOKENS, OVERLOAD_TOKENS, OVERLOAD_TOKENS)
    return [
        Client(
            name=f"client-{index}",
            program=lambda random: Single(request),
            arrivals=Gamma(1e3 / rate, 0.0),
            good=rate == min(OVERLOAD_PER_S),
            about=f"{OVERLOAD_TOKENS} tokens in and out",
        )
        for index, rate in enumerate(OVERLOAD_PER_S)
    ]


def sybil(split: str) -> list[Client]:
    """A tenant as one id ("whole"), as 1,000 users or as 1,000 tenants, beside three others."""
    ids = [f"id-{number:04d}" for number in range(SYBIL_IDS)]
    paths = {
        "whole": ((Level("splitter"), Level("-")),),
        "users": tuple((Level("splitter"), Level(name)) for name in ids),
        "tenants": tuple((Level(name), Level("-")) for name in ids),
    }[split]
    rivals = [(f"tenant-{number}", RIVAL_SLOTS) for number in range(SYBIL_RIVALS)]
    others = [((Level(name), Level("-")),) for name, _ in rivals]
    return [
        Client(
            name=name,
            program=draw_sized,
            arrivals=Gamma(1.0, 1.0, slots),
            good=name != "splitter",
            about=f"{SYBIL_TOKENS} tokens",
            paths=path,
        )
        for (name, slots), path in zip(
            [("splitter", SYBIL_SLOTS), *rivals], [paths, *others], strict=True
        )
    ]


def draw_sized(random: Random) -> Program:
    """One scoring request without a context."""
    return Single(Request((), random.randint(*SYBIL_TOKENS)))


PANELS = {"tot": tree_of_thoughts, "judge": judge, "qa": questions, "chat": chat}

"""Scores while memory runs out, in a process of its own: it gets a little more at each try.

Prints a line for each limit, "refused" or what was scored. Knows no assertion.
"""

from __future__ import annotations

import contextlib
import random
import resource
from dataclasses import replace
from pathlib import Path

from models.errors import OutOfMemoryError
from tests.models.engines.native import PLAIN, drawn, job, logits, native_engine, random_decoder

PIECE, STEPS = 2 << 20, 32  # bytes
UNLIMITED = (resource.RLIM_INFINITY, resource.RLIM_INFINITY)


def main() -> None:
    """Four threads, a context and candidates: a pass that takes some ten megabytes."""
    engine = native_engine(random_decoder(replace(PLAIN, intermediate_size=8192)), threads=4)
    rng = random.Random(1)
    jobs = [job(drawn(rng, 500), [drawn(rng, 60) for _ in range(12)])]
    engine.score([job((1,), [(2,)])])
    resource.setrlimit(resource.RLIMIT_AS, (_mapped(), resource.RLIM_INFINITY))
    ballast = _all_there_is()
    for _ in range(STEPS):
        del ballast[-1:]
        try:
            said = " ".join(map(str, logits(engine, jobs)))
        except (OutOfMemoryError, MemoryError, RuntimeError) as error:  # ours, Python's, torch's
            said = f"refused {type(error).__name__}"
        print(said)
    resource.setrlimit(resource.RLIMIT_AS, UNLIMITED)
    print(" ".join(map(str, logits(engine, jobs))))


def _all_there_is() -> list[bytearray]:
    pieces = []
    with contextlib.suppress(MemoryError):
        while True:
            pieces.append(bytearray(PIECE))
    return pieces


def _mapped() -> int:
    """Bytes of address space in use."""
    return int(Path("/proc/self/statm").read_text("ascii").split()[0]) * resource.getpagesize()


if __name__ == "__main__":
    main()

"""Keeps two runs of recipes out of each other's working folder. Knows no recipe."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from compress.stages.stage import RecipeError


@contextmanager
def alone_in(work: Path) -> Iterator[None]:
    """Two runs in one folder would take each other's stages away half written.

    Raises RecipeError while another process holds it; the kernel lets it go when that one dies.
    """
    work.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(work, os.O_RDONLY)
    try:
        _lock(descriptor, work)
        yield
    finally:
        os.close(descriptor)


def _lock(descriptor: int, work: Path) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise RecipeError(
            f"another run is at work in {work}; wait until it ends or name another --out"
        ) from error

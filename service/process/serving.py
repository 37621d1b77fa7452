"""Tells a server's engines whether its API processes still serve. Knows nothing of what they serve.

The processes of one server have one parent, BentoML's arbiter. Each that answers calls locks a byte
of one file, the one at the parent's process id, and the kernel lets go of it for the dead.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

NAME = "serving.lock"  # in the server's own folder, which no cleaner of temporary files looks into
POLL_SECONDS = 0.05

logger = logging.getLogger("fairslate.serving")


@contextlib.contextmanager
def serving(folder: Path) -> Iterator[None]:
    """This process answers calls while the block lasts; one block at a time in a process.

    Where the folder cannot be written, engines do not wait for it when the server stops.
    """
    try:
        file = _opened(folder)
    except OSError as error:
        logger.warning("a stop will not answer what waits: %s; make it writable", error)
        yield
        return
    with contextlib.closing(file):
        fcntl.lockf(file, fcntl.LOCK_SH, 1, os.getppid())
        yield


def outlast_serving(folder: Path, patience_s: float) -> bool:
    """Waits until no process of this server answers calls; False when the patience ends first."""
    patience_ends = time.monotonic() + patience_s
    while _somebody_serves(folder):
        if time.monotonic() >= patience_ends:
            return False
        time.sleep(POLL_SECONDS)
    return True


def _somebody_serves(folder: Path) -> bool:
    try:
        file = _opened(folder)
    except OSError:
        return False
    with contextlib.closing(file):
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, os.getppid())
        except OSError:
            return True
        return False


def _opened(folder: Path) -> BinaryIO:
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    return (folder / NAME).open("a+b")

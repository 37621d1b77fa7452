"""Tells a server's engines whether its API processes still serve. Knows nothing of what they serve.

The processes of one server have one parent, BentoML's arbiter. Each that answers calls locks a byte
of one file, the one at the parent's process id, and the kernel lets go of it for the dead.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

POLL_SECONDS = 0.05


@contextlib.contextmanager
def serving() -> Iterator[None]:
    """This process answers calls while the block lasts; one block at a time in a process."""
    with _opened() as file:
        fcntl.lockf(file, fcntl.LOCK_SH, 1, os.getppid())
        yield


def outlast_serving(patience_s: float) -> bool:
    """Waits until no process of this server answers calls; False when the patience ends first."""
    patience_ends = time.monotonic() + patience_s
    while _somebody_serves():
        if time.monotonic() >= patience_ends:
            return False
        time.sleep(POLL_SECONDS)
    return True


def _somebody_serves() -> bool:
    with _opened() as file:
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, os.getppid())
        except OSError:
            return True
        return False


@contextlib.contextmanager
def _opened() -> Iterator[int]:
    path = Path(tempfile.gettempdir()) / f"fairslate-{os.getuid()}.serving"
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        yield descriptor
    finally:
        os.close(descriptor)

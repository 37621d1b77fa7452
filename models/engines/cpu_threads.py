"""Gives every engine process CPUs of its own. Knows no model; to be called before threads start."""

from __future__ import annotations

import os


def claim_cpus(worker: int, threads: int) -> tuple[int, ...]:
    """Binds this process to the `worker`-th run of `threads` among the CPUs it may use.

    Returns them; () where there are not as many, and then the process stays as free as it was.
    """
    if not hasattr(os, "sched_setaffinity"):
        return ()
    allowed = sorted(os.sched_getaffinity(0))
    mine = allowed[worker * threads : (worker + 1) * threads]
    if len(mine) < threads:
        return ()
    os.sched_setaffinity(0, mine)
    return tuple(mine)

"""Ends this process when the work that it lives for fails. Knows nothing of the work."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Callable, Coroutine
from typing import Any

logger = logging.getLogger("fairslate.supervision")


def or_exit(target: Callable[[], None]) -> Callable[[], None]:
    """Wraps a thread's target: when it raises, the process ends, so that BentoML starts another.

    A process whose loop is dead looks alive to everybody, and answers nobody.
    """

    def run() -> None:
        try:
            target()
        except BaseException as error:
            _end_process(error)

    return run


def run_or_exit(work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
    """The same for a task of the running event loop; cancelling the task is no failure."""

    def check(task: asyncio.Task[None]) -> None:
        error = None if task.cancelled() else task.exception()
        if error is not None:
            _end_process(error)

    task = asyncio.create_task(work)
    task.add_done_callback(check)
    return task


def _end_process(error: BaseException) -> None:
    logger.critical("what this process lives for has failed", exc_info=error)
    os._exit(1)

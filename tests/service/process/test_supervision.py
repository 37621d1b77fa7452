"""A process whose work fails ends; one whose work is cancelled or done does not."""

from __future__ import annotations

import asyncio
import subprocess
import sys

import pytest

from service.process.supervision import or_exit, run_or_exit

THREAD = """
import threading
from service.process.supervision import or_exit

def fail():
    raise ValueError("the loop is dead")

threading.Thread(target=or_exit(fail)).start()
threading.Event().wait()
"""
TASK = """
import asyncio
from service.process.supervision import run_or_exit

async def fail():
    raise ValueError("the loop is dead")

async def serve():
    task = run_or_exit(fail())
    await asyncio.Event().wait()

asyncio.run(serve())
"""


@pytest.mark.parametrize("program", [THREAD, TASK])
def test_a_process_ends_with_its_work_and_says_why(program: str) -> None:
    command = [sys.executable, "-c", program]
    run = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60.0)
    assert run.returncode == 1
    assert "ValueError: the loop is dead" in run.stderr


def test_work_that_ends_or_is_cancelled_ends_no_process(caplog: pytest.LogCaptureFixture) -> None:
    async def serve() -> str:
        cancelled = run_or_exit(asyncio.sleep(3600))
        done = run_or_exit(asyncio.sleep(0))
        await done
        cancelled.cancel()
        await asyncio.gather(cancelled, return_exceptions=True)
        return "still here"

    assert asyncio.run(serve()) == "still here"
    assert not caplog.records
    done: list[int] = []
    or_exit(lambda: done.append(1))()
    assert done == [1]

"""An engine sees whether processes with the same parent as its own still answer calls."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

SERVES = """
import sys
from service.serving import serving
with serving():
    print("serves", flush=True)
    sys.stdin.read()
"""
OUTLASTS = "from service.serving import outlast_serving; print(outlast_serving({patience_s}))"
OF_ANOTHER_SERVER = """
import subprocess, sys
print(subprocess.run([sys.executable, "-c", sys.argv[1]], capture_output=True, text=True).stdout)
"""


@contextmanager
def api_process() -> Iterator[subprocess.Popen[str]]:
    """A child of this process that serves until its input ends."""
    with subprocess.Popen(
        [sys.executable, "-c", SERVES], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout
        assert process.stdout.readline() == "serves\n"
        yield process


def outlasted(patience_s: float, *around: str) -> bool:
    """What another child hears, or a child of that."""
    program = OUTLASTS.format(patience_s=patience_s)
    command = [sys.executable, "-c", *around, program]
    return "True" in subprocess.run(command, check=True, capture_output=True, text=True).stdout


@pytest.mark.timeout(60)
@pytest.mark.parametrize("killed", [True, False])
def test_an_engine_goes_on_until_the_last_api_process_has_ended(killed: bool) -> None:
    with api_process() as staying, api_process() as first:
        first.communicate()
        assert not outlasted(0.0)
        if killed:
            staying.kill()
        staying.communicate()
        assert outlasted(50.0)


def test_nobody_waits_for_the_processes_of_another_server() -> None:
    with api_process():
        assert outlasted(0.0, OF_ANOTHER_SERVER)

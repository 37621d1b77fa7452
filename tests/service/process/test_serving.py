"""An engine sees whether processes with the same parent as its own still answer calls."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from service.process.serving import outlast_serving, serving

SERVES = """
import sys
from pathlib import Path
from service.process.serving import serving
with serving(Path(sys.argv[1])):
    print("serves", flush=True)
    sys.stdin.read()
"""
OUTLASTS = """
from pathlib import Path
from service.process.serving import outlast_serving
print(outlast_serving(Path({folder!r}), {patience_s}))
"""
OF_ANOTHER_SERVER = """
import subprocess, sys
print(subprocess.run([sys.executable, "-c", sys.argv[1]], capture_output=True, text=True).stdout)
"""


@contextmanager
def api_process(folder: Path) -> Iterator[subprocess.Popen[str]]:
    """A child of this process that serves until its input ends."""
    with subprocess.Popen(
        [sys.executable, "-c", SERVES, str(folder)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout
        assert process.stdout.readline() == "serves\n"
        yield process


def outlasted(folder: Path, patience_s: float, *around: str) -> bool:
    """What another child hears, or a child of that."""
    program = OUTLASTS.format(folder=str(folder), patience_s=patience_s)
    command = [sys.executable, "-c", *around, program]
    return "True" in subprocess.run(command, check=True, capture_output=True, text=True).stdout


@pytest.mark.timeout(60)
@pytest.mark.parametrize("killed", [True, False])
def test_an_engine_goes_on_until_the_last_api_process_has_ended(
    tmp_path: Path, killed: bool
) -> None:
    with api_process(tmp_path) as staying, api_process(tmp_path) as first:
        first.communicate()
        assert not outlasted(tmp_path, 0.0)
        if killed:
            staying.kill()
        staying.communicate()
        assert outlasted(tmp_path, 50.0)


def test_nobody_waits_for_the_processes_of_another_server(tmp_path: Path) -> None:
    with api_process(tmp_path):
        assert outlasted(tmp_path, 0.0, OF_ANOTHER_SERVER)


def test_a_folder_that_cannot_be_written_keeps_nobody_from_serving(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / "file"
    folder.write_text("no folder")
    with serving(folder):
        assert outlast_serving(folder, 0.0)
    [record] = caplog.records
    assert record.getMessage().startswith("a stop will not answer what waits")

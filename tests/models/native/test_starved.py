"""The C++ decoder where memory runs out: an error or the right score, never the process's end."""

from __future__ import annotations

import subprocess
import sys

from tests.models.engines.native import needs_native

pytestmark = needs_native


def test_a_pass_without_memory_is_refused_and_spoils_nothing() -> None:
    command = [sys.executable, "-m", "tests.models.native.starved"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    *limited, free = done.stdout.splitlines()
    scored = [line for line in limited if not line.startswith("refused")]
    assert "refused OutOfMemoryError" in limited
    assert set(scored) == {free}

"""Names the sources and the machine of a figure in few words. Knows no torch and no GPU."""

from __future__ import annotations

import os
import platform
import subprocess
from pathlib import Path
from typing import Any


def conditions() -> dict[str, Any]:
    """What stands first in each kept file of the service, as in those of `loadtest`."""
    return {"commit": commit(), "cores": os.cpu_count(), "python": platform.python_version()}


def commit() -> str:
    """Short hash of the sources, + for uncommitted changes; the variable COMMIT overrides."""
    if noted := os.environ.get("COMMIT"):
        return noted
    root = Path(__file__).parents[2]
    try:
        command = ["git", "describe", "--always", "--dirty=+", "--exclude=*"]
        run = subprocess.run(command, cwd=root, check=True, capture_output=True, text=True)
    except (OSError, subprocess.CalledProcessError):
        return ""
    return run.stdout.strip()

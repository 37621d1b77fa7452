"""Writes files whole or not at all, so that a kill leaves the old one. Knows no content."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


def write_json(path: Path, content: Any) -> None:
    """Readable, one entry a line. Raises OSError, as `write_text`."""
    write_text(path, json.dumps(content, indent=1) + "\n")


def write_text(path: Path, text: str) -> None:
    """Written beside and renamed. Raises OSError where that fails, and leaves nothing beside."""
    beside = unfinished_name(path)
    try:
        beside.write_text(text, encoding="utf-8")
        beside.replace(path)
    except OSError:
        beside.unlink(missing_ok=True)
        raise


def unfinished_name(path: Path) -> Path:
    """What is beside a file while it is written; a kill leaves it there."""
    return path.with_name(path.name + ".writing")

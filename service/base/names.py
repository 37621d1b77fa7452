"""Names that no other process gives. Knows nothing of what they are given to."""

from __future__ import annotations

import itertools
import uuid

_PROCESS = uuid.uuid4().hex[:20]
_numbers = itertools.count()


def new_name() -> str:
    """32 hexadecimal digits; not secret. A random one for each takes longer than to refuse."""
    return f"{_PROCESS}{next(_numbers):012x}"

"""Names never repeat and look alike."""

from __future__ import annotations

import re

from service.names import new_name


def test_names_differ_and_are_32_hexadecimal_digits() -> None:
    names = [new_name() for _ in range(1000)]
    assert len(set(names)) == 1000
    assert all(re.fullmatch("[0-9a-f]{32}", name) for name in names)

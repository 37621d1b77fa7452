"""Names never repeat and look alike."""

from __future__ import annotations

import re
import subprocess
import sys

from service.base.names import new_name


def test_names_differ_and_are_32_hexadecimal_digits() -> None:
    names = [new_name() for _ in range(1000)]
    assert len(set(names)) == 1000
    assert all(re.fullmatch("[0-9a-f]{32}", name) for name in names)


def test_another_process_gives_other_names() -> None:
    command = [sys.executable, "-c", "from service.base.names import new_name; print(new_name())"]
    given = [subprocess.check_output(command, text=True) for _ in range(2)]
    assert given[0] != given[1]

"""What processes share: alone everything is one's own; together see test_resume."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from compress.stages import parallel
from compress.stages.stage import RecipeError


def test_a_process_alone_has_all_rows_and_does_everything_itself() -> None:
    assert (parallel.world(), parallel.rank()) == (1, 0)
    assert list(parallel.share(range(3))) == [0, 1, 2]
    assert parallel.first(lambda: 7) == 7


def test_two_processes_part_the_rows_and_odd_rows_are_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(parallel, "world", lambda: 2)
    parts = []
    for rank in (0, 1):
        monkeypatch.setattr(parallel, "rank", lambda rank=rank: rank)
        parts.append(list(parallel.share(range(4))))
    assert parts == [[0, 2], [1, 3]]
    with pytest.raises(RecipeError, match="choose a multiple"):
        parallel.share(range(3))


@pytest.mark.parametrize(
    ("started_by", "cleaned_up"), [({}, True), ({"TORCHELASTIC_RUN_ID": "1"}, False)]
)
def test_a_process_of_torchrun_ends_with_its_code_and_without_pythons_ending(
    started_by: dict[str, str], cleaned_up: bool
) -> None:
    ending = (
        "import atexit, sys; from compress.stages import parallel;"
        "atexit.register(print, 'cleaned up'); print('written'); parallel.end(3)"
    )
    environment = {name: value for name, value in os.environ.items() if "TORCHELASTIC" not in name}
    ended = subprocess.run(
        [sys.executable, "-c", ending],
        env=environment | started_by,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert ended.returncode == 3, ended.stderr
    assert ended.stdout.split("\n")[0] == "written"
    assert ("cleaned up" in ended.stdout) is cleaned_up

"""What processes share: alone everything is one's own; together see test_resume."""

from __future__ import annotations

import pytest

from compress import parallel
from compress.stage import RecipeError


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

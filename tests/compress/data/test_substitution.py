"""Words that give way: the same one everywhere, whatever its case, and nothing else."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from compress.data.substitution import substituted, substitutions

NEAR = {f"word{chr(97 + i)}": (f"near{chr(97 + i)}", "other") for i in range(26)}


def test_only_whole_words_give_way_in_any_case() -> None:
    table = {"weld": "braze", "tools": "spoons"}
    assert substituted("Weld, welder; TOOLS: weld.", table) == "braze, welder; spoons: braze."
    assert substituted("an ax is no tool", {"ax": "saw", "an": "a"}) == "an ax is no tool"


@given(st.integers(0, 2**32))
def test_a_table_holds_a_share_of_the_words_and_their_own_neighbours(seed: int) -> None:
    table = substitutions(NEAR, np.random.default_rng(seed))
    assert table == substitutions(NEAR, np.random.default_rng(seed))
    assert all(other in NEAR[word] for word, other in table.items())
    assert len(table) < len(NEAR)


def test_tables_differ_in_size_and_in_what_stands_for_a_word() -> None:
    tables = [substitutions(NEAR, np.random.default_rng(seed)) for seed in range(40)]
    sizes = [len(table) / len(NEAR) for table in tables]
    assert min(sizes) < 0.25 < 0.45 < max(sizes)
    said = {table["worda"] for table in tables if "worda" in table}
    assert said == {"neara", "other"}


def test_no_neighbours_change_nothing() -> None:
    assert substitutions({}, np.random.default_rng(0)) == {}

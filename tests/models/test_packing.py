"""Where tokens, positions and bounds land in a packed batch."""

from __future__ import annotations

from models.packing import PrefixGroup, pack

BATCH = pack([PrefixGroup(100, [(1, 2, 3), (4,)]), PrefixGroup(0, [(5, 6)]), PrefixGroup(7, [])])


def test_tokens_stand_in_order() -> None:
    assert BATCH.token_ids.tolist() == [1, 2, 3, 4, 5, 6]


def test_positions_restart_after_each_prefix() -> None:
    assert BATCH.positions.tolist() == [100, 101, 102, 100, 0, 1]


def test_last_tokens_end_their_items() -> None:
    assert BATCH.last_tokens.tolist() == [2, 3, 5]


def test_bounds_of_items_groups_and_prefixes() -> None:
    assert BATCH.layout.cu_seqlens == (0, 3, 4, 6)
    assert BATCH.layout.cu_queries == (0, 4, 6, 6)
    assert BATCH.layout.cu_prefixes == (0, 100, 100, 107)

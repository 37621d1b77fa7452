"""Passes stay within their limits and lose no token; what they hold is laid out as it is read."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from models.engines.pass_inputs import NOT_KEPT, PassInputs, PassShape, fill_inputs
from models.engines.passes import PassPlanner, PassSize, Segment
from models.errors import CandidateTooLongError

LIMITS = PassSize(tokens=20, items=3, groups=3, pages=12)
SHAPE = PassShape(tokens=32, items=4, groups=6, pages=16, tile_tokens=4)


def plan(segments: Sequence[Segment]) -> list[tuple[list[Segment], PassSize]]:
    passes: list[tuple[list[Segment], PassSize]] = []
    planner = PassPlanner(LIMITS, lambda taken, size: passes.append((list(taken), size)))
    for segment in segments:
        planner.add(segment)
    planner.flush()
    planner.flush()
    return passes


def context(tokens: int, first: int = 0, pages: tuple[int, ...] = (7, 3)) -> Segment:
    return Segment(tuple(range(tokens)), first, pages, kept=True)


def candidate(tokens: int, prefix: int = 8, pages: tuple[int, ...] = (7, 3)) -> Segment:
    return Segment(tuple(range(100, 100 + tokens)), prefix, pages, kept=False)


def test_a_long_context_is_continued_in_the_next_pass() -> None:
    passes = plan([candidate(5, 0, ()), context(50)])
    parts = [segment for taken, _ in passes for segment in taken if segment.kept]
    assert [(len(part.ids), part.prefix_tokens) for part in parts] == [(15, 0), (20, 15), (15, 35)]
    assert sum((part.ids for part in parts), ()) == tuple(range(50))


def test_a_candidate_moves_to_the_next_pass_whole() -> None:
    passes = plan([candidate(15), candidate(6), candidate(20)])
    assert [[len(segment.ids) for segment in taken] for taken, _ in passes] == [[15], [6], [20]]


def test_a_candidate_larger_than_a_pass_is_refused() -> None:
    with pytest.raises(CandidateTooLongError, match="21 tokens exceeds 20"):
        plan([candidate(21)])


def test_nothing_planned_launches_nothing() -> None:
    assert plan([]) == []


SEGMENTS = st.builds(
    lambda tokens, prefix, pages, kept: (
        context(3 * tokens, prefix, tuple(pages))
        if kept
        else candidate(tokens, prefix, tuple(pages))
    ),
    st.integers(1, 20),
    st.integers(0, 8),
    st.lists(st.integers(1, 9), max_size=6),
    st.booleans(),
)


@given(st.lists(SEGMENTS, max_size=12))
def test_no_pass_exceeds_its_limits_and_no_token_is_lost(segments: list[Segment]) -> None:
    passes = plan(segments)
    for taken, size in passes:
        assert size.fits(LIMITS)
        assert size.tokens == sum(len(segment.ids) for segment in taken) > 0
        assert size.items == sum(not segment.kept for segment in taken)
    planned = [ids for taken, _ in passes for segment in taken for ids in segment.ids]
    assert planned == [ids for segment in segments for ids in segment.ids]
    scored = [segment for taken, _ in passes for segment in taken if not segment.kept]
    assert scored == [segment for segment in segments if not segment.kept]


def filled(segments: Sequence[Segment], page_size: int = 4) -> tuple[PassInputs, int]:
    buffer = torch.full((SHAPE.buffer_size,), 99, dtype=torch.int32)
    inputs = PassInputs.within(buffer, SHAPE)
    return inputs, fill_inputs(inputs, segments, page_size)


PAGES = (7, 3)
SEGMENT_LIST = [
    Segment((1, 2, 3), 3, PAGES, kept=True),
    Segment((4, 5, 6, 7, 8), 6, PAGES, kept=False),
    Segment((9,), 6, PAGES, kept=False),
    Segment((10, 11), 0, (), kept=False),
]


def test_tokens_positions_and_last_rows() -> None:
    inputs, scored = filled(SEGMENT_LIST)
    assert inputs.token_ids.tolist() == [*range(1, 12), *[0] * 21]
    assert inputs.positions.tolist() == [3, 4, 5, 6, 7, 8, 9, 10, 6, 0, 1, *[0] * 21]
    assert inputs.item_starts.tolist() == [0, 0, 0, *[3] * 5, 8, 9, 9, *[0] * 21]
    assert (scored, inputs.last_rows.tolist()) == (3, [7, 8, 10, 0])


def test_only_context_tokens_have_cells() -> None:
    inputs, _ = filled(SEGMENT_LIST)
    assert inputs.slots.tolist() == [7 * 4 + 3, 3 * 4, 3 * 4 + 1, *[NOT_KEPT] * 29]


def test_groups_share_their_prefix() -> None:
    inputs, _ = filled(SEGMENT_LIST)
    assert inputs.prefix_lengths.tolist() == [3, 6, 0, 0, 0, 0]
    assert inputs.page_offsets.tolist()[:3] == [0, 2, 4]
    assert inputs.page_ids.tolist() == [7, 3, 7, 3, *[0] * 12]


def test_tiles_cut_groups_those_with_most_keys_first() -> None:
    inputs, _ = filled(SEGMENT_LIST)
    used = inputs.tile_stops > inputs.tile_starts
    tiles = torch.stack((inputs.tile_starts, inputs.tile_stops, inputs.tile_groups), 1)[used]
    assert tiles.tolist() == [[7, 9, 1], [3, 7, 1], [0, 3, 0], [9, 11, 2]]


def test_fields_lie_apart_and_aligned() -> None:
    buffer = torch.arange(SHAPE.buffer_size, dtype=torch.int32)
    inputs = PassInputs.within(buffer, SHAPE)
    fields = [inputs.token_ids, inputs.slots, inputs.last_rows, inputs.tile_stops, inputs.page_ids]
    assert all(int(field[0]) % 16 == 0 for field in fields)
    assert len(np.unique(torch.cat(fields).numpy())) == sum(map(len, fields))

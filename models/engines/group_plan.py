"""Turns a group into segments: what its context lacks, then its candidates. Knows no device."""

from __future__ import annotations

from models.engines.paged_cache import PageReservation
from models.engines.passes import PassPlanner, Segment
from models.engines.runner import ContextGroup


def plan_group(
    group: ContextGroup, planner: PassPlanner, reservation: PageReservation, block_size: int
) -> int:
    """Adds the group's work to the planner; returns how many tokens of its context were held.

    Passes begun are launched first where the group needs pages that they still read.
    """
    if reservation.needs_spare(group.chain):
        planner.flush()
        reservation.return_spare()
    context = reservation.pages(group.chain)
    cached = min(context.held_blocks * block_size, len(group.ids))
    if cached < len(group.ids):
        planner.add(Segment(group.ids[cached:], cached, context.pages, kept=True))
    for ids in group.candidates:
        planner.add(Segment(ids, len(group.ids), context.pages, kept=False))
    return cached

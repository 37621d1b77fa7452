"""A row says on which side of its target a figure is."""

from __future__ import annotations

from operator import ge, le

from compress.benches.rows import figure


def test_a_figure_is_met_on_its_own_side_of_the_target() -> None:
    assert figure("share", 0.9, 0.8, ge).met
    assert not figure("seconds", 0.9, 0.8, le).met

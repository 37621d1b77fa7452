"""Plots: well-formed SVG, values where they belong, ticks within the axis."""

from __future__ import annotations

from xml.etree import ElementTree

import pytest

from compress.recipes.plots import HEIGHT, LEFT, WIDTH, Axis, bars, lines, points

SVG = "{http://www.w3.org/2000/svg}"


def test_dots_stand_where_their_values_say() -> None:
    x, y = Axis("size", 1, 100, log=True), Axis("quality", 0, 1)
    root = ElementTree.fromstring(points(x, y, [("a & b", (10, 0.5)), ("c", (100, 1))]))
    first, second = root.iter(SVG + "circle")
    assert float(first.attrib["cx"]) == pytest.approx((LEFT + float(second.attrib["cx"])) / 2)
    assert float(first.attrib["cy"]) > float(second.attrib["cy"]) > 0
    assert "a & b" in [text.text for text in root.iter(SVG + "text")]


def test_bars_begin_at_zero_and_rise_with_their_value() -> None:
    root = ElementTree.fromstring(bars("error", [("one", 0.1), ("two", 0.2)]))
    heights = [float(bar.attrib["height"]) for bar in root.iter(SVG + "rect")]
    assert heights[1] == pytest.approx(2 * heights[0], rel=1e-2)


def test_lines_stay_on_the_page() -> None:
    axes = Axis.around("step", [0, 9]), Axis.around("loss", [2.0, 2.0])
    root = ElementTree.fromstring(lines(*axes, [("train", [(0, 2.0), (9, 2.0)])]))
    (line,) = root.iter(SVG + "polyline")
    for pair in line.attrib["points"].split():
        across, down = map(float, pair.split(","))
        assert 0 <= across <= WIDTH
        assert 0 <= down <= HEIGHT


@pytest.mark.parametrize(
    ("axis", "expected"),
    [
        (Axis("a", 0, 1), [0, 0.2, 0.4, 0.6, 0.8, 1.0]),
        (Axis("a", 0.801, 0.823), [0.805, 0.81, 0.815, 0.82]),
        (Axis("a", 3, 60, log=True), [5, 10, 20, 50]),
    ],
)
def test_ticks_are_round_and_within(axis: Axis, expected: list[float]) -> None:
    assert axis.ticks() == pytest.approx(expected)

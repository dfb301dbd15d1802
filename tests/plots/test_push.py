"""The push margin's slider: shares of features, and the same in every position."""

from __future__ import annotations

import pytest

pytest.importorskip("plotly")

from janus.plots.push import ALONE, BINS, PUSHED, push_reach, pushed

COSINES = [-0.2, 0.12, 0.33, 0.62]


def test_shares_count_what_is_above_the_margin() -> None:
    assert [pushed(COSINES, margin) for margin in (0.0, 0.3, 0.62, 1.0)] == [75.0, 50.0, 0.0, 0.0]


def test_the_slider_moves_the_line_the_colours_and_the_shares() -> None:
    figure = push_reach({"without": COSINES, "with": COSINES[:2]}, margin=0.3)
    layout = figure.plotly.layout
    steps = layout.sliders[0].steps
    assert [step.label for step in steps] == [f"{k / BINS:.2f}" for k in range(BINS + 1)]
    assert steps[layout.sliders[0].active].label == "0.30"
    restyle, relayout = steps[10].args  # a margin of one half
    assert relayout["shapes[0].x0"] == relayout["shapes[1].x1"] == 0.5
    assert relayout["annotations[0].text"].endswith("0.50 pushes 25 %")
    assert relayout["annotations[1].text"].endswith("0.50 pushes 0 %")
    assert restyle["marker.color"] == [[ALONE] * 10 + [PUSHED] * 10] * 2
    assert [shape.x0 for shape in layout.shapes] == [0.3, 0.3]
    assert layout.annotations[0].text.endswith("0.30 pushes 50 %")


def test_bars_are_shares_and_a_negative_cosine_is_in_the_first() -> None:
    bars = push_reach({"all": COSINES}).plotly.data[0]
    assert sum(bars.y) == pytest.approx(100.0)
    assert [place for place, share in zip(bars.x, bars.y) if share] == pytest.approx(
        [0.025, 0.125, 0.325, 0.625]
    )


def test_the_static_picture_has_a_row_a_margin() -> None:
    figure = push_reach({"a": COSINES, "b": COSINES}, shown=(0.1, 0.3, 0.5))
    assert len(figure.static.data) == 6 and not figure.static.layout.sliders
    assert [shape.x0 for shape in figure.static.layout.shapes] == [0.1, 0.1, 0.3, 0.3, 0.5, 0.5]
    assert "at 0.50 25 per cent (a), 25 per cent (b)" in figure.alt

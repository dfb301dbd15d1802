"""Figures of the ablation: their numbers are the runs'."""

from __future__ import annotations

from typing import Any

import pytest
from helpers.made_results import results

from janus import plots

ACC = {
    "LoRA": {0: 20.0, 1: 24.0},
    "OE+GR": {0: 22.0, 1: 27.0, 2: 25.0},
    "frozen": {0: 21.0, 1: 24.0},
    "joint": {0: 40.0},
}
ROWS = results(ACC)


def words(figure: Any) -> str:
    """Every text a figure draws."""
    return " | ".join([figure.layout.title.text, *(note.text for note in figure.layout.annotations)])


def test_the_plane_and_the_two_orders_are_of_common_seeds() -> None:
    plane = {trace.name: trace for trace in plots.stability_plasticity(ROWS).plotly.data}
    assert (plane["OE+GR"].x[0], plane["OE+GR"].y[0], plane["frozen"].x[0]) == (2.0, 0.0, 0.0)
    assert "joint" not in plane
    flat = plane["ACC +0"]
    assert flat.y[0] == pytest.approx(-2 * flat.x[0])  # two tasks: ACC = learning + BWT / 2
    beside = plots.paper_beside_ours(ROWS).plotly
    assert list(beside.data[0].x) == [64.24, 74.39]
    titles = {note.text for note in beside.layout.annotations}
    assert {"<b>the paper's, ImageNet-R</b>", "<b>ours, Icons-R</b>"} <= titles


def test_differences_mark_what_is_clear_of_zero() -> None:
    pytest.importorskip("scipy")
    figure = plots.differences(ROWS, [("frozen", "OE+GR"), ("frozen", "joint"), ("frozen", "GPM")])
    assert "one seed" in words(figure.plotly) and "+2.0 ± 12.7" in words(figure.plotly)
    assert "Clear of zero: none" in figure.alt
    assert list(figure.plotly.layout.yaxis.ticktext) == ["frozen → OE+GR", "frozen → joint"]

"""Figures of the lesson on feature separation: their numbers are those put in."""

from __future__ import annotations

from statistics import fmean
from typing import Any

import pytest
import torch

pytest.importorskip("plotly")

from janus import separation
from janus.plots import separation as plots
from janus.plots import task_map

POINTS = [(0.9, 0.2), (0.6, 0.8), (0.4, 0.9), (0.1, 0.5)]


def words(figure: Any) -> str:
    """Every text a figure draws."""
    return " | ".join([figure.layout.title.text, *(note.text for note in figure.layout.annotations)])


def test_cosines_are_to_the_nearest_old_prototype_and_to_the_own_centre() -> None:
    torch.manual_seed(0)
    z, old, own = torch.randn(6, 4), torch.randn(3, 4), torch.randn(2, 4)
    labels = torch.tensor([0, 1, 0, 1, 1, 0])
    points = plots.cosines(3 * z, labels, old, own)
    assert fmean(x for x, _ in points) == pytest.approx(separation.danger(z, old), abs=1e-6)
    expected = torch.nn.functional.cosine_similarity(z, own[labels])
    assert [y for _, y in points] == pytest.approx(expected.tolist(), abs=1e-6)


def test_danger_plot_draws_its_points_and_their_mean() -> None:
    figure = plots.danger_plot({"without": POINTS, "with": POINTS[2:]})
    assert list(zip(figure.plotly.data[0].x, figure.plotly.data[0].y)) == POINTS
    assert "danger 0.500" in words(figure.plotly) and "danger 0.250" in words(figure.plotly)
    notes = {note.text for note in figure.plotly.layout.annotations}
    assert {"without", "with", "danger zone", "ideal zone"} <= notes
    assert plots.share(POINTS, "danger") == 0.5
    assert plots.share(POINTS, "ideal") == plots.share(POINTS, "crowded") == 0.25


def test_the_slider_of_the_map_shows_tasks_up_to_the_new_one() -> None:
    tasks, places = [0, 0, 1, 2], [(0.0, 1.0), (2.0, 3.0), (4.0, 5.0), (6.0, 7.0)]
    figure = task_map({"a": places, "b": places}, tasks, {"a": ["", "x1", "x2"], "b": ["", "y1", "y2"]})
    steps = figure.plotly.layout.sliders[0].steps
    assert [step.label for step in steps] == ["2", "3"]
    restyle, texts = steps[0].args
    assert restyle["visible"] == [True, True, False] * 2
    assert restyle["marker.color"][1] == plots.NEW != restyle["marker.color"][0]
    assert texts["annotations[0].text"].endswith("x1") and texts["annotations[1].text"].endswith("y1")
    assert not figure.static.layout.sliders
    assert len(figure.static.data) == 2 * (2 + 3)  # tasks 2 and 3 of two panels


def test_arrows_start_at_the_points_and_point_down_the_loss() -> None:
    points = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    step = torch.tensor([[0.0, 2.0], [0.0, 0.0]])
    figure = plots.circles({"push": step}, points, points[:1], points[1], length=0.5)
    still, arrows = (
        next(trace for trace in figure.plotly.data if trace.name == name) for name in ("no gradient", "step")
    )
    assert (list(arrows.x[:2]), list(arrows.y[:2])) == ([1.0, 1.0], [0.0, 0.5])
    assert (list(still.x), list(still.y)) == ([0.0], [1.0])
    assert "1 of 2 points move" in figure.alt

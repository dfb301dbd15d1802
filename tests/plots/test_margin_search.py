"""The figure of a search over the margin loss."""

from __future__ import annotations

import pytest

pd = pytest.importorskip("pandas")
pytest.importorskip("plotly")

from janus.bench.paper import DANGER  # noqa: E402
from janus.plots.margin_search import margin_search  # noqa: E402

CELLS = [  # push, pull, danger, own centre, ACC
    (0.3, 0.0, 0.31, 0.47, 69.0),
    (3.0, 0.0, 0.26, 0.43, 66.0),
    (3.0, 0.5, 0.27, 0.50, 67.0),
]
COLUMNS = ("method.loss.push", "method.loss.pull", "danger", "own_similarity", "acc")


def drawn(cells: list[tuple[float, ...]]):
    runs = pd.DataFrame(cells, columns=COLUMNS).assign(**{"method.loss.push_margin": 0.2})
    without = pd.Series({"danger": 0.32, "own_similarity": 0.48, "acc": 69.5})
    return margin_search(runs, without, "what it says")


def test_each_form_stands_in_both_panels_where_its_scores_are() -> None:
    figure = drawn(CELLS)
    left, right = (t for t in figure.plotly.data if t.name == "push 3, pull 0.5")
    assert (left.xaxis, right.xaxis) == ("x", "x2")
    assert (*left.x, *left.y) == (0.27, 0.50)
    assert (*right.x, *right.y) == (0.27, 67.0)
    assert [t.y[0] for t in figure.plotly.data if t.name == "without the loss"] == [0.48, 69.5]
    assert "3 forms" in figure.alt and "ACC 66.0 to 69.0, 69.5 without" in figure.alt


def test_symbols_tell_pushes_and_pulls_apart() -> None:
    shown = [t for t in drawn(CELLS).plotly.data if t.showlegend]
    assert len({t.marker.symbol for t in shown}) == len(shown) == 4
    alone = [t.name for t in drawn(CELLS[:2]).plotly.data if t.showlegend]
    assert alone == ["push 0.3", "push 3", "without the loss"]  # one pull only: not said


def test_the_papers_means_are_an_arrow_and_labelled() -> None:
    arrow, *words = (a for a in drawn(CELLS).plotly.layout.annotations)
    assert ((arrow.ax, arrow.ay), (arrow.x, arrow.y)) == (DANGER["without"], DANGER["with"])
    assert [a.text for a in words] == ["the paper, without", "the paper, with"]

"""What is taken for what: the confusion matrix of a finished run."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import plotly.graph_objects as go

from .figure import FONT, WIDE, Figure

WRITTEN = 20  # classes: numbers in the cells of more could not be read
NAMED = 40  # classes whose names have room at the axes; of more, one sees them by pointing at a cell


def confusion_matrix(
    matrix: Sequence[Sequence[int]], classes: Sequence[str], title: str = "What is taken for what"
) -> Figure:
    """matrix[i][j]: how many images of class i were taken for class j. Drawn is the share of the class's
    images, a row a class; classes without images are left out as rows. Up to 20 classes the counts are
    written in."""
    rows = [i for i, row in enumerate(matrix) if sum(row)]
    shares = [[100 * count / sum(matrix[i]) for count in matrix[i]] for i in rows]
    counts = [list(matrix[i]) for i in rows]
    brightest = max(map(max, shares), default=100)
    x, y = list(range(len(classes))), list(range(len(rows)))
    names = [[(classes[i], classes[j]) for j in x] for i in rows]
    gap = 1 if len(x) <= NAMED else 0
    bar = {"text": "share of the class's images (%)", "side": "right", "font": {"size": FONT}}
    figure = go.Figure(
        go.Heatmap(
            x=x,
            y=y,
            z=shares,
            zmin=0,
            zmax=brightest,
            xgap=gap,
            ygap=gap,
            customdata=[[(*name, count) for name, count in zip(*line)] for line in zip(names, counts)],
            hovertemplate="%{customdata[0]} taken for %{customdata[1]}: %{customdata[2]} images, "
            "%{z:.1f} %<extra></extra>",
            colorbar={"title": bar, "thickness": 18},
        )
    )
    if len(classes) <= WRITTEN:  # all at once: plotly checks every annotation again whenever one is added
        figure.update_layout(annotations=_written(counts, shares, brightest))
    for axis, shown in ((figure.update_xaxes, x), (figure.update_yaxes, rows)):
        places = list(range(len(shown))) if len(shown) <= NAMED else []
        axis(showgrid=False, tickmode="array", tickvals=places, ticktext=[classes[k] for k in shown])
    across = {"text": "taken for", "standoff": 12}
    figure.update_xaxes(title=across, range=[-0.5, len(x) - 0.5], tickangle=-60, automargin=True)
    figure.update_yaxes(title={"text": "class", "standoff": 12}, range=[len(y) - 0.5, -0.5], automargin=True)
    height = max(480, min(1000, 260 + 24 * len(y)))
    figure.update_layout(title=f"{title}: {_right(counts, rows)}", width=WIDE, height=height)
    return Figure(
        figure,
        f"Confusion matrix of {len(rows)} classes in shares of their images. {_told(counts, rows, classes)}",
    )


def _written(
    counts: Sequence[Sequence[int]], shares: Sequence[Sequence[float]], brightest: float
) -> list[dict[str, Any]]:
    """The counts as texts in their cells, white on dark ones; nothing where no image is."""
    texts = []
    for i, line in enumerate(counts):
        for j, count in enumerate(line):
            if count:
                font = {"size": FONT - 2, "color": "white" if shares[i][j] < 0.48 * brightest else "black"}
                texts.append({"text": str(count), "x": j, "y": i, "showarrow": False, "font": font})
    return texts


def _right(counts: Sequence[Sequence[int]], rows: Sequence[int]) -> str:
    return f"{sum(line[i] for i, line in zip(rows, counts))} of {sum(map(sum, counts))} images named rightly"


def _told(counts: Sequence[Sequence[int]], rows: Sequence[int], classes: Sequence[str]) -> str:
    """The accuracy, and the three confusions that are most frequent."""
    wrong = []
    for i, line in zip(rows, counts):
        wrong += [(count, i, j) for j, count in enumerate(line) if count and i != j]
    first = sorted(wrong, reverse=True)[:3]
    most = "; ".join(f"{classes[i]} for {classes[j]} ({count})" for count, i, j in first)
    told = f"{_right(counts, rows).capitalize()}."
    return told + (f" Most frequent confusions: {most}." if most else "")

"""What is taken for what: the confusion matrix of a finished run."""

from __future__ import annotations

from collections.abc import Sequence

import plotly.graph_objects as go

from .figure import FONT, WIDE, Figure

WRITTEN = 20  # classes: numbers in the cells of more could not be read
NAMED = 40  # classes whose names have room at the axes; of more, one sees them by pointing at a cell


def confusion_matrix(
    matrix: Sequence[Sequence[int]], classes: Sequence[str], title: str = "What is taken for what"
) -> Figure:
    """matrix[i][j]: how many images of class i were taken for class j. Drawn is the share of the class's images, a row a class;
    classes without images are left out as rows. Up to 20 classes the counts are written in."""
    rows = [i for i, row in enumerate(matrix) if sum(row)]
    shares = [[100 * count / sum(matrix[i]) for count in matrix[i]] for i in rows]
    counts = [list(matrix[i]) for i in rows]
    brightest = max(map(max, shares), default=100)
    x, y = list(range(len(classes))), list(range(len(rows)))
    names = [[(classes[i], classes[j]) for j in x] for i in rows]
    figure = go.Figure(
        go.Heatmap(
            x=x,
            y=y,
            z=shares,
            zmin=0,
            zmax=brightest,
            xgap=1 if len(x) <= NAMED else 0,
            ygap=1 if len(x) <= NAMED else 0,
            customdata=[[(*name, count) for name, count in zip(*line)] for line in zip(names, counts)],
            hovertemplate="%{customdata[0]} taken for %{customdata[1]}: %{customdata[2]} images, %{z:.1f} %<extra></extra>",
            colorbar={
                "title": {"text": "share of the class's images (%)", "side": "right", "font": {"size": FONT}},
                "thickness": 18,
            },
        )
    )
    if len(classes) <= WRITTEN:  # all at once: plotly checks every annotation again whenever one is added
        figure.update_layout(
            annotations=[
                {
                    "text": str(count),
                    "x": j,
                    "y": i,
                    "showarrow": False,
                    "font": {
                        "size": FONT - 2,
                        "color": "white" if shares[i][j] < 0.48 * brightest else "black",
                    },
                }
                for i, line in enumerate(counts)
                for j, count in enumerate(line)
                if count
            ]
        )
    for axis, shown in ((figure.update_xaxes, x), (figure.update_yaxes, rows)):
        axis(
            showgrid=False,
            tickmode="array",
            tickvals=list(range(len(shown))) if len(shown) <= NAMED else [],
            ticktext=[classes[k] for k in shown],
        )
    figure.update_xaxes(
        title={"text": "taken for", "standoff": 12},
        range=[-0.5, len(x) - 0.5],
        tickangle=-60,
        automargin=True,
    )
    figure.update_yaxes(title={"text": "class", "standoff": 12}, range=[len(y) - 0.5, -0.5], automargin=True)
    figure.update_layout(
        title=f"{title}: {_right(counts, rows)}", width=WIDE, height=max(480, min(1000, 260 + 24 * len(y)))
    )
    return Figure(
        figure,
        f"Confusion matrix of {len(rows)} classes in shares of their images. {_told(counts, rows, classes)}",
    )


def _right(counts: Sequence[Sequence[int]], rows: Sequence[int]) -> str:
    return f"{sum(line[i] for i, line in zip(rows, counts))} of {sum(map(sum, counts))} images named rightly"


def _told(counts: Sequence[Sequence[int]], rows: Sequence[int], classes: Sequence[str]) -> str:
    """The accuracy, and the three confusions that are most frequent."""
    wrong = [
        (count, i, j) for i, line in zip(rows, counts) for j, count in enumerate(line) if count and i != j
    ]
    told = f"{_right(counts, rows).capitalize()}."
    most = "; ".join(
        f"{classes[i]} for {classes[j]} ({count})" for count, i, j in sorted(wrong, reverse=True)[:3]
    )
    return told + (f" Most frequent confusions: {most}." if most else "")

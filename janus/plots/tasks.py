"""Confusion between tasks: for the images of each task, whose head wins."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import TYPE_CHECKING, Any

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from .figure import COLOURS, FONT, SEQUENTIAL, WIDE, Figure

if TYPE_CHECKING:
    from ..data.stream import Stream
    from ..learner import Learner

Shares = Sequence[Sequence[float]]  # [i][j]: per cent of task i's images that the head of task j wins

WRITTEN = 10  # tasks: numbers in the cells of more could not be read
RIGHT, DARK_RIGHT = COLOURS[0], "#A03F00"  # the outline of the right head's cells; darker for words
KEY = (
    f"<b style='color:{DARK_RIGHT}'>□ the right head</b> (not coloured).   "
    "Right of it: heads learned later.   Left of it: heads learned earlier."
)


def winning_heads(learner: Learner, stream: Stream) -> list[list[float]]:
    """Row i, column j: the share (per cent) of task i's evaluation images that the head of task j wins.

    By argmax over all classes, as in the accuracy. The learner has met all tasks of the stream; of one that
    has met `n` of them, give `stream.take(n)`.
    """
    rows = []
    for task in stream.tasks:
        features = learner.features(task.evaluation).to(learner.device)
        best = learner.method.scores(features).argmax(1).tolist()  # N positions in the stream's class order
        rows.append([100 * fmean(p in other.positions for p in best) for other in stream.tasks])
    return rows


def stolen(shares: Shares) -> float:
    """What heads of *later* tasks win of old tasks' images, in per cent: mean over all but the last."""
    return fmean(sum(row[i + 1 :]) for i, row in enumerate(shares[:-1]))


def task_confusion(panels: Mapping[str, Shares], title: str | None = None) -> Figure:
    """A heat map a panel: the images of task i in row i, the heads that win them in columns.

    panels: title → shares [i][j] in per cent, as `winning_heads` returns them. One colour scale for all
    panels, and for the wrong heads only: the right ones, outlined, would outshine them. Up to ten tasks the
    shares are written in.
    """
    wrong = [v for shares in panels.values() for row in _wrong(shares) for v in row if v is not None]
    top = 5 * math.ceil(max(wrong, default=0.0) / 5) or 5
    figure = make_subplots(1, len(panels), subplot_titles=list(panels), horizontal_spacing=0.06)
    for column, shares in enumerate(panels.values(), 1):
        figure.add_trace(_cells(shares), 1, column)
        figure.update_layout(_marks(shares, top, column, figure.layout))
        places = list(range(len(shares)))
        ticks = {"tickvals": places, "ticktext": [t + 1 for t in places], "showgrid": False}
        figure.update_xaxes(
            ticks, title="the head that wins: task …", range=[-0.55, places[-1] + 0.55], col=column
        )
        figure.update_yaxes(ticks, range=[places[-1] + 0.55, -0.55], col=column)
    figure.update_yaxes(title="images of task …", col=1)
    figure.add_annotation(text=KEY, x=0, xref="paper", xanchor="left", xshift=-62, showarrow=False)
    figure.layout.annotations[-1].update(y=1, yref="paper", yanchor="bottom", yshift=32)
    bar = {"thickness": 18, "title": {"text": "what a wrong head wins (%)", "side": "right"}}
    bar["title"]["font"] = {"size": FONT}
    lost = ", ".join(f"{name} {stolen(shares):.0f} %" for name, shares in panels.items() if len(shares) > 1)
    figure.update_layout(
        title={"text": title or f"Images of old tasks that later heads win: {lost}", "y": 0.96},
        coloraxis={"colorscale": SEQUENTIAL, "cmin": 0, "cmax": top, "colorbar": bar},
        height=500,
        width=WIDE,
        margin={"t": 115},
    )
    said = "; ".join(f"{name}: {_told(shares)}" for name, shares in panels.items())
    return Figure(figure, f"Heat maps: of each task's images, the share that each task's head wins. {said}.")


def _wrong(shares: Shares) -> list[list[float | None]]:
    """The shares without the right heads'."""
    return [[None if i == j else share for j, share in enumerate(row)] for i, row in enumerate(shares)]


def _cells(shares: Shares) -> go.Heatmap:
    places = list(range(len(shares)))
    told = [[f"images of task {i + 1}: the head of task {j + 1} wins" for j in places] for i in places]
    heat = [[None if v is None else round(v, 1) for v in row] for row in _wrong(shares)]
    cells = go.Heatmap(x=places, y=places, z=heat, coloraxis="coloraxis", xgap=2, ygap=2, hoverongaps=False)
    return cells.update(customdata=told, hovertemplate="%{customdata} %{z} %<extra></extra>")


def _marks(shares: Shares, top: float, column: int, layout: go.Layout) -> dict[str, Any]:
    """The layout's shapes and annotations, with this panel's outlines and numbers."""
    axes, width = {"xref": f"x{column}", "yref": f"y{column}"}, 4 if len(shares) <= WRITTEN else 2
    outlines, numbers = [], []
    for i, row in enumerate(shares):
        corners = {"x0": i - 0.47, "x1": i + 0.47, "y0": i - 0.47, "y1": i + 0.47}
        outlines.append({"type": "rect", "line": {"color": RIGHT, "width": width}, **corners, **axes})
        for j, share in enumerate(row if len(shares) <= WRITTEN else ()):
            dark = i != j and share < 0.48 * top  # the scale begins dark
            number = {"text": f"{share:.0f}", "x": j, "y": i, "showarrow": False, **axes}
            numbers.append(number | {"font": {"size": FONT, "color": "white" if dark else "black"}})
    return {"shapes": [*layout.shapes, *outlines], "annotations": [*layout.annotations, *numbers]}


def _told(shares: Shares) -> str:
    if len(shares) > WRITTEN:
        return f"{len(shares)} tasks, later heads win {stolen(shares):.0f} per cent of the old ones' images"
    rows = (f"of task {i + 1} {', '.join(f'{v:.0f}' for v in row)}" for i, row in enumerate(shares))
    return f"heads of tasks 1 to {len(shares)}, in per cent: {'; '.join(rows)}"

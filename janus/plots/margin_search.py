"""What a search over the margin loss found: danger against the own centre and against accuracy."""

from __future__ import annotations

from typing import Any

import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from ..bench.paper import DANGER
from .figure import COLOURS, MARKERS, WIDE, Figure
from .separation import GREY

SCORES = {"own_similarity": "cosine to the own class centre", "acc": "ACC, validation (%)"}


def margin_search(runs: pd.DataFrame, without: pd.Series, title: str) -> Figure:
    """Each form of the margin loss as a point: danger on x; own-centre similarity and ACC on y.

    runs: a line a form, with its constants (`method.loss.push`, `.pull`), `danger`, `own_similarity`, `acc`.
    without: the same row with no margin loss, a cross. Left also the paper's two means, an arrow.
    """
    figure = make_subplots(1, 2, horizontal_spacing=0.12)
    forms = dict(iter(runs.groupby(["method.loss.push", "method.loss.pull"])))
    for column, (score, words) in enumerate(SCORES.items(), 1):
        for (push, pull), found in forms.items():
            figure.add_trace(_points(found, score, _look(runs, push, pull)), 1, column)
        cross = {"name": "without the loss", "marker": {"color": "black", "symbol": "x", "size": 13}}
        figure.add_trace(_points(without[["danger", score]].to_frame().T, score, cross), 1, column)
        figure.update_traces(showlegend=column == 1, col=column)
        figure.update_yaxes(title=words, row=1, col=column)
    figure.update_xaxes(title="danger: cosine to the nearest old prototype")
    figure.add_hline(y=without["acc"], line={"color": "black", "dash": "dash", "width": 1.5}, row=1, col=2)
    _paper(figure)
    legend = {"orientation": "h", "y": -0.2, "yanchor": "top", "x": 0.5, "xanchor": "center"}
    figure.update_layout(title=title, width=WIDE, height=560, legend=legend, margin={"b": 150})
    ends = {key: (runs[key].min(), runs[key].max(), without[key]) for key in ("danger", "acc")}
    alt = f"{len(runs)} forms of the margin loss: "
    alt += "danger {:.3f} to {:.3f}, {:.3f} without the loss; ".format(*ends["danger"])
    alt += "ACC {:.1f} to {:.1f}, {:.1f} without. ".format(*ends["acc"])
    alt += f"The paper's danger falls from {DANGER['without'][0]} to {DANGER['with'][0]}."
    return Figure(figure, alt)


def _look(runs: pd.DataFrame, push: float, pull: float) -> dict[str, Any]:
    """A colour and a symbol for each push; open with a pull. The pull is named if the search has several."""
    place = sorted(runs["method.loss.push"].unique()).index(push)
    colour, symbol = COLOURS[place], MARKERS[place]
    named = f", pull {pull:g}" if runs["method.loss.pull"].nunique() > 1 else ""
    edge = {"width": 2 if pull else 0, "color": colour}
    marker = {"color": colour, "symbol": f"{symbol}-open" if pull else symbol, "size": 11, "line": edge}
    return {"name": f"push {push:g}{named}", "marker": marker}


def _points(found: pd.DataFrame, score: str, look: dict[str, Any]) -> go.Scatter:
    """Forms by danger and a score; one entry in the legend for both panels."""
    constants = found.get("method.loss.push_margin")
    margin = "" if constants is None else ", margin %{customdata:g}"
    return go.Scatter(
        x=found["danger"],
        y=found[score],
        mode="markers",
        legendgroup=look["name"],
        customdata=constants,
        hovertemplate=f"{look['name']}{margin}: %{{x:.3f}}, %{{y:.2f}}<extra></extra>",
        **look,
    )


def _paper(figure: go.Figure) -> None:
    """The paper's two means in the left panel, an arrow from the one without the loss to the one with it."""
    (x0, y0), (x1, y1) = DANGER["without"], DANGER["with"]
    ends = {"ax": x0, "ay": y0, "axref": "x", "ayref": "y", "x": x1, "y": y1, "xref": "x", "yref": "y"}
    figure.add_annotation(text="", arrowcolor=GREY, arrowhead=2, arrowwidth=2, **ends)
    label = {"font": {"color": GREY}, "showarrow": False, "row": 1, "col": 1}
    figure.add_annotation(x=x0, y=y0, text="the paper, without", yshift=14, xanchor="right", **label)
    figure.add_annotation(x=x1, y=y1, text="the paper, with", yshift=-14, xanchor="left", **label)

"""What a search over the margin loss found: danger against the own centre and against accuracy."""

from __future__ import annotations

import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from .figure import COLOURS, MARKERS, WIDE, Figure

GREY = "#666666"
PAPER = (
    (0.405, 0.62),
    (0.202, 0.51),
)  # its danger plots: danger, own-centre similarity; without the loss, with
SCORES = {"own_similarity": "cosine to the own class centre", "acc": "ACC, validation (%)"}


def margin_search(runs: pd.DataFrame, without: pd.Series, title: str) -> Figure:
    """Each form of the margin loss as a point: danger on x; own-centre similarity and ACC on y.

    runs: a line a form, with its constants (`method.loss.push`, `.pull`), `danger`, `own_similarity`, `acc`.
    without: the same row with no margin loss, a cross. Left also the paper's two means (`PAPER`), an arrow.
    """
    figure = make_subplots(1, 2, horizontal_spacing=0.12)
    pushes, pulls = (sorted(runs[f"method.loss.{name}"].unique()) for name in ("push", "pull"))
    for column, (score, words) in enumerate(SCORES.items(), 1):
        for i, push in enumerate(pushes):
            for pull in pulls:
                found = runs[(runs["method.loss.push"] == push) & (runs["method.loss.pull"] == pull)]
                if found.empty:
                    continue
                name = f"push {push:g}" + (f", pull {pull:g}" if len(pulls) > 1 else "")
                look = {"color": COLOURS[i], "symbol": f"{MARKERS[i]}{'-open' if pull else ''}", "size": 11}
                look["line"] = {"width": 2, "color": COLOURS[i]} if pull else {"width": 0}
                points = go.Scatter(
                    x=found["danger"],
                    y=found[score],
                    name=name,
                    legendgroup=name,
                    showlegend=column == 1,
                    mode="markers",
                    marker=look,
                    customdata=found["method.loss.push_margin"],
                    hovertemplate=f"{name}, margin %{{customdata:g}}: %{{x:.3f}}, %{{y:.2f}}<extra></extra>",
                )
                figure.add_trace(points, 1, column)
        figure.add_trace(_without(without, score, column == 1), 1, column)
        figure.update_yaxes(title=words, row=1, col=column)
    figure.update_xaxes(title="danger: cosine to the nearest old prototype")
    figure.add_hline(y=without["acc"], line={"color": "black", "dash": "dash", "width": 1.5}, row=1, col=2)
    _paper(figure)
    legend = {"orientation": "h", "y": -0.2, "yanchor": "top", "x": 0.5, "xanchor": "center"}
    figure.update_layout(title=title, width=WIDE, height=560, legend=legend, margin={"b": 150})
    ends = {key: (runs[key].min(), runs[key].max(), without[key]) for key in ("danger", "acc")}
    alt = (
        "{} forms of the margin loss: danger {:.3f} to {:.3f}, {:.3f} without the loss; ".format(
            len(runs), *ends["danger"]
        )
        + "ACC {:.1f} to {:.1f}, {:.1f} without. ".format(*ends["acc"])
        + f"The paper's danger falls from {PAPER[0][0]} to {PAPER[1][0]}."
    )
    return Figure(figure, alt)


def _without(row: pd.Series, score: str, named: bool) -> go.Scatter:
    return go.Scatter(
        x=[row["danger"]],
        y=[row[score]],
        name="without the loss",
        legendgroup="without",
        showlegend=named,
        mode="markers",
        marker={"color": "black", "symbol": "x", "size": 13},
    )


def _paper(figure: go.Figure) -> None:
    """The paper's two means in the left panel, an arrow from the one without the loss to the one with it."""
    (x0, y0), (x1, y1) = PAPER
    arrow = {
        "ax": x0,
        "ay": y0,
        "axref": "x",
        "ayref": "y",
        "showarrow": True,
        "arrowhead": 2,
        "arrowwidth": 2,
    }
    figure.add_annotation(x=x1, y=y1, xref="x", yref="y", arrowcolor=GREY, text="", **arrow)
    words = {"font": {"color": GREY}, "showarrow": False, "row": 1, "col": 1}
    figure.add_annotation(x=x0, y=y0, text="the paper, without", yshift=14, xanchor="right", **words)
    figure.add_annotation(x=x1, y=y1, text="the paper, with", yshift=-14, xanchor="left", **words)

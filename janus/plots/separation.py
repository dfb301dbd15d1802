"""Figures about room between features: the danger plot, the margin loss on a circle and over its margins."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

import plotly.graph_objects as go
import torch
import torch.nn.functional as F
from plotly.subplots import make_subplots
from torch import Tensor

from .figure import COLOURS, WIDE, Figure

DANGER, IDEAL = 0.5, 0.7  # the paper's zones: danger x > 0.5; ideal y > 0.7 and x < 0.5
NEW, OLD, OWN = COLOURS[0], COLOURS[1], COLOURS[2]
GREY = "#666666"
STILL = 1e-6  # a shorter gradient is none
DARK_NEW, DARK_OWN = "#A03F00", "#00664B"  # for words: enough contrast on white and on the zones
Points = Sequence[tuple[float, float]]


# ── what the figures are made of ────────────────────────────────────────────────────────────────────────────


def cosines(z: Tensor, labels: Tensor, old: Tensor, own: Tensor) -> Points:
    """For each feature (N, d) its largest cosine to an old prototype (C, d), and the one to its own centre
    `own[label]`."""
    z = F.normalize(z.float(), dim=-1)
    nearest = (z @ F.normalize(old.float(), dim=-1).T).amax(1)  # (N,)
    centre = (z * F.normalize(own.float(), dim=-1)[labels]).sum(-1)  # (N,)
    return list(zip(nearest.tolist(), centre.tolist()))


# ── the paper's danger plot ─────────────────────────────────────────────────────────────────────────────────


def danger_plot(panels: Mapping[str, Points]) -> Figure:
    """Where new features stand: x = cosine to the nearest old prototype, y = cosine to the own class centre.

    panels: title → a point (x, y) a feature, as `cosines` returns them. The vertical line is the mean of x,
    the danger.
    """
    values = [v for points in panels.values() for point in points for v in point]
    low = min(0.0, *values) - 0.03 if values else 0.0
    layout = dict(subplot_titles=list(panels), horizontal_spacing=0.09, shared_yaxes=True)
    figure = make_subplots(1, len(panels), **layout)
    for column, points in enumerate(panels.values(), 1):
        _zones(figure, low, column)
        features = go.Scatter(
            x=[round(p[0], 4) for p in points],
            y=[round(p[1], 4) for p in points],
            mode="markers",
            showlegend=False,
            marker={"color": OLD, "symbol": "circle", "size": 6, "opacity": 0.6},
            hovertemplate="nearest old prototype %{x:.2f}, own centre %{y:.2f}<extra></extra>",
        )
        figure.add_trace(features, 1, column)
        _danger(figure, fmean(p[0] for p in points), low, column)
        for text, place, anchor, colour in (
            ("danger zone", 1.0, "right", DARK_NEW),
            ("ideal zone", low + 0.02, "left", DARK_OWN),
        ):
            look = {"font": {"color": colour}, "bgcolor": "rgba(255,255,255,0.75)", "showarrow": False}
            figure.add_annotation(text=text, x=place, y=0.975, xanchor=anchor, row=1, col=column, **look)
        figure.update_xaxes(title="cosine to the nearest old prototype", range=[low, 1.02], row=1, col=column)
        figure.update_yaxes(range=[low, 1.02], row=1, col=column)
    figure.update_yaxes(title="cosine to the own class centre", row=1, col=1)
    figure.update_annotations(font_size=16)
    dangers = [f"{name} {fmean(p[0] for p in points):.3f}" for name, points in panels.items()]
    title = f"Danger, the mean of x: {', '.join(dangers)}"
    figure.update_layout(title=title, height=500, width=WIDE, margin={"t": 90, "r": 20})
    said = "; ".join(
        f"{title}: danger {fmean(p[0] for p in points):.3f}, "
        f"{share(points, 'danger'):.0%} in the danger zone, {share(points, 'ideal'):.0%} in the ideal zone"
        for title, points in panels.items()
    )
    return Figure(figure, f"Danger plots of new features, {len(panels)} side by side. {said}.")


def _zones(figure: go.Figure, low: float, column: int) -> None:
    """The danger zone, and the ideal zone with an edge, behind the points of a panel."""
    danger = {"x0": DANGER, "x1": 1.02, "y0": low, "y1": 1.02}
    ideal = {"x0": low, "x1": DANGER, "y0": IDEAL, "y1": 1.02}
    edge = {"color": OWN, "dash": "dot", "width": 2}
    for look in (
        danger | {"fillcolor": NEW, "opacity": 0.13, "line_width": 0},
        ideal | {"fillcolor": OWN, "opacity": 0.16, "line_width": 0},
        ideal | {"line": edge},
    ):
        figure.add_shape(type="rect", layer="below", row=1, col=column, **look)


def _danger(figure: go.Figure, mean: float, low: float, column: int) -> None:
    """The mean cosine to the nearest old prototype: a vertical line in a panel, and the number beside it."""
    ends, line = {"x0": mean, "x1": mean, "y0": low, "y1": 1.02}, {"color": "black", "width": 2.5}
    figure.add_shape(type="line", line=line, row=1, col=column, **ends)
    side = -1 if mean > 0.55 else 1
    figure.add_annotation(
        text=f"<b>danger {mean:.3f}</b>",
        x=mean,
        y=low + 0.05,
        xshift=6 * side,
        showarrow=False,
        xanchor="left" if side > 0 else "right",
        bgcolor="rgba(255,255,255,0.75)",
        row=1,
        col=column,
    )


def share(points: Points, zone: str) -> float:
    """The share of points in a zone: `danger` x > 0.5; `ideal` y > 0.7 and x < 0.5; `crowded` x > y: an old
    prototype is nearer."""
    inside = {
        "danger": lambda x, y: x > DANGER,
        "ideal": lambda x, y: y > IDEAL and x < DANGER,
        "crowded": lambda x, y: x > y,
    }
    return sum(inside[zone](x, y) for x, y in points) / len(points)


# ── the loss on a circle ────────────────────────────────────────────────────────────────────────────────────


def circles(
    steps: Mapping[str, Tensor], points: Tensor, old: Tensor, own: Tensor, length: float = 0.3
) -> Figure:
    """Where a gradient step moves features on the unit circle, one panel a loss.

    steps: title → (N, 2) minus the gradient at `points` (N, 2); old (C, 2), own (2,): unit vectors. An arrow
    of the largest step is `length` long; a point that does not move is a hollow dot.
    """
    figure = make_subplots(1, len(steps), subplot_titles=list(steps), horizontal_spacing=0.02)
    ring = torch.linspace(0, 2 * torch.pi, 73)
    for column, step in enumerate(steps.values(), 1):
        size = step.norm(dim=1)  # (N,)
        moves = size > STILL
        factor = length / float(size.max()) if bool(moves.any()) else 0.0
        circle, grey = torch.stack([ring.cos(), ring.sin()], dim=1), {"color": "#BBBBBB", "width": 1.5}
        figure.add_trace(_quiet(circle, mode="lines", line=grey), 1, column)
        hollow = {"symbol": "circle-open", "color": GREY, "size": 8}
        still = _quiet(points[~moves], mode="markers", name="no gradient", marker=hollow)
        figure.add_trace(still, 1, column)
        figure.add_trace(_steps(points[moves], (points + factor * step)[moves]), 1, column)
        for place in old:
            _prototype(figure, place, "old", column)
        _prototype(figure, own, "own", column)
        window = {"range": [-1.12, 1.12], "visible": False, "row": 1, "col": column}
        figure.update_xaxes(**window)
        figure.update_yaxes(**window, scaleanchor=f"x{column if column > 1 else ''}")
    figure.update_annotations(font_size=16)
    figure.update_layout(
        title="The loss turns features: arrows follow minus the gradient, hollow dots have none",
        height=430,
        width=WIDE,
        margin={"l": 10, "r": 10, "t": 100, "b": 10},
    )
    moving = {title: int((step.norm(dim=1) > STILL).sum()) for title, step in steps.items()}
    said = ", ".join(f"{title}: {moving[title]} of {len(step)} points move" for title, step in steps.items())
    return Figure(
        figure,
        "Unit circles with an old prototype (cross) and the own centre (star), and an arrow at each feature "
        f"for the step down the loss. {said}.",
    )


def _quiet(places: Tensor, **look: Any) -> go.Scatter:
    """Points (N, 2) that the legend and the mouse pass by."""
    x, y = _short(places[:, 0]), _short(places[:, 1])
    return go.Scatter(x=x, y=y, showlegend=False, hoverinfo="skip", **look)


def _steps(starts: Tensor, ends: Tensor) -> go.Scatter:
    """Arrows from starts (N, 2) to ends (N, 2)."""
    x, y, heads = [], [], []
    for (x0, y0), (x1, y1) in zip(map(_short, starts), map(_short, ends)):
        x, y, heads = [*x, x0, x1, None], [*y, y0, y1, None], [*heads, 0, 12, 0]  # only an end has a head
    return go.Scatter(
        x=x,
        y=y,
        mode="lines+markers",
        name="step",
        line={"color": "black", "width": 2},
        marker={"symbol": "arrow", "angleref": "previous", "size": heads, "color": "black"},
        showlegend=False,
        hoverinfo="skip",
    )


def _prototype(figure: go.Figure, place: Tensor, kind: str, column: int) -> None:
    """An old prototype (a cross) or the own centre (a star), with its name inside the circle."""
    colour, dark, symbol = (NEW, DARK_NEW, "x") if kind == "old" else (OWN, DARK_OWN, "star")
    look = {"symbol": symbol, "size": 17, "color": colour, "line": {"color": "white", "width": 1}}
    figure.add_trace(_quiet(place[None], mode="markers", marker=look, name=kind), 1, column)
    x, y = _short(place)
    text, font = f"<b>{kind}</b>", {"color": dark}
    figure.add_annotation(text=text, x=0.74 * x, y=0.74 * y, showarrow=False, font=font, row=1, col=column)


def _short(values: Tensor) -> list[float]:
    """Three digits are enough for a page, and keep it small."""
    return [round(v, 3) for v in values.tolist()]

"""How far a push margin reaches: which features of a trained network the push acts on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from .figure import COLOURS, WIDE, Figure

BINS = 20  # of cosines from 0 to 1; a negative one counts in the first
PUSHED, ALONE, DARK_PUSHED = COLOURS[0], "#BBBBBB", "#A03F00"  # the dark one for words
KEY = (
    f"<b style='color:{DARK_PUSHED}'>orange, striped: pushed</b> (cosine above the margin)   "
    "grey, plain: left alone   black line: the margin"
)
Cosines = Sequence[float]  # of each feature, to its nearest old prototype


def push_reach(
    panels: Mapping[str, Cosines], margin: float = 0.3, shown: Sequence[float] = (0.2, 0.3)
) -> Figure:
    """Histograms of the cosine to the nearest old prototype, and which features a push acts on.

    panels: title → a cosine a feature. A slider moves the push margin, without a kernel; `margin` (a multiple
    of 0.05) is where it begins. The static picture has the margins in `shown`, a row each.
    """
    figure = _grid(panels, [margin])
    steps = []
    for at in (k / BINS for k in range(BINS + 1)):
        looks = [_look(at) for _ in panels]
        restyle = {"marker.color": [look["color"] for look in looks]}
        restyle["marker.pattern.shape"] = [look["pattern"]["shape"] for look in looks]
        relayout: dict[str, Any] = {}
        for i, name in enumerate(panels):
            relayout |= {f"shapes[{i}].x0": at, f"shapes[{i}].x1": at}
            relayout[f"annotations[{i}].text"] = _head(name, panels[name], at)
        steps.append({"method": "update", "label": f"{at:.2f}", "args": [restyle, relayout]})
    slider = {"active": round(margin * BINS), "steps": steps, "currentvalue": {"prefix": "push margin: "}}
    figure.update_layout(sliders=[slider | {"pad": {"t": 70}}], height=590)
    static = _grid(panels, shown)
    static.update_layout(height=190 + 250 * len(shown))
    said = "; ".join(f"at {at:.2f} {_shares(panels, at)}" for at in shown)
    what = "Histograms of new features' cosine to the nearest old prototype; a slider for the push margin"
    return Figure(figure, f"{what}. It pushes {said}.", static)


def pushed(cosines: Cosines, margin: float) -> float:
    """The share of features, in per cent, that a push with this margin acts on."""
    return 100 * fmean(cosine > margin for cosine in cosines)


def _grid(panels: Mapping[str, Cosines], margins: Sequence[float]) -> go.Figure:
    heads = [_head(name, values, at) for at in margins for name, values in panels.items()]
    figure = make_subplots(
        len(margins),
        len(panels),
        subplot_titles=heads,
        shared_yaxes=True,
        horizontal_spacing=0.06,
        vertical_spacing=0.16,
    )
    for row, at in enumerate(margins, 1):
        for column, values in enumerate(panels.values(), 1):
            figure.add_trace(_bars(values, at), row, column)
            figure.add_vline(x=at, line={"color": "black", "width": 3}, row=row, col=column)
    figure.update_xaxes(range=[0, 1.001], dtick=0.2, showgrid=False)
    figure.update_xaxes(title="cosine to the nearest old prototype", row=len(margins))
    figure.update_yaxes(title="features (%)", col=1)
    figure.add_annotation(text=KEY, x=0, xref="paper", xanchor="left", xshift=-62, showarrow=False)
    figure.layout.annotations[-1].update(y=1, yref="paper", yanchor="bottom", yshift=34)
    figure.update_layout(title={"text": "The lower the push margin, the more features it pushes", "y": 0.965})
    return figure.update_layout(width=WIDE, margin={"t": 120}, bargap=0, showlegend=False)


def _bars(cosines: Cosines, margin: float) -> go.Bar:
    counts = [0] * BINS
    for cosine in cosines:
        counts[min(BINS - 1, max(0, int(cosine * BINS)))] += 1
    share = [round(100 * count / len(cosines), 2) for count in counts]
    places = [(k + 0.5) / BINS for k in range(BINS)]
    return go.Bar(
        x=places, y=share, marker=_look(margin), hovertemplate="near %{x:.2f}: %{y:.1f} %<extra></extra>"
    )


def _look(margin: float) -> dict[str, Any]:
    acts = [(k + 0.5) / BINS > margin for k in range(BINS)]
    pattern = {"shape": ["/" if act else "" for act in acts], "size": 6}
    return {
        "color": [PUSHED if act else ALONE for act in acts],
        "pattern": pattern,
        "line": {"color": "white", "width": 1},
    }


def _head(name: str, cosines: Cosines, margin: float) -> str:
    return f"<b>{name}</b>: margin {margin:.2f} pushes {pushed(cosines, margin):.0f} %"


def _shares(panels: Mapping[str, Cosines], margin: float) -> str:
    return ", ".join(f"{pushed(values, margin):.0f} per cent ({name})" for name, values in panels.items())

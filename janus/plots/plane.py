"""Stability against plasticity: what a row learns more than the floor, and what it forgets more."""

from __future__ import annotations

from collections.abc import Mapping
from statistics import fmean, stdev

import pandas as pd
import plotly.graph_objects as go

from ..report.compare import FLOOR, paired
from .figure import WIDE, Figure
from .results import GROUPS, group, legend
from .runs import apart


def stability_plasticity(runs: pd.DataFrame) -> Figure:
    """What a row learns more than `frozen`, and what it forgets more, in the same seeds: one point a row with
    its standard deviations.

    On a grey line ACC (tasks weighing the same) is the same: learning + BWT·(T − 1)/T. Above the black one a
    row beats the floor.
    """
    rows = [row for row in runs["variant"].unique() if row != FLOOR and len(paired(runs, FLOOR, row, "bwt"))]
    tasks = len(runs[runs["variant"] == FLOOR].iloc[0]["accuracy"])
    spots = {row: [paired(runs, FLOOR, row, key).tolist() for key in ("learning_acc", "bwt")] for row in rows}
    means = {row: (fmean(x), fmean(y)) for row, (x, y) in spots.items()} | {FLOOR: (0.0, 0.0)}
    xs, ys = [[m[axis] for m in means.values()] for axis in (0, 1)]
    x_span, y_span = [min(xs) - 1.3, max(xs) + 2.0], [min(ys) - 1.5, max(ys) + 1.2]
    figure = go.Figure()
    _equal_acc(figure, tasks, x_span, y_span)
    for row in [FLOOR, *rows]:
        colour, marker = GROUPS[group(row)]
        x, y = spots.get(row, [[0.0], [0.0]])
        bars = []
        for v in (x, y):
            bars.append({"array": [stdev(v)], "color": colour, "thickness": 1.2} if len(v) > 1 else None)
        figure.add_trace(
            go.Scatter(
                x=[fmean(x)],
                y=[fmean(y)],
                error_x=bars[0],
                error_y=bars[1],
                mode="markers",
                name=row,
                showlegend=False,
                marker={"color": colour, "symbol": marker, "size": 20 if row == FLOOR else 13},
                hovertemplate=f"{row} (n = {len(x)}): %{{x:+.1f}}, %{{y:+.1f}}<extra></extra>",
            )
        )
    _names(figure, means, (x_span[1] - x_span[0], y_span[1] - y_span[0]))
    figure.update_xaxes(title=f"plasticity: learning accuracy minus {FLOOR}'s (points)", range=x_span)
    figure.update_yaxes(title=f"stability: BWT minus {FLOOR}'s (points)", range=y_span)
    zero = {"zeroline": True, "zerolinecolor": "#AAAAAA"}
    figure.update_layout(xaxis=zero, yaxis=zero)
    more = [row for row in rows if means[row][0] > 0]
    worse = sum(means[row][1] < 0 for row in more)
    forget = f"{worse} of these {'forgets' if worse == 1 else 'forget'} more"
    title = f"{len(more)} of {len(rows)} rows learn more than {FLOOR}; {forget}"
    words = f"{legend([FLOOR, *rows])}   bars: ± one standard deviation"
    title = f"{title}<br><span style='font-size:16px'>{words}</span>"
    figure.update_layout(title=title, height=660, width=WIDE, margin={"r": 130, "t": 95})
    said = "; ".join(f"{row} {x:+.1f}, {y:+.1f}" for row, (x, y) in means.items() if row != FLOOR)
    return Figure(
        figure,
        f"Plane of plasticity (learning accuracy minus {FLOOR}'s) and stability (BWT minus {FLOOR}'s), with "
        f"lines of equal ACC. {said}.",
    )


def _equal_acc(figure: go.Figure, tasks: int, x_span: list[float], y_span: list[float]) -> None:
    """Lines along which ACC is the floor's, or some points above or below it."""
    slope = -tasks / (tasks - 1)  # d(bwt) / d(learning) along equal ACC
    for gain in range(-8, 9, 2):
        x0, x1 = sorted(gain + y / slope for y in y_span)
        x0, x1 = max(x0, x_span[0]), min(x1, x_span[1])
        if x0 >= x1:
            continue
        y0, y1 = slope * (x0 - gain), slope * (x1 - gain)
        line = {"color": "#C4C4C4", "width": 1} if gain else {"color": "black", "width": 2}
        figure.add_trace(
            go.Scatter(
                x=[x0, x1],
                y=[y0, y1],
                mode="lines",
                showlegend=False,
                hoverinfo="skip",
                name=f"ACC {gain:+d}",
                line=line,
            )
        )
        figure.add_annotation(
            text=f"ACC {gain:+d}" if gain else "ACC as frozen",
            x=x1,
            y=y1,
            xanchor="left",
            yanchor="bottom" if x1 < x_span[1] else "middle",
            showarrow=False,
            xshift=3,
            font={"color": "#6A6A6A" if gain else "black"},
        )


def _names(figure: go.Figure, means: Mapping[str, tuple[float, float]], size: tuple[float, float]) -> None:
    """Each row's name in its group's colour, with a line to its point. size: of the plane."""
    line = {"showarrow": True, "arrowwidth": 1, "arrowhead": 0, "arrowcolor": "#999999", "standoff": 7}
    for row, x, y, anchor in _labels(means, size):
        figure.add_annotation(
            text=row,
            x=means[row][0],
            y=means[row][1],
            ax=x,
            ay=y,
            axref="x",
            ayref="y",
            xanchor=anchor,
            font={"color": GROUPS[group(row)][0]},
            bgcolor="rgba(255,255,255,0.8)",
            **line,
        )


def _labels(
    means: Mapping[str, tuple[float, float]], size: tuple[float, float]
) -> list[tuple[str, float, float, str]]:
    """Where labels stand, (row, x, y, anchor): left or right of the crowd, a little up, clear of one another
    and of points."""
    middle, gap = sorted(x for x, _ in means.values())[len(means) // 2], 0.062 * size[1]
    out = []
    for left in (True, False):
        side = sorted((y, row) for row, (x, y) in means.items() if (x <= middle) == left)
        for y, (_, row) in zip(apart([y + 0.03 * size[1] for y, _ in side], gap), side):
            own = means[row][0]
            beside = [x for x, height in means.values() if abs(height - y) < gap]
            if left:
                x = min([own, *(x for x in beside if x <= own)]) - 0.06 * size[0]
            else:
                x = max([own, *(x for x in beside if x >= own)]) + 0.06 * size[0]
            out.append((row, x, y, "right" if left else "left"))
    return out

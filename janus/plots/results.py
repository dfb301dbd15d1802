"""Figures about the ablation: rows over seeds, stability against plasticity, the paper's order beside ours."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import fmean, stdev

import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from ..bench.variants import PAPER, PAPER_ROWS
from ..report.compare import FLOOR, interval, paired, spread, values
from .figure import COLOURS, MARKERS, WIDE, Figure
from .runs import apart

GROUPS = {  # what a row trains, and how it is drawn: colour and marker
    "the paper's rows": (COLOURS[1], MARKERS[0]),
    "other methods": (COLOURS[0], MARKERS[1]),
    "floor and ceiling": (COLOURS[6], MARKERS[3]),
}


def _group(row: str) -> str:
    return (
        "the paper's rows"
        if row in PAPER_ROWS
        else "floor and ceiling"
        if row in (FLOOR, "ncm", "joint")
        else "other methods"
    )


def ablation(runs: pd.DataFrame, key: str = "acc", label: str = "ACC (%)") -> Figure:
    """Every row: its seeds as open points, their mean as a filled one, ± one standard deviation; `frozen` as a line."""
    rows = list(runs["variant"].unique())
    figure = go.Figure()
    for i, row in enumerate(rows):
        found = values(runs, row, key)
        if not found:
            continue
        colour, marker = GROUPS[_group(row)]
        figure.add_trace(_seeds(found, i, colour, marker, row))
        error = {"array": [stdev(found)], "color": colour, "thickness": 2} if len(found) > 1 else None
        figure.add_trace(
            go.Scatter(
                x=[fmean(found)],
                y=[i],
                mode="markers",
                error_x=error,
                showlegend=False,
                name=row,
                marker={"color": colour, "symbol": marker, "size": 13},
                hovertemplate=f"{row}, mean of {len(found)}: %{{x:.2f}}<extra></extra>",
            )
        )
        figure.add_annotation(
            text=f"{spread(found)}  (n = {len(found)})",
            x=1.01,
            xref="paper",
            y=i,
            xanchor="left",
            showarrow=False,
            font={"color": colour},
        )
    if FLOOR in rows:
        floor = fmean(values(runs, FLOOR, key))
        figure.add_vline(x=floor, line={"color": "black", "dash": "dash", "width": 1.5})
        figure.add_annotation(
            text=f"{FLOOR} {floor:.1f}", x=floor, y=-1.0, showarrow=False, xanchor="left", xshift=5
        )
    words = "   ".join(
        f"<span style='color:{colour}'>{shape} {name}</span>"
        for (name, (colour, _)), shape in zip(GROUPS.items(), "●■◆")
    )
    figure.update_yaxes(
        tickvals=list(range(len(rows))), ticktext=rows, range=[len(rows) - 0.4, -1.5], showgrid=True
    )
    figure.update_xaxes(title=f"{label} on Icons-R, test; small: each seed, large: mean ± standard deviation")
    figure.update_layout(
        title=f"How far above the floor do the rows stand?<br><span style='font-size:16px'>{words}</span>",
        height=170 + 36 * len(rows),
        width=WIDE,
        margin={"l": 140, "r": 190, "t": 90},
    )
    said = "; ".join(f"{row} {spread(values(runs, row, key))}" for row in rows if values(runs, row, key))
    return Figure(figure, f"Dot plot of {label} over the ablation's rows, each seed a point: {said}.")


def _seeds(found: Sequence[float], y: float, colour: str, marker: str, row: str) -> go.Scatter:
    """A row's seeds as open points."""
    return go.Scatter(
        x=list(found),
        y=[y] * len(found),
        mode="markers",
        showlegend=False,
        name=f"{row}, seeds",
        marker={"color": colour, "symbol": f"{marker}-open", "size": 8, "line": {"width": 1.5}},
        hovertemplate=f"{row}: %{{x:.2f}}<extra></extra>",
    )


def differences(
    runs: pd.DataFrame, pairs: Sequence[tuple[str, str]], key: str = "acc", label: str = "ACC"
) -> Figure:
    """Paired over seeds, second minus first: each seed, the mean, and its 95 % interval; the line is no difference."""
    shown = [(pair, paired(runs, *pair, key).tolist()) for pair in pairs]
    shown = [(pair, found) for pair, found in shown if found]
    figure = go.Figure()
    clear = []
    for i, ((first, second), found) in enumerate(shown):
        mean, half = fmean(found), interval(found)
        sure = abs(mean) > half  # NaN, from a single seed, is never sure
        colour, marker = (COLOURS[0], MARKERS[1]) if sure else (COLOURS[1], MARKERS[0])
        clear += [f"{first} → {second}"] if sure else []
        figure.add_trace(_seeds(found, i, colour, marker, f"{first} → {second}"))
        figure.add_trace(
            go.Scatter(
                x=[mean],
                y=[i],
                mode="markers",
                showlegend=False,
                name=f"{first} → {second}",
                error_x={"array": [half], "color": colour, "thickness": 2} if len(found) > 1 else None,
                marker={"color": colour, "symbol": marker, "size": 13},
                hovertemplate="mean %{x:+.2f}<extra></extra>",
            )
        )
        text = (
            f"{mean:+.1f} ± {half:.1f}  (n = {len(found)})" if len(found) > 1 else f"{mean:+.1f}  (one seed)"
        )
        figure.add_annotation(
            text=text, x=1.01, xref="paper", y=i, xanchor="left", showarrow=False, font={"color": colour}
        )
    figure.add_vline(x=0, line={"color": "black", "width": 1.5})
    words = (
        f"<span style='font-size:16px'><span style='color:{COLOURS[0]}'>■ interval clear of zero</span>   "
        f"<span style='color:{COLOURS[1]}'>● not clear of zero, or one seed</span></span>"
    )
    figure.update_yaxes(
        tickvals=list(range(len(shown))),
        ticktext=[f"{a} → {b}" for (a, b), _ in shown],
        range=[len(shown) - 0.4, -0.6],
        automargin=True,
    )
    figure.update_xaxes(
        title=f"difference in {label} in the same seed (points); bar: 95 % interval of the mean"
    )
    figure.update_layout(
        title=f"Which differences are larger than the seeds' noise?<br>{words}",
        height=170 + 36 * len(shown),
        width=WIDE,
        margin={"l": 210, "r": 200, "t": 90},
    )
    return Figure(
        figure,
        f"Paired differences in {label} over seeds with 95 % intervals for {len(shown)} pairs of rows. "
        f"Clear of zero: {', '.join(clear) or 'none'}.",
    )


def stability_plasticity(runs: pd.DataFrame) -> Figure:
    """What a row learns more than `frozen`, and what it forgets more, in the same seeds: one point a row, ± one standard deviation.

    On a grey line ACC (tasks weighing the same) is the same: learning + BWT·(T − 1)/T. Above the black one a row beats the floor.
    """
    rows = [row for row in runs["variant"].unique() if row != FLOOR and len(paired(runs, FLOOR, row, "bwt"))]
    tasks = len(runs[runs["variant"] == FLOOR].iloc[0]["accuracy"])
    slope = -tasks / (tasks - 1)  # d(bwt) / d(learning) along equal ACC
    spots = {row: [paired(runs, FLOOR, row, key).tolist() for key in ("learning_acc", "bwt")] for row in rows}
    means = {row: (fmean(x), fmean(y)) for row, (x, y) in spots.items()} | {FLOOR: (0.0, 0.0)}
    xs, ys = [[m[axis] for m in means.values()] for axis in (0, 1)]
    x_low, x_high, y_low, y_high = min(xs) - 1.3, max(xs) + 2.0, min(ys) - 1.5, max(ys) + 1.2
    figure = go.Figure()
    for gain in range(-8, 9, 2):
        x0, x1 = sorted(gain + y / slope for y in (y_low, y_high))
        x0, x1 = max(x0, x_low), min(x1, x_high)
        if x0 >= x1:
            continue
        figure.add_trace(
            go.Scatter(
                x=[x0, x1],
                y=[slope * (x0 - gain), slope * (x1 - gain)],
                mode="lines",
                showlegend=False,
                hoverinfo="skip",
                name=f"ACC {gain:+d}",
                line={"color": "black" if gain == 0 else "#C4C4C4", "width": 2 if gain == 0 else 1},
            )
        )
        figure.add_annotation(
            text=f"ACC {gain:+d}" if gain else "ACC as frozen",
            x=x1,
            y=slope * (x1 - gain),
            xanchor="left",
            yanchor="bottom" if x1 < x_high else "middle",
            showarrow=False,
            xshift=3,
            font={"color": "black" if gain == 0 else "#6A6A6A"},
        )
    for row in [FLOOR, *rows]:
        colour, marker = GROUPS[_group(row)]
        x, y = spots.get(row, [[0.0], [0.0]])
        bars = [
            {"array": [stdev(v)], "color": colour, "thickness": 1.2} if len(v) > 1 else None for v in (x, y)
        ]
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
    for row, x, y, anchor in _labels(means, (x_high - x_low, y_high - y_low)):
        figure.add_annotation(
            text=row,
            x=means[row][0],
            y=means[row][1],
            ax=x,
            ay=y,
            axref="x",
            ayref="y",
            xanchor=anchor,
            showarrow=True,
            arrowwidth=1,
            arrowhead=0,
            arrowcolor="#999999",
            standoff=7,
            font={"color": GROUPS[_group(row)][0]},
            bgcolor="rgba(255,255,255,0.8)",
        )
    figure.update_xaxes(
        title=f"plasticity: learning accuracy minus {FLOOR}'s (points)", range=[x_low, x_high]
    )
    figure.update_yaxes(title=f"stability: BWT minus {FLOOR}'s (points)", range=[y_low, y_high])
    figure.update_layout(
        xaxis={"zeroline": True, "zerolinecolor": "#AAAAAA"},
        yaxis={"zeroline": True, "zerolinecolor": "#AAAAAA"},
    )
    figure.update_layout(
        title="Does learning more pay for forgetting more?", height=640, width=WIDE, margin={"r": 130}
    )
    said = "; ".join(f"{row} {x:+.1f}, {y:+.1f}" for row, (x, y) in means.items() if row != FLOOR)
    return Figure(
        figure,
        f"Plane of plasticity (learning accuracy minus {FLOOR}'s) and stability (BWT minus {FLOOR}'s), with "
        f"lines of equal ACC. {said}.",
    )


def _labels(
    means: Mapping[str, tuple[float, float]], size: tuple[float, float]
) -> list[tuple[str, float, float, str]]:
    """Where labels stand, (row, x, y, anchor): left or right of the crowd, a little up, clear of one another and of points."""
    middle, gap = sorted(x for x, _ in means.values())[len(means) // 2], 0.062 * size[1]
    out = []
    for left in (True, False):
        side = sorted((y, row) for row, (x, y) in means.items() if (x <= middle) == left)
        for y, (_, row) in zip(apart([y + 0.03 * size[1] for y, _ in side], gap), side):
            own = means[row][0]
            near = [
                x
                for x, height in means.values()
                if abs(height - y) < gap and (x <= own if left else x >= own)
            ]
            x = min([own, *near]) - 0.06 * size[0] if left else max([own, *near]) + 0.06 * size[0]
            out.append((row, x, y, "right" if left else "left"))
    return out


def paper_beside_ours(runs: pd.DataFrame, metric: str = "acc") -> Figure:
    """The rows that the paper has too, in the paper's order: its value on the left, ours on the right, each on its own scale."""
    column = ("acc", "maa", "bwt").index(metric)
    known = set(runs["variant"])
    rows = sorted((row for row in PAPER if row in known), key=lambda row: PAPER[row][column])
    theirs, ours = [PAPER[row][column] for row in rows], [values(runs, row, metric) for row in rows]
    places, path = list(range(len(rows))), {"color": "#BBBBBB", "width": 1.5}
    figure = make_subplots(
        1,
        2,
        horizontal_spacing=0.06,
        shared_yaxes=True,
        subplot_titles=["<b>the paper's, ImageNet-R</b>", "<b>ours, Icons-R</b>"],
    )
    figure.add_trace(
        go.Scatter(
            x=theirs,
            y=places,
            mode="lines+markers+text",
            text=[f" {v:.1f}" for v in theirs],
            textposition="middle right",
            textfont={"size": 16},
            showlegend=False,
            name="the paper's",
            line=path,
            cliponaxis=False,
            marker={"color": COLOURS[6], "symbol": "diamond", "size": 13},
            hovertemplate="the paper's: %{x:.2f}<extra></extra>",
        ),
        1,
        1,
    )
    figure.add_trace(
        go.Scatter(
            x=[fmean(v) for v in ours],
            y=places,
            mode="lines",
            hoverinfo="skip",
            showlegend=False,
            line=path,
            name="order",
        ),
        1,
        2,
    )
    for i, (row, found) in enumerate(zip(rows, ours)):
        colour, marker = GROUPS[_group(row)]
        figure.add_trace(_seeds(found, i, colour, marker, row), 1, 2)
        figure.add_trace(
            go.Scatter(
                x=[fmean(found)],
                y=[i],
                mode="markers",
                showlegend=False,
                name=row,
                error_x={"array": [stdev(found)], "color": colour} if len(found) > 1 else None,
                marker={"color": colour, "symbol": marker, "size": 13},
                hovertemplate=f"{row}, mean of {len(found)}: %{{x:.2f}}<extra></extra>",
            ),
            1,
            2,
        )
        figure.add_annotation(
            text=f"{spread(found)}  (n = {len(found)})",
            x=1.01,
            xref="paper",
            y=i,
            xanchor="left",
            showarrow=False,
            font={"color": colour},
        )
    if FLOOR in known:
        floor = fmean(values(runs, FLOOR, metric))
        figure.add_vline(x=floor, line={"color": "black", "dash": "dash", "width": 1.5}, row=1, col=2)
        figure.add_annotation(
            text=FLOOR, x=floor, y=len(rows) - 0.45, showarrow=False, xanchor="left", xshift=5, row=1, col=2
        )
    width, name = max(theirs) - min(theirs), f"{metric.upper()} ({'points' if metric == 'bwt' else '%'})"
    figure.update_yaxes(tickvals=places, ticktext=rows, range=[-0.6, len(rows) - 0.2])
    figure.update_xaxes(
        title=f"{name}, ViT-B/16",
        range=[min(theirs) - 0.08 * width, max(theirs) + 0.25 * width],
        row=1,
        col=1,
    )
    figure.update_xaxes(title=f"{name}, ViT of 2.9 M weights", row=1, col=2)
    figure.update_annotations(font_size=16)
    figure.update_layout(
        title="Does our order follow the paper's? (two benchmarks, two scales: compare the order only)",
        height=520,
        width=WIDE,
        margin={"l": 145, "r": 190, "t": 100},
    )
    said = "; ".join(f"{row} {t:.1f} and {spread(o)}" for row, t, o in zip(rows, theirs, ours))
    return Figure(
        figure,
        f"{metric.upper()} of {len(rows)} rows in the paper's order: the paper's on ImageNet-R, and ours on "
        f"Icons-R. {said}.",
    )
